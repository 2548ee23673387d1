"""The names that rows give themselves, and which of them were there before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ID_COLUMNS = ("custom_id", "id")
_FIRST_SIZE = 1 << 10


REPEATED = ("duplicate_id", "duplicate_custom_id")
"""The codes of a row whose id was there before."""


def row_id(row: Any, columns: Sequence[str] = ID_COLUMNS) -> str | None:
    """The row's own name, of text or an integer in the first of `columns` that it has; else None."""
    if not isinstance(row, Mapping):
        return None
    for name in columns:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    return None


class SeenIds:
    """Where each id was first seen, in 16 bytes for a slot and not with the ids themselves.

    Two ids of one hash of 64 bits would be taken for the same: for a hundred million rows, the
    chance of any is 1 in 3,000.
    """

    def __init__(self) -> None:
        self._hashes = np.zeros(_FIRST_SIZE, np.uint64)
        self._places = np.zeros(_FIRST_SIZE, np.int64)
        self._count = 0

    def first(self, name: str, place: int) -> int | None:
        """The place at which `name` was there before; else None, and `place` is its first."""
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        key = int.from_bytes(digest, "little") or 1  # 0 marks a free slot
        slot = self._slot(key)
        if self._hashes[slot]:
            return int(self._places[slot])
        self._hashes[slot], self._places[slot] = key, place
        self._count += 1
        if self._count * 3 > len(self._hashes) * 2:
            self._grow()
        return None

    def _slot(self, key: int) -> int:
        """The slot of a key, or the free one where it belongs."""
        size, hashes = len(self._hashes), self._hashes
        slot = key % size
        while hashes[slot] and int(hashes[slot]) != key:
            slot = (slot + 1) % size
        return slot

    def _grow(self) -> None:
        hashes, places = self._hashes, self._places
        self._hashes = np.zeros(len(hashes) * 2, np.uint64)
        self._places = np.zeros(len(hashes) * 2, np.int64)
        for slot in np.flatnonzero(hashes).tolist():
            new = self._slot(int(hashes[slot]))
            self._hashes[new], self._places[new] = hashes[slot], places[slot]
