"""HyperCLOVA X SEED: Granite that multiplies its logits, and may have norms after attention and FFN."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models import llama
from quire.engines.native.models.spec import DecoderSpec, WeightNames
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
    spec = llama.decoder(config)
    return dataclasses.replace(
        spec,
        embedding_scale=config.number("embedding_multiplier", 1.0),
        attention_multiplier=config.number("attention_multiplier", spec.attention_scale),
        residual_scale=config.number("residual_multiplier", 1.0),
        logits_scale=config.number("logits_scaling", 1.0),
        post_norms=config.flag("use_post_norm", True),
        names=NAMES,
    )
