"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and windows in some layers."""

from __future__ import annotations

from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen2`."""
    return plain_decoder(config).with_windows(windows(config)).with_attention(qkv_bias=True)


def windows(config: HubConfig) -> tuple[int, ...]:
    """Each layer's window, 0 for none: by `layer_types`, else for layers from `max_window_layers` on."""
    layers = config.integer("num_hidden_layers")
    if not config.flag("use_sliding_window"):
        return (0,) * layers
    window = config.integer("sliding_window", 4096)
    first = config.integer("max_window_layers", 28, minimum=0)
    by_index = ["sliding_attention" if n >= first else "full_attention" for n in range(layers)]
    return config.windows(window, by_index)
