"""Qwen3-MoE: Qwen3 with experts, none of which is shared."""

from __future__ import annotations

from quire.engines.native.models.llama import common
from quire.engines.native.models.qwen2_moe import experts
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_moe`."""
    bias = config.flag("attention_bias")
    # Unlike in Qwen3, every layer has the window.
    sliding = config.flag("use_sliding_window") and not config.is_null("sliding_window")
    window = config.integer("sliding_window", 4096) if sliding else 0
    return DecoderSpec(
        **common(config),
        windows=(window,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        head_norms=True,
        experts=experts(config, count=128, chosen=8, ffn_size=768),
    )
