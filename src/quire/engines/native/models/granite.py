"""Granite 3: Llama with multipliers for embeddings, attention, the residual stream and logits."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models import llama
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `granite`."""
    return dataclasses.replace(llama.decoder(config), **multipliers(config))


def multipliers(config: HubConfig) -> dict[str, Any]:
    """The fields of a spec that are Granite's multipliers."""
    return {
        "embedding_scale": config.number("embedding_multiplier", 1.0),
        "attention_multiplier": config.number("attention_multiplier", 1.0),
        "residual_scale": config.number("residual_multiplier", 1.0),
        "logits_scale": 1 / config.number("logits_scaling", 1.0),
    }
