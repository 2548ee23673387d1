"""ALiBi: scores that sink with the distance, instead of embeddings of positions (arXiv 2108.12409)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def alibi_slopes(heads: int) -> NDArray[np.float32]:
    """How much each head's scores sink from one position to the one before it.

    They are powers of 2 ** (-8 / n) for the largest power of two n that is at most `heads`; the heads
    that are left have every other power of the slopes of 2 n heads.
    """
    whole = 1 << (heads.bit_length() - 1)
    powers = [2.0 ** (-8 * i / whole) for i in range(1, whole + 1)]
    between = [2.0 ** (-4 * i / whole) for i in range(1, 2 * (heads - whole), 2)]
    return np.array([*powers, *between], np.float32)
