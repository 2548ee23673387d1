"""Hunyuan-A13B (`hunyuan_v1_moe`): norms of heads after the rotary embedding, and experts in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.engines.native.models.hunyuan import NAMES
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_EXPERT_NAMES = ExpertNames(
    router="mlp.gate.wg", fused_router="mlp.gate.wg", shared="mlp.shared_mlp."
)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 290_943,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_experts": 1,
    "moe_topk": 1,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `hunyuan_v1_moe`."""
    config = _without_lists(config.with_defaults(_DEFAULTS))
    config.require("use_cla", (False,), False)
    config.require("use_qk_norm", (True,), True)
    bias = config.flag("attention_bias")
    spec = plain_decoder(config, rope=read_alpha_rope(config), norm=NormSpec(eps=1e-5))
    norms = HeadNormsSpec(spec.final_norm, after_rope=True)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms, names=NAMES)
    return spec.with_experts(_experts(config))


def _experts(config: HubConfig) -> ExpertsSpec:
    size, count = config.integer("intermediate_size"), config.integer("num_experts")
    # transformers gives all experts, and one that is shared, the size of a dense FFN.
    config.require("moe_intermediate_size", (size,), size)
    config.require("num_shared_expert", (1,), 1)
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, key="moe_topk"),
        ffn_size=size,
        router=RouterSpec(normalised=True),
        shared_size=size,
        names=_EXPERT_NAMES,
    )


def _without_lists(config: HubConfig) -> HubConfig:
    """The config with one number where there is a list with the same number for each layer."""
    changes: dict[str, Any] = {}
    for key in ("num_experts", "moe_topk", "moe_intermediate_size", "num_shared_expert"):
        values = config.get(key)
        if isinstance(values, list):
            if not values or any(one != values[0] for one in values):
                raise config.wrong(key, values, "one number, the same for all layers")
            changes[key] = values[0]
    return config.with_changes(changes)


def read_alpha_rope(config: HubConfig) -> RopeSpec:
    """The rotary embedding; "dynamic" with an `alpha` means a larger base for texts of any length."""
    for key in ("rope_scaling", "rope_parameters"):
        values = config.get(key)
        if not isinstance(values, Mapping):
            continue
        inner = HubConfig(values, f"{config.source}: {key}")
        kind = inner.get("rope_type") or inner.get("type")
        if kind == "dynamic" and "alpha" in inner:
            size = config.integer(
                "head_dim", config.integer("hidden_size") // config.integer("num_attention_heads")
            )
            theta = inner.number("rope_theta", config.number("rope_theta", 10_000.0))
            theta *= inner.number("alpha", 1.0) ** (size / (size - 2))
            config = config.with_changes({key: {"rope_type": "default", "rope_theta": theta}})
    return read_rope(config)
