"""The largest entries of each row of logits, without sorting the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GROUP = 32
"""Columns taken together. Column `c` belongs to group `c % G` of the `G = V // GROUP` groups: this
way NumPy reduces whole vectors, several times faster than runs of 32 neighbours."""

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Ranked:
    """The candidates of M rows, C places each: descending by value, equal values by token id.

    Places that a row does not need hold the value -inf and token 0.
    """

    ids: NDArray[np.int64]  # (M, C)
    values: NDArray[np.float32]  # (M, C)


def largest(logits: NDArray[np.float32], k: int) -> Ranked:
    """Return the k largest entries of each row (M, V), all that equal the k-th, and maybe more.

    Ties at the k-th place are all kept: which of them would be cut must not depend on how a
    partition happens to leave them, and so on the batch. Entries of -inf are left out.
    """
    row, column = _candidates(logits, k)
    starts = np.searchsorted(row, np.arange(len(logits) + 1))
    place = np.arange(len(row)) - starts[row]
    shape = (len(logits), int(np.diff(starts).max(initial=1)))
    ids = np.zeros(shape, dtype=np.int64)
    values = np.full(shape, -np.inf, dtype=np.float32)
    ids[row, place] = column
    values[row, place] = logits[row, column]
    return _rank(ids, values)


def grouped(logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return views: the columns in groups (M, GROUP, G), and those that are left (M, V % GROUP)."""
    rows, width = logits.shape
    groups = width // GROUP
    split = groups * GROUP
    return logits[:, :split].reshape(rows, GROUP, groups), logits[:, split:]


def _candidates(logits: NDArray[np.float32], k: int) -> tuple[Rows, Rows]:
    """Return the places, by row, of entries that contain the k largest.

    Where k groups have an entry of at least `bound`, the k largest are not below it: the k-th
    largest of the groups' maxima bounds them, at the cost of one pass.
    """
    body, rest = grouped(logits)
    groups = body.shape[2]
    if groups < 2 * k:
        bound = _kth(logits, min(k, logits.shape[1]))
        return _places(logits >= bound)
    best = body.max(axis=1)
    bound = _kth(best, k)
    of_row, group = _places(best >= bound)
    which, member = _places(body[of_row, :, group] >= bound[of_row])
    row, column = of_row[which], member * groups + group[which]
    if rest.shape[1]:
        more, place = _places(rest >= bound)
        row = np.concatenate([row, more])
        column = np.concatenate([column, place + groups * GROUP])
        order = row.argsort(kind="stable")
        row, column = row[order], column[order]
    return row, column


def _places(mask: NDArray[np.bool_]) -> tuple[Rows, Rows]:
    """Return rows and columns of what is true: np.nonzero, but several times faster."""
    found = np.flatnonzero(mask)
    row = found // mask.shape[1]
    return row, found - row * mask.shape[1]


def _kth(values: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k-th largest entry of each row, as a column (M, 1), and at least a finite number."""
    width = values.shape[1]
    found = np.partition(values, width - k, axis=1)[:, width - k, None]
    return np.maximum(found, np.finfo(np.float32).min)


def _rank(ids: NDArray[np.int64], values: NDArray[np.float32]) -> Ranked:
    """Sort each row, as one sort of integers that hold value and id: far quicker than argsort."""
    bits = (values + np.float32(0.0)).view(np.int32).astype(np.int64)  # -0.0 becomes 0.0
    ascending = np.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # IEEE floats in the order of integers
    keys = np.sort((-ascending << 32) | ids, axis=1)
    ascending = -(keys >> 32)
    bits = np.where(ascending < 0, ascending ^ 0x7FFFFFFF, ascending).astype(np.int32)
    return Ranked(keys & 0xFFFFFFFF, bits.view(np.float32))
