"""HyperCLOVA X SEED: Granite that multiplies its logits, and may have norms after attention and FFN."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.engines.native.models import llama
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import read_shape
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(post_attention_norm="post_norm1", post_ffn_norm="post_norm2")

# transformers' defaults.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `hyperclovax`."""
    config = config.with_defaults(_DEFAULTS)
    spec = llama.decoder(config).with_all_layers(post_norms=config.flag("use_post_norm", True))
    usual = read_shape(config).head_dim ** -0.5
    return replace(
        spec.with_attention(scale=config.number("attention_multiplier", usual)),
        embeddings=EmbeddingsSpec(scale=config.number("embedding_multiplier", 1.0)),
        residual_scale=config.number("residual_multiplier", 1.0),
        head=replace(spec.head, scale=config.number("logits_scaling", 1.0)),
        names=NAMES,
    )
