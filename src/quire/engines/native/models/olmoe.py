"""OLMoE: Llama with experts, and norms over all query heads together and all key heads together."""

from __future__ import annotations

from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.llama import common
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmoe`."""
    config.require("clip_qkv", (None,), None)
    layers, bias = config.integer("num_hidden_layers"), config.flag("attention_bias")
    count = config.integer("num_experts", 64)
    return DecoderSpec(
        **common(config, norm_eps=1e-5),
        windows=(0,) * layers,
        qkv_bias=bias,
        o_bias=bias,
        width_norms=True,
        experts=ExpertsSpec(
            count=count,
            per_token=per_token(config, count, 8),
            ffn_size=config.integer("intermediate_size"),
            sparse=(True,) * layers,
            router=RouterSpec(normalised=config.flag("norm_topk_prob")),
        ),
    )
