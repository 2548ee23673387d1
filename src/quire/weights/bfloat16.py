"""Bfloat16, which NumPy does not have, as uint16: the upper halves of float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def widen(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bfloat16, as uint16, to float32: exact."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Float32 to bfloat16, as uint16: to nearest, ties to even; NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)
