"""One sequence's block table: which block holds which of its tokens."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class BlockTable:
    """Block ids in order of position: as a list for the books, as an array for batches.

    Entry `i` holds the keys and values of the tokens `i * block_size` up to `(i + 1) * block_size`.
    """

    __slots__ = ("_array", "blocks")

    def __init__(self) -> None:
        self.blocks: list[int] = []
        self._array = np.zeros(8, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def array(self) -> NDArray[np.int32]:
        """The same ids (B,), valid until the table changes."""
        return self._array[: len(self.blocks)]

    def extend(self, blocks: Iterable[int]) -> None:
        start = len(self.blocks)
        self.blocks.extend(blocks)
        if len(self.blocks) > len(self._array):
            grown = np.zeros(max(len(self.blocks), 2 * len(self._array)), dtype=np.int32)
            grown[:start] = self._array[:start]
            self._array = grown
        self._array[start : len(self.blocks)] = self.blocks[start:]

    def replace(self, place: int, block: int) -> None:
        self.blocks[place] = block
        self._array[place] = block

    def shrink(self, count: int) -> list[int]:
        """Keep the first `count` blocks and return the others."""
        cut = self.blocks[count:]
        del self.blocks[count:]
        return cut

    def clear(self) -> list[int]:
        """Empty the table and return what it held."""
        held, self.blocks = self.blocks, []
        return held
