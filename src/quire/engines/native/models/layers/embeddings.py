"""The two ends of a decoder: the embeddings of its tokens, and the head that gives logits."""

from __future__ import annotations

from dataclasses import dataclass

from quire.engines.native.models.layers.norm import NormSpec


@dataclass(frozen=True, slots=True)
class EmbeddingsSpec:
    """A row for each token; perhaps scaled, with one for its position added, and through a norm."""

    scale: float = 1.0
    rounds_scale: bool = False
    """Round that scale to the type of the embeddings, as the model's training did."""
    first_position: int | None = None
    """The row of the first position in the embeddings of positions; None for a model without these."""
    norm: NormSpec | None = None


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """The linear map to logits, and what becomes of these."""

    tied: bool = False
    """Its weights are those of the embeddings."""
    bias: bool = False
    scale: float = 1.0
    cap: float = 0.0
    """Soft cap of the logits, after their scale; 0 for no cap."""
