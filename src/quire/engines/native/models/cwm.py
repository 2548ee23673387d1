"""CWM (Code World Model): Llama 3.1 with windows in three of four layers."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 128_256,
    "hidden_size": 6144,
    "intermediate_size": 21_504,
    "num_hidden_layers": 64,
    "num_attention_heads": 48,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
}
_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `cwm`."""
    config = config.with_defaults(_DEFAULTS)
    if "rope_scaling" not in config and "rope_parameters" not in config:
        config = config.with_changes({"rope_parameters": _ROPE})
    layers = config.integer("num_hidden_layers")
    types = ["sliding_attention" if layer % 4 else "full_attention" for layer in range(layers)]
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 8192)
    spec = plain_decoder(config, rope=read_rope(config, 1_000_000.0), norm=NormSpec(eps=1e-5))
    spec = spec.with_windows(config.windows(window, types))
    return spec.with_ffn(bias=config.flag("mlp_bias"))
