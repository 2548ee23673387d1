"""Gemma: Llama with scaled embeddings, norm weights stored as w - 1, and a GELU gate."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.llama import common
from quire.engines.native.models.spec import DecoderSpec, RopeSpec
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
    return DecoderSpec(**gemma(config), windows=(0,) * config.integer("num_hidden_layers"))


def gemma(config: HubConfig, rope: RopeSpec | None = None) -> dict[str, Any]:
    """The fields that all Gemmas read in the same way."""
    config.require("use_bidirectional_attention", (False,), False)
    bias = config.flag("attention_bias")
    return common(config, rope=rope, activation="gelu_tanh") | {
        "qkv_bias": bias,
        "o_bias": bias,
        "norm_offset": 1.0,
        "embedding_scale": config.integer("hidden_size") ** 0.5,
        "round_embedding_scale": True,
    }
