"""GLM-4.5, 4.6 and Air (`glm4_moe`), and Solar Open: half-rotated heads, and DeepSeek's router.

That router has sigmoids as scores, a bias that corrects the choice, and groups of experts; the first
layers are dense, and a shared expert runs for all tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = ExpertNames(shared="mlp.shared_experts.")

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 10_944,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "first_k_dense_replace": 1,
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 1408,
    "norm_topk_prob": True,
}

_SOLAR: dict[str, Any] = {
    **_DEFAULTS,
    "vocab_size": 196_608,
    "num_hidden_layers": 48,
    "num_attention_heads": 64,
    "head_dim": 128,
    "first_k_dense_replace": 0,
    "moe_intermediate_size": 1280,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm4_moe`."""
    config = config.with_defaults(_DEFAULTS)
    rope, sparse = read_rope(config, partial=0.5), first_dense(config)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    norms = HeadNormsSpec(spec.final_norm) if config.flag("use_qk_norm") else None
    spec = spec.with_attention(qkv_bias=config.flag("attention_bias"), norms=norms)
    return spec.with_experts(experts(config, sparse), sparse)


def solar_open(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `solar_open`, which has experts in every layer."""
    config = config.with_defaults(_SOLAR)
    rope = read_rope(config, 1e6, partial=1.0)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    spec = spec.with_attention(qkv_bias=config.flag("attention_bias"))
    return spec.with_experts(experts(config, (True,)))


def first_dense(config: HubConfig) -> tuple[bool, ...]:
    """Per layer, whether it is sparse: all but the first `first_k_dense_replace`."""
    dense = config.integer("first_k_dense_replace", 0, minimum=0)
    return tuple(layer >= dense for layer in range(config.integer("num_hidden_layers")))


def experts(
    config: HubConfig, sparse: Sequence[bool], names: ExpertNames = NAMES
) -> ExpertsSpec | None:
    """DeepSeek's sparse FFN, by its keys; None if no layer is sparse."""
    if not any(sparse):
        return None
    count, size = config.integer("n_routed_experts"), config.integer("moe_intermediate_size")
    chosen = per_token(config, count)
    return ExpertsSpec(
        count=count,
        per_token=chosen,
        ffn_size=size,
        router=grouped_router(config, count, chosen),
        shared_size=size * config.integer("n_shared_experts", 0, minimum=0),
        names=names,
    )


def grouped_router(config: HubConfig, count: int, chosen: int) -> RouterSpec:
    """DeepSeek's router for `chosen` of `count` experts."""
    groups = config.integer("n_group", 1)
    if count % groups or (groups > 1 and count < 2 * groups):
        raise config.wrong("n_group", groups, f"a divisor of the {count} experts, in groups of two")
    chosen_groups = config.integer("topk_group", 1)
    if chosen_groups > groups or chosen > chosen_groups * (count // groups):
        raise config.wrong(
            "topk_group", chosen_groups, f"at most {groups}, with {chosen} experts among them"
        )
    return RouterSpec(
        scores="sigmoid",
        normalised=config.flag("norm_topk_prob"),
        scale=config.number("routed_scaling_factor", 1.0),
        is_corrected=True,
        groups=groups,
        chosen_groups=chosen_groups,
    )
