"""Qwen3-MoE: Qwen3 with experts, none of which is shared."""

from __future__ import annotations

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.qwen2_moe import experts, sparse_layers
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_moe`."""
    bias = config.flag("attention_bias")
    # Unlike in Qwen3, every layer has the window.
    sliding = config.flag("use_sliding_window") and not config.is_null("sliding_window")
    window = config.integer("sliding_window", 4096) if sliding else 0
    spec, sparse = plain_decoder(config), sparse_layers(config)
    norms = HeadNormsSpec(spec.final_norm)
    spec = spec.with_attention(window=window, qkv_bias=bias, o_bias=bias, norms=norms)
    found = experts(config, sparse, count=128, chosen=8, ffn_size=768)
    return spec.with_experts(found, sparse)
