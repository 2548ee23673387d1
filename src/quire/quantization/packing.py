"""Small whole numbers packed into 32-bit words, the lowest bits first."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def per_word(bits: int) -> int:
    """How many numbers of `bits` one word holds."""
    return 32 // bits


def words_for(count: int, bits: int) -> int:
    """How many words hold `count` numbers."""
    return -(-count // per_word(bits))


def unpack(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The numbers of each row, (rows, words) to (rows, words * per_word(bits)). `bits` is 4 or 8.

    Eight-bit numbers are the bytes of the words: a view where the words are contiguous.
    """
    octets = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        return octets
    numbers = np.empty((octets.shape[0], 2 * octets.shape[1]), np.uint8)
    np.bitwise_and(octets, 15, out=numbers[:, 0::2])
    np.right_shift(octets, 4, out=numbers[:, 1::2])
    return numbers
