"""OLMoE: Llama with experts, and norms over all query heads together and all key heads together."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmoe`."""
    config.require("clip_qkv", (None,), None)
    bias, count = config.flag("attention_bias"), config.integer("num_experts", 64)
    experts = ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 8),
        ffn_size=config.integer("intermediate_size"),
        router=RouterSpec(normalised=config.flag("norm_topk_prob")),
    )
    spec = plain_decoder(config, norm=NormSpec(eps=1e-5))
    norms = HeadNormsSpec(spec.final_norm, span="width")
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)
    return spec.with_experts(experts)
