"""From a prompt's hidden states to one vector: an embedding, or the scores of a reward model.

A pooling request goes through the scheduler like any prompt and generates nothing. The sums here are
in float64 and always in the order of the rows, so that a vector is bitwise the same however the
prompt was cut into chunks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.outputs import Delta
from quire.prompt import PoolingKind
from quire.weights.score_head import ScoreHead

_SMALLEST_NORM = 1e-12  # of a vector that is normalised, as in torch's `normalize`


@dataclass(frozen=True, slots=True)
class Pooling:
    """How hidden states become a vector: the last one or their mean, then a head or a norm."""

    kind: PoolingKind = "last"
    normalize: bool = False
    """Whether the vector is scaled to length 1."""
    head: ScoreHead | None = None
    priority: int = 0
    cache_salt: str | None = None
    """As in `SamplingParams`."""


@dataclass(slots=True)
class Pooled(Delta):
    """The end of a pooling request: its only delta. `vector` is empty where it failed."""

    vector: tuple[float, ...] = ()
    """Float32 numbers: of the hidden size, or one for each label of the head."""


class PoolingState:
    """What is known so far of one request's vector.

    A prompt that is preempted and computed again keeps what it has.
    """

    __slots__ = ("_length", "_params", "_sum", "next_row")

    def __init__(self, params: Pooling, length: int) -> None:
        self._params, self._length = params, length
        self._sum: NDArray[np.float64] | None = None
        self.next_row = length - 1 if params.kind == "last" else 0
        """The position of the first row whose hidden state is still needed."""

    @property
    def is_complete(self) -> bool:
        """Whether all hidden states that are needed have come."""
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
        for row in hidden:  # one by one: sums of whole chunks would round otherwise in other chunks
            total += row
        self._sum = total
        self.next_row += len(hidden)

    def vector(self) -> tuple[float, ...]:
        """Return the result, once it is complete."""
        assert self._sum is not None
        assert self.is_complete
        vector = self._sum if self._params.kind == "last" else self._sum / self._length
        if self._params.head is not None:
            vector = self._params.head.apply(vector)
        if self._params.normalize:
            vector = vector / max(float(np.sqrt((vector * vector).sum())), _SMALLEST_NORM)
        return tuple(vector.astype(np.float32).tolist())
