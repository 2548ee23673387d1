"""EXAONE 4: norms after attention and FFN and on each head; with windows, full layers do not rotate.

Of a folder with a vision tower (`exaone4_5`, EXAONE 4.5), only the text decoder is read.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.gemma2 import every
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.olmo import NAMES
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved text_config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 102_400,
    "hidden_size": 4096,
    "intermediate_size": 16_384,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 2048,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `exaone4`."""
    config = config.with_defaults(_DEFAULTS)
    windows = _windows(config)
    spec = plain_decoder(config, norm=NormSpec(eps=1e-5), names=NAMES)
    spec = spec.with_all_layers(pre_norms=False, post_norms=True).with_windows(windows)
    spec = spec.with_attention(norms=HeadNormsSpec(spec.final_norm))
    return spec.without_rope([not window and any(windows) for window in windows])


def _windows(config: HubConfig) -> tuple[int, ...]:
    """Each layer's window, 0 for none: by `layer_types`, else all but every fourth have one."""
    layers = config.integer("num_hidden_layers")
    if config.is_null("sliding_window"):
        return (0,) * layers
    window = config.integer("sliding_window", 4096)
    if "layer_types" in config:
        return config.windows(window, [])
    return config.windows(window, every(config.integer("sliding_window_pattern", 4), layers))


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `exaone4_5`."""
    # The first folders call the text exaone4_5_text.
    config.inner("text_config").require("model_type", ("exaone4", "exaone4_5_text"), "exaone4")
    return text_of(config, decoder)
