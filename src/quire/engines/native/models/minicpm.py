"""MiniCPM 1 to 4, the dense ones: Llama with scaled embeddings, residual stream and logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.engines.native.models import llama
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# The defaults of the model's own code.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32_000,
    "hidden_size": 4096,
    "intermediate_size": 11_008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `minicpm`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("num_experts", (0,), 0)
    spec = llama.decoder(config).with_ffn(bias=False)
    base = config.number("dim_model_base", 1.0)
    return replace(
        spec,
        max_positions=_max_positions(config, spec.max_positions),
        embeddings=EmbeddingsSpec(scale=config.number("scale_emb", 1.0)),
        residual_scale=config.number("scale_depth", 1.0) / spec.num_layers**0.5,
        head=replace(spec.head, scale=base / spec.hidden_size),
    )


def _max_positions(config: HubConfig, positions: int) -> int:
    """MiniCPM 4.1 attends to all of a text up to `dense_len`, and only to parts of longer ones.

    Those are not computed. Without `sparse_config`, as its authors allow, it always attends to all.
    """
    if "sparse_config" not in config:
        return positions
    return min(positions, config.inner("sparse_config").integer("dense_len", 8192))
