"""Helium: Llama whose rotated pairs are neighbours."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 48_000,
    "hidden_size": 2560,
    "intermediate_size": 7040,
    "num_hidden_layers": 24,
    "num_attention_heads": 20,
    "num_key_value_heads": 20,
    "head_dim": 128,
    "max_position_embeddings": 4096,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `helium`."""
    config = config.with_defaults(_DEFAULTS)
    rope = read_rope(config, 100_000.0, interleaved=True)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-8))
    spec = spec.with_attention(qkv_bias=config.flag("attention_bias"))
    return spec.with_ffn(bias=config.flag("mlp_bias"))
