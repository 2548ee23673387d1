"""Mistral: Llama with a sliding window over every layer, where the config gives one."""

from __future__ import annotations

from quire.native.models.config import HubConfig
from quire.native.models.llama import common
from quire.native.models.spec import DecoderSpec


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `mistral`."""
    # An absent key means 4096 to transformers; only an explicit null means no window.
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)
    return DecoderSpec(**common(config), windows=(window,) * config.integer("num_hidden_layers"))
