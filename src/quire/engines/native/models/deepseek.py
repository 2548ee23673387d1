"""DeepSeek V2, V3, R1, V3.1, and models of their form: latent attention, and experts in groups.

Kimi K2 and Moonlight have V3's; GLM-4.7-Flash too, with other defaults.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.engines.native.models.glm4_moe import experts, first_dense
from quire.engines.native.models.latent import latent
from quire.engines.native.models.layers.experts import RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_V2: dict[str, Any] = {
    "vocab_size": 102_400,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1407,
    "topk_method": "greedy",
}

_V3: dict[str, Any] = {
    "vocab_size": 129_280,
    "hidden_size": 7168,
    "intermediate_size": 18_432,
    "num_hidden_layers": 61,
    "num_attention_heads": 128,
    "max_position_embeddings": 4096,
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
}

_GLM: dict[str, Any] = {
    **_V3,
    "vocab_size": 154_880,
    "hidden_size": 2048,
    "intermediate_size": 10_240,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "max_position_embeddings": 202_752,
    "q_lora_rank": 768,
    "qk_nope_head_dim": 192,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.8,
}


def v2(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `deepseek_v2`: softmax as scores, no corrections."""
    config = config.with_defaults(_V2)
    config.require("topk_method", ("greedy", "group_limited_greedy"), "greedy")
    config.require("norm_topk_prob", (False, None), False)
    in_groups = config.get("topk_method") == "group_limited_greedy"
    # Without groups their numbers are null, or say nothing.
    grouped = config if in_groups else config.with_changes({"n_group": 1, "topk_group": 1})
    sparse = first_dense(config)
    found = experts(grouped, sparse)
    if found is not None:
        router = RouterSpec(
            scale=found.router.scale,
            groups=found.router.groups,
            chosen_groups=found.router.chosen_groups,
            group_score="best",
        )
        found = replace(found, router=router)
    return latent(config, interleaved=True).with_experts(found, sparse)


def v3(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `deepseek_v3`, or another that says the same."""
    config = config.with_defaults(_V3)
    spec, sparse = latent(config, interleaved=_interleaves(config)), first_dense(config)
    return spec.with_experts(experts(config, sparse), sparse)


def glm4_moe_lite(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm4_moe_lite`: it says of each layer whether it is sparse."""
    config = config.with_defaults(_GLM)
    layers = config.integer("num_hidden_layers")
    types = config.get("mlp_layer_types", ["dense"] + ["sparse"] * (layers - 1))
    if not isinstance(types, list) or len(types) != layers or not {*types} <= {"dense", "sparse"}:
        raise config.wrong("mlp_layer_types", types, f"'dense' or 'sparse' for {layers} layers")
    sparse = tuple(one == "sparse" for one in types)
    spec = latent(config, interleaved=_interleaves(config), norm=NormSpec(eps=1e-5))
    return spec.with_experts(experts(config, sparse), sparse)


def _interleaves(config: HubConfig) -> bool:
    return config.flag("rope_interleave", True)
