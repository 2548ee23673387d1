"""dots.llm1: Qwen3's attention, with DeepSeek's router and experts."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.glm4_moe import experts, first_dense
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 4608,
    "intermediate_size": 10_944,
    "num_hidden_layers": 62,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "moe_intermediate_size": 1408,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `dots1`."""
    config = config.with_defaults(_DEFAULTS)
    layers, bias = config.integer("num_hidden_layers"), config.flag("attention_bias")
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)
    last = config.integer("max_window_layers", 62, minimum=0)
    types = ["sliding_attention" if layer >= last else "full_attention" for layer in range(layers)]
    spec, sparse = plain_decoder(config), first_dense(config)
    norms = HeadNormsSpec(spec.final_norm)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)
    spec = spec.with_windows(config.windows(window, types))
    return spec.with_experts(experts(config, sparse), sparse)
