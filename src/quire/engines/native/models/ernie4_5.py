"""ERNIE 4.5, the dense ones: Llama whose rotated pairs are neighbours, with one switch for all biases."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.classic import with_biases
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 103_424,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 18,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `ernie4_5`."""
    config = config.with_defaults(_DEFAULTS)
    rope = read_rope(config, 500_000.0, interleaved=True)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    return with_biases(spec, config.flag("use_bias"))
