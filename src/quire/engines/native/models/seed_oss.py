"""Seed-OSS: Llama with biases on queries, keys and values, and wide heads."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 155_136,
    "hidden_size": 4096,
    "intermediate_size": 27_648,
    "num_hidden_layers": 64,
    "num_attention_heads": 80,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 524_288,
    "attention_bias": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `seed_oss`."""
    config = config.with_defaults(_DEFAULTS)
    spec = plain_decoder(config).with_attention(
        qkv_bias=config.flag("attention_bias", True), o_bias=config.flag("attention_out_bias")
    )
    return spec.with_ffn(bias=config.flag("mlp_bias"))
