"""MiniMax-M2: partly rotated heads, norms over all heads, and experts that are chosen by sigmoids."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = ExpertNames(
    router="block_sparse_moe.gate",
    correction="block_sparse_moe.e_score_correction_bias",
    fused_correction="mlp.e_score_correction_bias",
    experts="block_sparse_moe.experts.{}.",
    gate="w1",
    up="w3",
    down="w2",
)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 200_064,
    "hidden_size": 3072,
    "intermediate_size": 1536,
    "num_hidden_layers": 62,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 196_608,
    "num_local_experts": 256,
    "num_experts_per_tok": 8,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `minimax_m2`."""
    config = config.with_defaults(_DEFAULTS)
    layers = config.integer("num_hidden_layers")
    # What folders on the hub say besides, of which one kind is known.
    config.require("attn_type_list", ([1] * layers,), [1] * layers)
    config.require("qk_norm_type", ("per_layer",), "per_layer")
    config.require("scoring_func", ("sigmoid",), "sigmoid")
    config.require("shared_intermediate_size", (0,), 0)
    config.require("use_qk_norm", (True,), True)
    config.require("use_routing_bias", (True,), True)
    count = config.integer("num_local_experts")
    experts = ExpertsSpec(
        count=count,
        per_token=per_token(config, count),
        ffn_size=config.integer("intermediate_size"),
        router=RouterSpec(scores="sigmoid", normalised=True, is_corrected=True),
        names=_NAMES,
    )
    spec = plain_decoder(config, rope=read_rope(config, 5e6, partial=_share(config)))
    spec = spec.with_attention(norms=HeadNormsSpec(spec.final_norm, span="width"))
    return spec.with_experts(experts)


def _share(config: HubConfig) -> float:
    """The share of a head that is rotated, which folders on the hub give as a number of dimensions."""
    size = config.integer("head_dim")
    rotated = config.integer("rotary_dim", size)
    if rotated > size:
        raise config.wrong("rotary_dim", rotated, f"at most the {size} dimensions of a head")
    return rotated / size
