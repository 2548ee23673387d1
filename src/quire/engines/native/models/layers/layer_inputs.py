"""What layers get of each token besides the residual stream: per-layer embeddings (Gemma 3n, Gemma 4)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerInputsSpec:
    """A vector of each layer for each token, from a table of embeddings and a linear map of the token's own.

    After its FFN, a layer multiplies it with a gate of the residual stream; a map of the product, with a
    norm, is added to that.
    """

    vocab_size: int
    """Tokens of the table. Those after them have the vectors of the first one."""
    size: int
    """Of one layer's vector."""

    @property
    def embedding_scale(self) -> float:
        """The table's rows are multiplied by it."""
        return self.size**0.5

    @property
    def sum_scale(self) -> float:
        """The sum of a row of the table and of the map's output is multiplied by it."""
        return 0.5**0.5
