"""Gemma: Llama with scaled embeddings, norm weights stored as w - 1, and a GELU gate."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.names import USUAL_NAMES, WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A config of Gemma 3 leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 256_000,
    "hidden_size": 3072,
    "intermediate_size": 24_576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gemma`."""
    config = config.with_defaults(_DEFAULTS)
    # The first configs say "gelu" and mean its approximation by tanh; transformers reads them so.
    config.require("hidden_act", ("gelu", "gelu_pytorch_tanh"), "gelu_pytorch_tanh")
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    return gemma(config)


def gemma(
    config: HubConfig,
    rope: RopeSpec | None = None,
    names: WeightNames = USUAL_NAMES,
) -> DecoderSpec:
    """What all Gemmas read in the same way."""
    config.require("use_bidirectional_attention", (False,), False)
    bias, norm = config.flag("attention_bias"), NormSpec(offset=1.0)
    spec = plain_decoder(config, rope=rope, activation="gelu_tanh", norm=norm, names=names)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    return dataclasses.replace(spec, embeddings=gemma_embeddings(config))


def gemma_embeddings(config: HubConfig) -> EmbeddingsSpec:
    """Embeddings that are scaled by the root of their size."""
    return EmbeddingsSpec(scale=config.integer("hidden_size") ** 0.5, rounds_scale=True)
