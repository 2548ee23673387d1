"""What models with a tower have in common: their text decoder is in `text_config`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

PREFIX_MAP = (
    (
        "language_model.model.model.",
        "model.",
    ),  # Qwen2-Audio as some versions of transformers 5 write it
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("model.language_model.", "model."),
)
"""Prefixes of the decoder's tensors in a folder, and the prefixes that a decoder alone has.

The first were written before transformers 4.52, and are used on the hub; the last are written since.
"""


def text_of(
    config: HubConfig,
    decoder: Callable[[HubConfig], DecoderSpec],
    defaults: dict[str, Any] | None = None,
) -> DecoderSpec:
    """The spec of `text_config`, whose absent keys have the values of `defaults`."""
    text = config.inner("text_config").with_defaults(defaults or {})
    tied = config.get("tie_word_embeddings")  # transformers reads the outer one
    if tied is not None:
        text = HubConfig({"tie_word_embeddings": tied}, text.source).with_defaults(text.values)
    spec = decoder(text)
    names = dataclasses.replace(spec.names, prefix_map=PREFIX_MAP)
    return dataclasses.replace(spec, model_type=config.get("model_type"), names=names)
