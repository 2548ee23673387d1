"""gpt-oss: experts in every layer, biases everywhere, attention sinks, and windows in every other layer."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_NAMES = ExpertNames(
    router="mlp.router",
    fused_router="mlp.router",
    always_fused=True,
    fused_transposed=True,
    fused_interleaved=True,
)
_ROPE = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 201_088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 36,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
    "rope_theta": 150_000.0,
    "attention_bias": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gpt_oss`."""
    if "rope_parameters" not in config and "rope_scaling" not in config:
        config = config.with_defaults({"rope_parameters": _ROPE})
    config = config.with_defaults(_DEFAULTS)
    # The activation is no matter of `hidden_act`, which says silu; these two are in its kernel.
    config.require("swiglu_alpha", (1.702,), 1.702)
    config.require("swiglu_limit", (7, 7.0), 7.0)
    layers, bias = config.integer("num_hidden_layers"), config.flag("attention_bias")
    alternating = [
        "full_attention" if layer % 2 else "sliding_attention" for layer in range(layers)
    ]
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 128)
    norm = NormSpec(eps=1e-5)
    spec = plain_decoder(config, head_dim=64, activation="clamped_swiglu", norm=norm)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, sinks=True)
    spec = spec.with_windows(config.windows(window, alternating))
    return spec.with_experts(_experts(config))


def _experts(config: HubConfig) -> ExpertsSpec:
    count = config.integer("num_local_experts", 128)
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 4),
        ffn_size=config.integer("intermediate_size"),
        router=RouterSpec(normalised=True),
        biases=True,
        names=_NAMES,
    )
