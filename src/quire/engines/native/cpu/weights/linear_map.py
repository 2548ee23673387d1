"""How kernels know one linear map: where its weight is, how it is stored, what multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.packed import PackedMatrix, Tensor


def fill_map(
    linear_map: LinearMap, weight: Tensor, bias: NDArray[np.float32] | None = None
) -> LinearMap:
    """Describe a linear map. Weight and bias must live as long as they are in use."""
    linear_map.bias = address_of(bias)
    linear_map.columns, linear_map.depth = weight.shape
    linear_map.kernel = kernel_address(linear_kernel(weight))
    if not isinstance(weight, PackedMatrix):
        linear_map.weight = address_of(weight)
        linear_map.kind = layout.BFLOAT16 if is_bfloat16(weight) else layout.FLOAT32
        return linear_map
    linear_map.kind = layout.INT8 if weight.bits == 8 else layout.INT4
    linear_map.weight, linear_map.scales = address_of(weight.codes), address_of(weight.scales)
    linear_map.zeros = address_of(weight.zeros)
    linear_map.span, linear_map.repeat = weight.span, weight.repeat
    linear_map.packed_depth, linear_map.unit = weight.packed_depth, weight.unit
    return linear_map


def make_map(weight: Tensor, bias: NDArray[np.float32] | None = None) -> LinearMap:
    """`fill_map` of a new one."""
    return fill_map(LinearMap(), weight, bias)


def linear_kernel(weight: Tensor) -> str:
    """The name of the kernel that multiplies with a matrix, by how that is stored."""
    if isinstance(weight, PackedMatrix):
        return f"linear_int{weight.bits}{'' if weight.zeros is None else '_zeros'}"
    return "linear_bfloat16" if is_bfloat16(weight) else "linear_float32"


def address_of(array: NDArray[Any] | None) -> int:
    """The address of a contiguous array; 0 for None."""
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether an array is bfloat16, which is held as uint16."""
    return array.dtype == np.uint16
