"""The one way in which quire's kernels are given to Numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import extending, njit

intrinsic: Any = extending.intrinsic
"""Numba's `intrinsic`; type checkers cannot see that it takes the first parameter away."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter and without exceptions: x // 0 is 0, nothing can raise.

    So the machine code refers to nothing of Numba or Python, and can be kept (see `machine_code`).
    """
    return njit(error_model="numpy", nogil=True)(function)
