"""Quantised weights as the kernels want them: see `quantized_tiles` for how the numbers lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.layout import QUANT_BLOCK
from quire.quantization.quantized import QuantizedMatrix

Tensor: TypeAlias = "NDArray[Any] | PackedMatrix"

SPANS = (64, 32)
"""Depths whose activations may share a scale: the first that the weights' groups allow."""

_TILE_COLUMNS = 4 * QUANT_BLOCK  # what the widest tile reads at once: columns are filled up to it


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A weight (columns, depth) that a linear map can read.

    `w = unit * scale * (code - zero)`; a scale serves `repeat` spans of `span` depths.
    """

    bits: int
    columns: int
    depth: int
    span: int
    repeat: int
    unit: float
    codes: NDArray[np.uint8]  # (blocks, steps, 16, 4)
    scales: NDArray[np.float16]  # (blocks, groups, 16)
    zeros: NDArray[np.uint8] | None  # (blocks, groups, 16); None: the middle, 128 or 8

    @property
    def shape(self) -> tuple[int, int]:
        return self.columns, self.depth

    @property
    def packed_depth(self) -> int:
        """The depth in whole spans."""
        return -(-self.depth // self.span) * self.span

    @property
    def nbytes(self) -> int:
        zeros = 0 if self.zeros is None else self.zeros.nbytes
        return self.codes.nbytes + self.scales.nbytes + zeros


def span_for(group: int) -> int | None:
    """The span for weights in groups of so many depths; None where the kernels have none."""
    return next((span for span in SPANS if group % span == 0), None)


def pack(matrix: QuantizedMatrix, span: int) -> PackedMatrix:
    """Pack a matrix in its inputs' own order whose group is a multiple of `span`, or all its depth."""
    assert matrix.order is None
    columns, depth = matrix.shape
    group = -(-matrix.group // span) * span if matrix.group >= depth else matrix.group
    assert group % span == 0
    middle = 1 << (matrix.bits - 1)
    filled = -(-columns // _TILE_COLUMNS) * _TILE_COLUMNS
    codes = np.full((filled, -(-depth // span) * span), middle, np.uint8)
    codes[:columns, :depth] = matrix.codes
    unit = _unit(matrix.scales)
    symmetric = bool((matrix.zeros == middle).all())
    return PackedMatrix(
        bits=matrix.bits,
        columns=columns,
        depth=depth,
        span=span,
        repeat=group // span,
        unit=unit,
        codes=_interleave(codes, matrix.bits),
        scales=_by_block((matrix.scales / np.float32(unit)).astype(np.float16), filled),
        zeros=None if symmetric else _by_block(matrix.zeros, filled),
    )


def _unit(scales: NDArray[np.float32]) -> float:
    """A power of two that brings the scales into float16's best range."""
    largest = float(np.abs(scales).max(initial=0.0))
    return math.ldexp(1.0, math.frexp(largest)[1]) if 0 < largest < math.inf else 1.0


def _interleave(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    columns, depth = codes.shape
    blocks = columns // QUANT_BLOCK
    if bits == 8:
        steps = codes.reshape(blocks, QUANT_BLOCK, depth // 4, 4)
    else:
        pairs = codes.reshape(blocks, QUANT_BLOCK, depth // 8, 2, 4)
        steps = pairs[:, :, :, 0] | (pairs[:, :, :, 1] << np.uint8(4))
    return np.ascontiguousarray(steps.transpose(0, 2, 1, 3))


def _by_block(values: NDArray[Any], filled: int) -> NDArray[Any]:
    """(columns, groups) to (blocks, groups, 16)."""
    columns, groups = values.shape
    room = np.zeros((filled, groups), values.dtype)
    room[:columns] = values
    return np.ascontiguousarray(room.reshape(-1, QUANT_BLOCK, groups).transpose(0, 2, 1))
