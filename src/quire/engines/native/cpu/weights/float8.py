"""Weights of 8-bit floats as the kernels read them: the codes are those of the mapped file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.layout import LEAST_SPAN
from quire.errors import WeightsError
from quire.quantization.float8 import Float8Matrix

_FACTOR = np.float32(2**8)
"""What the kernels' codes are too small by: see `kernels.float8_linear`."""


@dataclass(frozen=True, slots=True)
class Float8Weight:
    """A weight (columns, depth) of 8-bit floats, multiplied with rows in full precision."""

    codes: NDArray[np.uint8]  # (columns, depth)
    scales: NDArray[np.float32]  # (columns / repeat, depth / span), times 2 ** 8
    repeat: int
    span: int

    exact: ClassVar = True
    kernel: ClassVar = "linear_float8"
    """The name of the kernel that multiplies with it."""

    @property
    def shape(self) -> tuple[int, int]:
        columns, depth = self.codes.shape
        return columns, depth

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        return self.codes, self.scales

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def with_arrays(self, arrays: Iterator[NDArray[Any]]) -> Float8Weight:
        """The same with its arrays in another place."""
        codes, scales = arrays
        return dataclasses.replace(self, codes=codes, scales=scales)


def float8_weight(matrix: Float8Matrix) -> Float8Weight | None:
    """A checkpoint's matrix for the kernels; None if its groups are too small for them.

    Raises:
        WeightsError: a scale is too large.
    """
    depth = matrix.shape[1]
    scales, span = matrix.scales, _span_of(matrix.group, depth)
    if span < LEAST_SPAN:
        return None
    if span < min(matrix.group, depth):
        scales = np.repeat(scales, matrix.group // span, axis=1)[:, : -(-depth // span)]
    with np.errstate(over="ignore"):
        scales = np.ascontiguousarray(scales * _FACTOR)
    if not np.isfinite(scales).all():
        raise WeightsError("A scale of the weights is too large: they would be infinite")
    return Float8Weight(np.ascontiguousarray(matrix.codes), scales, matrix.repeat, span)


def _span_of(group: int, depth: int) -> int:
    """The largest power of two that divides a group; one that is more than the depth if there is one group."""
    return max(LEAST_SPAN, 1 << depth.bit_length()) if group >= depth else group & -group
