"""From a prompt's hidden states to one vector: an embedding, or the scores of a reward model.

A pooling request goes through the scheduler like any prompt and generates nothing. What is computed
here is in float64 and in one order, the rows' own, so that a vector is bitwise the same however the
prompt was cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from quire.outputs import Delta

PoolingKind = Literal["last", "mean"]
POOLING_KINDS: tuple[PoolingKind, ...] = ("last", "mean")

_SMALLEST_NORM = 1e-12  # of a vector that is normalised, as in torch's `normalize`


@dataclass(frozen=True, slots=True, eq=False)
class ScoreHead:
    """A linear map from a hidden state to the scores of a reward model."""

    weight: NDArray[np.float64]  # (labels, hidden)
    bias: NDArray[np.float64]  # (labels,)

    def apply(self, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scores (labels,) of one hidden state (hidden,)."""
        return (self.weight * hidden).sum(axis=1) + self.bias  # no BLAS, whose order is its own


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """How hidden states become a vector: the last one or their mean, then a head or a norm."""

    kind: PoolingKind = "last"
    normalize: bool = False
    """Whether the vector gets the length 1."""
    head: ScoreHead | None = None
    priority: int = 0
    cache_salt: str | None = None
    """As of `SamplingParams`."""


@dataclass(slots=True)
class Pooled(Delta):
    """The end of a pooling request: its only delta. `vector` is empty where it failed."""

    vector: tuple[float, ...] = ()
    """Float32 numbers: of the hidden size, or one for each label of the head."""


class Pool:
    """What is known so far of one request's vector.

    A prompt that is preempted and computed again keeps what it has.
    """

    __slots__ = ("_length", "_params", "_sum", "next_row")

    def __init__(self, params: PoolingParams, length: int) -> None:
        self._params, self._length = params, length
        self._sum: NDArray[np.float64] | None = None
        self.next_row = length - 1 if params.kind == "last" else 0
        """The position of the first row whose hidden state is still needed."""

    @property
    def is_complete(self) -> bool:
        return self.next_row == self._length

    @property
    def is_usable(self) -> bool:
        """Whether no NaN and no infinity was among the hidden states."""
        return self._sum is None or bool(np.isfinite(self._sum).all())

    def rows(self, start: int, end: int) -> range:
        """Return the positions within `start..end` whose hidden states are needed."""
        return range(max(start, self.next_row), end)

    def add(self, hidden: NDArray[np.float32]) -> None:
        """Take the hidden states (M, hidden) of the rows from `next_row` on."""
        total = np.zeros(hidden.shape[1]) if self._sum is None else self._sum
        for row in hidden:  # one after another: the order does not depend on the chunks
            total += row
        self._sum = total
        self.next_row += len(hidden)

    def vector(self) -> tuple[float, ...]:
        """The result, once it is complete."""
        assert self._sum is not None
        assert self.is_complete
        found = self._sum if self._params.kind == "last" else self._sum / self._length
        if self._params.head is not None:
            found = self._params.head.apply(found)
        if self._params.normalize:
            found = found / max(float(np.sqrt((found * found).sum())), _SMALLEST_NORM)
        return tuple(found.astype(np.float32).tolist())
