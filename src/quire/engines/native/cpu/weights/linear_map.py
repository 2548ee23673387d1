"""The words by which kernels know one linear map: where its weight is, how it is stored, what multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.packed import PackedMatrix, Tensor


def map_words(weight: Tensor, bias: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
    """The words of one linear map. Weight and bias must live as long as they are in use."""
    words = np.zeros(layout.MAP_WORDS, np.int64)
    words[layout.BIAS] = address_of(bias)
    words[layout.MAP_COLUMNS], words[layout.MAP_DEPTH] = weight.shape
    words[layout.MAP_KERNEL] = kernel_address(linear_kernel(weight))
    if not isinstance(weight, PackedMatrix):
        words[layout.WEIGHT] = address_of(weight)
        words[layout.KIND] = layout.BFLOAT16 if is_bfloat16(weight) else layout.FLOAT32
        return words
    words[layout.KIND] = layout.INT8 if weight.bits == 8 else layout.INT4
    words[layout.WEIGHT], words[layout.SCALES] = address_of(weight.codes), address_of(weight.scales)
    words[layout.ZEROS] = address_of(weight.zeros)
    words[layout.SPAN], words[layout.REPEAT] = weight.span, weight.repeat
    words[layout.QUANT_DEPTH] = weight.packed_depth
    set_float(words, layout.UNIT_SCALE, weight.unit)
    return words


def linear_kernel(weight: Tensor) -> str:
    """The name of the kernel that multiplies with a matrix, by how that is stored."""
    if isinstance(weight, PackedMatrix):
        return f"linear_int{weight.bits}{'' if weight.zeros is None else '_zeros'}"
    return "linear_bfloat16" if is_bfloat16(weight) else "linear_float32"


def set_float(words: NDArray[np.int64], word: int, value: float) -> None:
    """Write a float32 into the first 4 bytes of a word."""
    words.view(np.float32)[2 * word] = value


def address_of(array: NDArray[Any] | None) -> int:
    """The address of a contiguous array; 0 for None."""
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether an array is bfloat16, which is held as uint16."""
    return array.dtype == np.uint16
