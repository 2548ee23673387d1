"""Command R, R+, R7B, A and Aya: attention and FFN read one layer norm, and logits are scaled."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.classic import no_windows
from quire.engines.native.models.gemma2 import every
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `cohere`: Command R, R+, Aya 23."""
    norms = config.flag("use_qk_norm")
    return DecoderSpec(
        **_fields(config, default_theta=500_000.0),
        windows=no_windows(config),
        head_norms=norms,
        separate_head_norms=norms,
    )


def cohere2(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `cohere2`: Command R7B, Command A.

    Three of four layers have a window; the fourth has none, and no rotary embedding either.
    """
    types = every(config.integer("sliding_window_pattern", 4), config.integer("num_hidden_layers"))
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)
    windows = config.windows(window, types)
    return DecoderSpec(
        **_fields(config, default_theta=10_000.0),
        windows=windows,
        no_rope=tuple(layer for layer, window in enumerate(windows) if not window),
    )


def _fields(config: HubConfig, default_theta: float) -> dict[str, Any]:
    config = config.with_defaults({"tie_word_embeddings": True})
    bias = config.flag("attention_bias")
    rope = read_rope(config, default_theta)
    return common(config, rope=rope, norm_eps=1e-5, eps_key="layer_norm_eps") | {
        "norm_kind": "layer",
        "parallel": True,
        "shared_norm": True,
        "qkv_bias": bias,
        "o_bias": bias,
        "interleaved_rope": True,
        "logits_scale": config.number("logit_scale", 0.0625),
    }
