"""Mistral: Llama with a sliding window in every layer, unless the config says that there is none.

Ministral has windows in the layers that its config names. Mistral Small 3 and Ministral 3 (`mistral3`)
have a vision tower, of whose folder only the text decoder is read.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.models import ministral3
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved text_config leaves out every key whose value is the default.
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131_072,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `mistral`."""
    return plain_decoder(config).with_attention(window=_window(config))


def _window(config: HubConfig) -> int:
    # For transformers an absent key means 4096; only an explicit null means no window.
    return 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)


def ministral(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `ministral`."""
    window, layers = _window(config), config.integer("num_hidden_layers")
    windows = config.windows(window, ["sliding_attention"] * layers)
    return plain_decoder(config).with_windows(windows)


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `mistral3`."""
    text = config.inner("text_config")
    text.require("model_type", ("mistral", "ministral3"), "mistral")
    if text.get("model_type") == "ministral3":
        return text_of(config, ministral3.decoder)
    return text_of(config, decoder, DEFAULTS)
