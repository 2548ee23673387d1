"""The largest entries of each row of logits, without sorting the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidates of M rows, C places each: descending by value, equal values by token id.

    Places that a row does not need hold the value -inf and token 0.
    """

    ids: NDArray[np.int64]  # (M, C)
    values: NDArray[np.float32]  # (M, C)


def largest(logits: NDArray[np.float32], k: int) -> Ranked:
    """Return the k largest entries of each row (M, V), and all that equal the k-th.

    Ties at the k-th place are all kept: which of them would be cut must not depend on how a
    partition happens to leave them, and so on the batch.
    """
    rows, width = logits.shape
    threshold = _lower_bound(logits, min(k, width))
    found = np.flatnonzero(logits >= threshold[:, None])
    row = found // width
    starts = np.searchsorted(row, np.arange(rows + 1))
    place = np.arange(len(found)) - starts[row]
    shape = (rows, int(np.diff(starts).max(initial=0)))
    ids = np.zeros(shape, dtype=np.int64)
    values = np.full(shape, -np.inf, dtype=np.float32)
    ids[row, place] = found - row * width
    values[row, place] = logits.reshape(-1)[found]
    return _rank(ids, values)


def _lower_bound(logits: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k-th largest value of each row."""
    width = logits.shape[1]
    return np.partition(logits, width - k, axis=1)[:, width - k]


def _rank(ids: NDArray[np.int64], values: NDArray[np.float32]) -> Ranked:
    """Sort each row, as one sort of integers that hold value and id: far quicker than argsort."""
    bits = (values + np.float32(0.0)).view(np.int32).astype(np.int64)  # -0.0 becomes 0.0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE floats in the order of integers
    keys = np.sort((-ascending << 32) | ids, axis=1)
    ascending = -(keys >> 32)
    bits = np.where(ascending < 0, ascending ^ 0x7FFFFFFF, ascending).astype(np.int32)
    return Ranked(keys & 0xFFFFFFFF, bits.view(np.float32))
