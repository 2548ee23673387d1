"""Random arrays and their addresses, for tests that call kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GENERATOR = np.random.default_rng(5)


def floats(*shape: int) -> NDArray[np.float32]:
    """Normally distributed numbers."""
    return GENERATOR.standard_normal(shape, np.float32)


def ptr(array: NDArray[Any] | None) -> int:
    """The address of an array; 0 for None."""
    return 0 if array is None else array.ctypes.data
