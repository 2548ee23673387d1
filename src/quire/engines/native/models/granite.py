"""Granite 3: Llama with multipliers for embeddings, attention, the residual stream and logits."""

from __future__ import annotations

from dataclasses import replace

from quire.engines.native.models import llama
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `granite`."""
    return with_multipliers(llama.decoder(config), config)


def with_multipliers(spec: DecoderSpec, config: HubConfig) -> DecoderSpec:
    """The decoder with Granite's multipliers."""
    return replace(
        spec.with_attention(scale=config.number("attention_multiplier", 1.0)),
        embeddings=EmbeddingsSpec(scale=config.number("embedding_multiplier", 1.0)),
        residual_scale=config.number("residual_multiplier", 1.0),
        head=replace(spec.head, scale=1 / config.number("logits_scaling", 1.0)),
    )
