"""How kernels know one linear map: where its weight is, how it is stored, what multiplies."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.blocks import PackedBlocks
from quire.engines.native.cpu.weights.float8 import Float8Weight
from quire.engines.native.cpu.weights.packed import Tensor


def fill_map(
    linear_map: LinearMap, weight: Tensor, bias: NDArray[np.float32] | None = None
) -> LinearMap:
    """Describe a linear map. Weight and bias must live as long as they are in use."""
    linear_map.bias = address_of(bias)
    linear_map.columns, linear_map.depth = weight.shape
    linear_map.kernel = kernel_address(linear_kernel(weight))
    if isinstance(weight, np.ndarray):
        linear_map.weight = address_of(weight)
        return linear_map
    if isinstance(weight, Float8Weight):
        linear_map.weight, linear_map.scales = address_of(weight.codes), address_of(weight.scales)
        linear_map.span, linear_map.repeat = weight.span, weight.repeat
        return linear_map
    linear_map.rounder, linear_map.row_bytes = kernel_address(weight.rounder), weight.row_bytes
    linear_map.packed_depth = weight.packed_depth
    linear_map.weight = address_of(weight.codes)
    if isinstance(weight, PackedBlocks):
        linear_map.scales, linear_map.supers = address_of(weight.factors), address_of(weight.supers)
        return linear_map
    linear_map.scales, linear_map.zeros = address_of(weight.scales), address_of(weight.zeros)
    linear_map.span, linear_map.repeat = weight.span, weight.repeat
    linear_map.unit = weight.unit
    return linear_map


def make_map(weight: Tensor, bias: NDArray[np.float32] | None = None) -> LinearMap:
    """`fill_map` of a new one."""
    return fill_map(LinearMap(), weight, bias)


def linear_kernel(weight: Tensor) -> str:
    """The name of the kernel that multiplies with a matrix, by how that is stored."""
    if not isinstance(weight, np.ndarray):
        return weight.kernel
    return "linear_bfloat16" if is_bfloat16(weight) else "linear_float32"


def kernels_for(weight: Tensor) -> set[str]:
    """The names of the kernels that a map with this matrix runs."""
    own = {linear_kernel(weight)}
    takes_floats = isinstance(weight, np.ndarray | Float8Weight)
    return own if takes_floats else own | {weight.rounder}


def address_of(array: NDArray[Any] | None) -> int:
    """The address of a contiguous array; 0 for None."""
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data


def is_bfloat16(array: NDArray[Any]) -> bool:
    """Whether an array is bfloat16, which is held as uint16."""
    return array.dtype == np.uint16
