"""ERNIE 4.5, the dense ones: Llama whose rotated pairs are neighbours, with one switch for all biases."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.llama import common
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
    bias = config.flag("use_bias")
    return DecoderSpec(
        **common(config, rope=read_rope(config, 500_000.0), norm_eps=1e-5),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        mlp_bias=bias,
        interleaved_rope=True,
    )
