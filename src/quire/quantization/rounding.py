"""Rounding a full-precision matrix to small whole numbers, group by group.

Eight bits are rounded to the nearest step of the group's range. Four bits leave a choice that
matters: a grid that cuts off the extremes of a group has finer steps for the rest. So several grids
are tried for each group, each with the scale that fits its numbers best in least squares, and the
one with the smallest squared error is kept (as llama.cpp does for its 4-bit types, and HQQ by
another road).

A group's result depends on its own weights alone: neither on the chunks nor on the threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.quantization.quantized import QuantizedMatrix
from quire.weights.bfloat16 import widen

_CHUNK = 1 << 17  # weights of a pass: small enough for caches, long enough that threads seldom meet
# Chosen one after another so that each lowers the error the most over groups of 32, 64 and 128
# numbers of a normal and of a t distribution: together within 1 % of 60 grids.
_SYMMETRIC_STEPS = np.array([6.875, 7.25, 7.875, 8.125, 8.375, 8.625, 9, 9.5], np.float32)
"""Steps from 0 to the weight of the largest magnitude; beyond 8 it is cut off."""
_RANGE_STEPS = np.array([13, 13.75, 14.5, 15, 15.5, 15.75, 16.25, 17], np.float32)
"""Steps from the smallest weight to the largest; beyond 15 both ends are cut off."""

Floats = NDArray[np.float32]


def quantize(
    matrix: NDArray[Any],
    *,
    bits: Literal[4, 8],
    group: int,
    symmetric: bool = True,
    threads: int = 1,
) -> QuantizedMatrix:
    """Round a matrix (columns, depth), float32, float16 or bfloat16 as uint16.

    `group` inputs share a scale; where it is no divisor of the depth, the last group is shorter.
    `symmetric` keeps every zero point at half the range. `threads` are started for this call.
    Raises WeightsError where a weight is infinite, NaN, or so large that no scale can be had.
    """
    columns, depth = matrix.shape
    group = min(group, depth)
    groups = -(-depth // group)
    result = QuantizedMatrix(
        bits,
        group,
        np.empty((columns, depth), np.uint8),
        np.empty((columns, groups), np.float32),
        np.empty((columns, groups), np.uint8),
    )

    def fill(rows: slice) -> None:
        _fill(result, matrix[rows], rows, symmetric)

    step = max(1, _CHUNK // max(1, depth))
    parts = [slice(first, first + step) for first in range(0, columns, step)]
    if threads == 1 or len(parts) == 1:
        for rows in parts:
            fill(rows)
    else:
        with ThreadPoolExecutor(threads, "quire-quantize") as pool:
            for _ in pool.map(fill, parts):
                pass
    return result


def _fill(result: QuantizedMatrix, rows: NDArray[Any], where: slice, symmetric: bool) -> None:
    """Round some rows of the matrix into their place."""
    columns, depth = rows.shape
    weights = _by_group(rows, result.group)
    if not np.isfinite(weights).all():
        raise WeightsError("The weights hold infinities or NaN, which cannot be quantised")
    room = _Room(weights.shape)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if result.bits == 8:
            scales, zeros = _whole_range(weights, symmetric)
        else:
            scales, zeros = _search(weights, symmetric, room)
        codes = _round(weights, scales, zeros, result.bits, room.numbers)
    if not np.isfinite(scales).all():
        raise WeightsError("The weights are too large to be quantised")
    codes += zeros
    numbers = codes.astype(np.uint8).T.reshape(columns, -1)
    result.codes[where] = numbers[:, :depth]
    result.scales[where] = scales.reshape(columns, -1)
    result.zeros[where] = zeros.reshape(columns, -1)


def _by_group(rows: NDArray[Any], group: int) -> Floats:
    """(columns, depth) to (group, columns * groups) in float32, the last group filled with zeros.

    Sums over a group then add whole rows, which NumPy does at full speed.
    """
    depth = rows.shape[1]
    wide = widen(rows) if rows.dtype == np.uint16 else rows.astype(np.float32, copy=False)
    if depth % group:
        wide = np.pad(wide, ((0, 0), (0, -depth % group)))
    return np.ascontiguousarray(wide.reshape(-1, group).T)


@dataclass(slots=True)
class _Room:
    """Arrays that the candidates share, each as large as the weights."""

    numbers: Floats
    products: Floats

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.numbers, self.products = np.empty(shape, np.float32), np.empty(shape, np.float32)


def _round(weights: Floats, scales: Floats, zeros: Floats, bits: int, out: Floats) -> Floats:
    """The numbers less their zero points, nearest to weights / scales."""
    inverse = np.divide(np.float32(1), scales, out=np.zeros_like(scales), where=scales != 0)
    np.multiply(weights, inverse, out=out)
    np.rint(out, out=out)
    return np.clip(out, -zeros, (1 << bits) - 1 - zeros, out=out)


def _range(weights: Floats) -> tuple[Floats, Floats]:
    """The smallest and the largest weight of each group, and 0 among them."""
    zero = np.float32(0)
    return np.minimum(weights.min(axis=0), zero), np.maximum(weights.max(axis=0), zero)


def _whole_range(weights: Floats, symmetric: bool) -> tuple[Floats, Floats]:
    """Scales and zero points of eight bits: the range in 254 steps about 0, or in 255."""
    low, high = _range(weights)
    if symmetric:
        largest: Floats = np.maximum(high, -low)
        return largest / np.float32(127), np.full_like(low, 128)
    scales = (high - low) / np.float32(255)
    return scales, _nearest_zero(-low, scales, 255)


def _nearest_zero(distance: Floats, scales: Floats, highest: int) -> Floats:
    steps = np.divide(distance, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.clip(np.rint(steps), 0, highest)


def _search(weights: Floats, symmetric: bool, room: _Room) -> tuple[Floats, Floats]:
    """Scales and zero points of four bits: the best of the candidates."""
    best_gain = np.full(weights.shape[1], -1, np.float32)
    best_scales, best_zeros = np.zeros_like(best_gain), np.full_like(best_gain, 8)
    for scales, zeros in _candidates(weights, symmetric):
        numbers = _round(weights, scales, zeros, 4, room.numbers)
        along = np.multiply(weights, numbers, out=room.products).sum(axis=0)
        length = np.multiply(numbers, numbers, out=room.products).sum(axis=0)
        # sum((w - s n)^2) is least at s = along / length, and there less by gain^2 than at s = 0.
        fitted = np.divide(along, length, out=np.zeros_like(along), where=length > 0)
        gain = np.abs(fitted) * np.sqrt(length)
        better = gain > best_gain
        np.copyto(best_gain, gain, where=better)
        np.copyto(best_scales, fitted, where=better)
        np.copyto(best_zeros, zeros, where=better)
    return best_scales, best_zeros


def _candidates(weights: Floats, symmetric: bool) -> Iterator[tuple[Floats, Floats]]:
    """Grids to try: scales and zero points of every group."""
    low, high = _range(weights)
    if symmetric:
        # The side with the extreme gets the eighth step: the scale is negative where that is above.
        extreme = np.where(high > -low, high, low)
        middle = np.full_like(low, 8)
        for steps in _SYMMETRIC_STEPS:
            yield extreme / -steps, middle
        return
    for steps in _RANGE_STEPS:
        scales = (high - low) / steps
        # The grid's middle at the range's, so that both ends are cut off alike.
        yield scales, _nearest_zero((scales * 15 - low - high) / 2, scales, 15)
