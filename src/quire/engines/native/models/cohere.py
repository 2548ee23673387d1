"""Command R, R+, R7B, A and Aya: attention and FFN read one layer norm, and logits are scaled."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models.gemma2 import every
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `cohere`: Command R, R+, Aya 23."""
    spec = _cohere(config, default_theta=500_000.0)
    if not config.flag("use_qk_norm"):
        return spec
    return spec.with_attention(norms=HeadNormsSpec(spec.final_norm, span="each_head"))


def cohere2(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `cohere2`: Command R7B, Command A.

    Three of four layers have a window; the fourth has none, and no rotary embedding either.
    """
    types = every(config.integer("sliding_window_pattern", 4), config.integer("num_hidden_layers"))
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)
    windows = config.windows(window, types)
    spec = _cohere(config, default_theta=10_000.0).with_windows(windows)
    return spec.without_rope([not window for window in windows])


def _cohere(config: HubConfig, default_theta: float) -> DecoderSpec:
    config = config.with_defaults({"tie_word_embeddings": True})
    bias, scale = config.flag("attention_bias"), config.number("logit_scale", 0.0625)
    rope, norm = read_rope(config, default_theta, interleaved=True), NormSpec("layer", eps=1e-5)
    spec = plain_decoder(config, rope=rope, norm=norm, eps_key="layer_norm_eps")
    spec = spec.with_all_layers(flow="parallel_one_norm")
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    return replace(spec, head=replace(spec.head, scale=scale))
