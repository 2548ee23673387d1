"""Models of text and images, read for their text decoder alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

SPELLINGS = (
    ("language_model.model.model.", "model."),  # Qwen2-Audio of some transformers 5
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
"""The decoder's names in a folder: as before transformers 4.52 (and on the hub), and since then."""


def text_of(
    config: HubConfig,
    decoder: Callable[[HubConfig], DecoderSpec],
    defaults: dict[str, Any] | None = None,
) -> DecoderSpec:
    """The spec of `text_config`. What it leaves out is as in `defaults`."""
    text = config.inner("text_config").with_defaults(defaults or {})
    tied = config.get("tie_word_embeddings")  # transformers looks at the outer one
    if tied is not None:
        text = HubConfig({"tie_word_embeddings": tied}, text.source).with_defaults(text.values)
    spec = decoder(text)
    names = dataclasses.replace(spec.names, spellings=SPELLINGS)
    return dataclasses.replace(spec, model_type=config.get("model_type"), names=names)
