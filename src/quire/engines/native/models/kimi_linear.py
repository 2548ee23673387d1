"""Kimi Linear: Kimi Delta Attention in most layers, latent attention that rotates nothing in the others.

All layers but the first have experts, as DeepSeek V3's.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.glm4_moe import experts, first_dense
from quire.engines.native.models.latent import latent
from quire.engines.native.models.layers.delta_net import TAPS, DeltaNetNames, KimiDeltaSpec
from quire.engines.native.models.layers.experts import ExpertNames
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 163_840,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_hidden_layers": 27,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.446,
    "max_position_embeddings": 1_048_576,
    "first_k_dense_replace": 1,
}
# What its configs call DeepSeek's keys.
_OWN_NAMES = {
    "model_max_length": "max_position_embeddings",
    "moe_renormalize": "norm_topk_prob",
    "num_expert_group": "n_group",
    "num_experts": "n_routed_experts",
    "num_experts_per_token": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
}
_EXPERT_NAMES = ExpertNames(
    router="block_sparse_moe.gate",
    correction="block_sparse_moe.gate.e_score_correction_bias",
    experts="block_sparse_moe.experts.{}.",
    gate="w1",
    up="w3",
    down="w2",
    shared="block_sparse_moe.shared_experts.",
    shared_gate="gate_proj",
    shared_up="up_proj",
    shared_down="block_sparse_moe.shared_experts.down_proj",
)
_DELTA_NAMES = DeltaNetNames(
    q="self_attn.q_proj",
    k="self_attn.k_proj",
    v="self_attn.v_proj",
    z="self_attn.g_a_proj",
    rate="self_attn.b_proj",
    decay="self_attn.f_a_proj",
    o="self_attn.o_proj",
    q_conv="self_attn.q_conv1d",
    k_conv="self_attn.k_conv1d",
    v_conv="self_attn.v_conv1d",
    log_decay="self_attn.A_log",
    step_bias="self_attn.dt_bias",
    norm="self_attn.o_norm",
    z_b="self_attn.g_b_proj",
    decay_b="self_attn.f_b_proj",
)
_DELTA, _ATTENTION = "linear_attention", "full_attention"


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `kimi_linear`."""
    own = {name: config.get(key) for key, name in _OWN_NAMES.items() if key in config}
    config = config.with_changes(own).with_defaults(_DEFAULTS)
    config.require("mla_use_nope", (True,), True)
    config.require("moe_layer_freq", (1,), 1)
    config.require("moe_router_activation_func", ("sigmoid",), "sigmoid")
    sparse = _sparse_layers(config)
    found = latent(config, norm=NormSpec(eps=1e-5)).without_rope()
    net, types = _delta(config), _layer_types(config)
    found = found.with_mixers([net if kind == _DELTA else None for kind in types])
    return found.with_experts(experts(config, sparse, _EXPERT_NAMES), sparse)


def _linear(config: HubConfig) -> dict[str, Any]:
    """What configs of the publisher say of the delta attention, in a part of their own."""
    part = config.get("linear_attn_config", {})
    if not isinstance(part, dict):
        raise config.wrong("linear_attn_config", part, "an object")
    return part


def _delta(config: HubConfig) -> KimiDeltaSpec:
    part = _linear(config)
    given = {
        "linear_head_dim": part.get("head_dim"),
        "linear_num_heads": part.get("num_heads"),
        "linear_conv_kernel_dim": part.get("short_conv_kernel_size"),
    }
    config = config.with_changes({key: one for key, one in given.items() if one is not None})
    config.require("linear_conv_kernel_dim", (TAPS,), TAPS)
    heads, size = config.integer("linear_num_heads", 32), config.integer("linear_head_dim", 128)
    eps = config.number("rms_norm_eps", 1e-5)
    return KimiDeltaSpec(heads, heads, size, size, eps, names=_DELTA_NAMES)


def _sparse_layers(config: HubConfig) -> tuple[bool, ...]:
    layers, types = config.integer("num_hidden_layers"), config.get("mlp_layer_types")
    if types is None:
        return first_dense(config)
    known = ("dense", "sparse")
    if not isinstance(types, list) or len(types) != layers or not all(t in known for t in types):
        raise config.wrong("mlp_layer_types", types, f"{layers} of {', '.join(known)}")
    return tuple(one == "sparse" for one in types)


def _layer_types(config: HubConfig) -> list[str]:
    """For each layer which of both it is; the publisher numbers those with attention, from 1."""
    layers, types = config.integer("num_hidden_layers"), config.get("layer_types")
    known = (_DELTA, _ATTENTION)
    if types is None:
        full = _linear(config).get("full_attn_layers")
        if full is None:
            full = [layer + 1 for layer in range(4, layers, 4)]
        if not isinstance(full, list) or not all(type(one) is int for one in full):
            raise config.wrong("linear_attn_config", full, "an object with lists of layers")
        return [_ATTENTION if layer + 1 in full else _DELTA for layer in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not all(t in known for t in types):
        raise config.wrong("layer_types", types, f"{layers} of {', '.join(known)}")
    return types
