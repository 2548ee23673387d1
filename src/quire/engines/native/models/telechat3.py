"""TeleChat3: Llama whose config has a name of its own for YaRN."""

from __future__ import annotations

from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `telechat3`."""
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config, rope=read_rope(config, names={"telechat3-yarn": "yarn"})),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=config.flag("mlp_bias"),
    )
