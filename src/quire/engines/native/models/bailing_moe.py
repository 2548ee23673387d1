"""Ling 2.0 (`bailing_moe`, `bailing_moe_v2`): half-rotated heads with norms, and DeepSeek's router."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.glm4_moe import experts, first_dense
from quire.engines.native.models.layers.attention import AttentionNames, HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = WeightNames(embeddings="model.word_embeddings.weight")
_ATTENTION_NAMES = AttentionNames(
    qkv="attention.query_key_value",
    o="attention.dense",
    q_norm="attention.query_layernorm",
    k_norm="attention.key_layernorm",
)
_EXPERT_NAMES = ExpertNames(correction="mlp.gate.expert_bias", shared="mlp.shared_experts.")

# The keys of this model type, and DeepSeek's, by which `experts` reads them.
_KEYS = {"n_routed_experts": "num_experts", "n_shared_experts": "num_shared_experts"}

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 157_184,
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "num_hidden_layers": 20,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32_768,
    "rope_theta": 600_000.0,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
    "n_group": 8,
    "topk_group": 4,
    "routed_scaling_factor": 2.5,
    "norm_topk_prob": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `bailing_moe_v2`, or `bailing_moe` as Ling 2.0 has it."""
    if config.get("model_type") == "bailing_moe":  # Ling 1 says so, too, and has another router
        two = ["BailingMoeV2ForCausalLM"]
        config.require("architectures", (two,), None)
    config = config.with_defaults(_DEFAULTS)
    config.require("moe_router_enable_expert_bias", (True,), True)
    config.require("norm_head", (False,), False)
    config.require("norm_topk_prob", (True,), True)
    config.require("score_function", ("sigmoid",), "sigmoid")
    config.require("use_qk_norm", (True,), True)
    size = config.integer("moe_intermediate_size")
    config.require("moe_shared_expert_intermediate_size", (size,), size)
    config = config.with_changes({key: config.get(own) for key, own in _KEYS.items()})
    spec = plain_decoder(config, rope=read_rope(config, partial=1.0), names=_NAMES)
    spec = spec.with_attention(
        qkv_bias=config.flag("use_qkv_bias"),
        o_bias=config.flag("use_bias"),
        norms=HeadNormsSpec(spec.final_norm),
        names=_ATTENTION_NAMES,
    )
    sparse = first_dense(config)
    return spec.with_experts(experts(config, sparse, _EXPERT_NAMES), sparse)
