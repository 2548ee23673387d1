"""Random arrays and their addresses, for tests that call kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

GENERATOR = np.random.default_rng(5)
_BEGINNING = GENERATOR.bit_generator.state


def floats(*shape: int) -> NDArray[np.float32]:
    """Normally distributed numbers."""
    return GENERATOR.standard_normal(shape, np.float32)


def ptr(array: NDArray[Any] | None) -> int:
    """The address of an array; 0 for None."""
    return 0 if array is None else array.ctypes.data


def begin_anew() -> None:
    """Give the same numbers again, so that a test's do not depend on which tests ran before."""
    GENERATOR.bit_generator.state = _BEGINNING
