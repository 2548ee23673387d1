"""TeleChat3: Llama whose config has a name of its own for YaRN."""

from __future__ import annotations

from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `telechat3`."""
    bias = config.flag("attention_bias")
    spec = plain_decoder(config, rope=read_rope(config, names={"telechat3-yarn": "yarn"}))
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    return spec.with_ffn(bias=config.flag("mlp_bias"))
