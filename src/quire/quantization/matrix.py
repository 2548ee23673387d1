"""`QuantizedMatrix`: a weight as small integers, whatever checkpoint or rounding it came from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 18  # elements of one pass of `dequantized`, so that its temporaries stay in the cache


@dataclass(frozen=True, slots=True)
class QuantizedMatrix:
    """A weight (columns, depth), in groups along its depth that share a scale and a zero point.

    `w[c, k] = scales[c, g] * (codes[c, k] - zeros[c, g])` with `g = k // group`, where k is an index
    into the stored order of the inputs; `order` says which input is stored there. With `levels`,
    `w[c, k] = scales[c, g] * levels[codes[c, k]]`.
    """

    bits: int
    """4 or 8."""
    group: int
    """How many stored inputs in a row share a scale; the last group may be shorter."""
    codes: NDArray[np.uint8]
    """(columns, depth), unpacked: 0..15 or 0..255."""
    scales: NDArray[np.float32]
    """(columns, groups); a scale may be negative or 0."""
    zeros: NDArray[np.uint8]
    """(columns, groups); 8 or 128 throughout where the weight is symmetric."""
    order: NDArray[np.int32] | None = None
    """(depth,): `codes[:, j]` belongs to input `order[j]`; None if inputs are in their own order."""
    levels: NDArray[np.float32] | None = None
    """(2 ** bits,): the value of each code, where that is not the code itself; `zeros` are 0 then."""

    def __post_init__(self) -> None:
        columns, depth = self.codes.shape
        assert self.bits in (4, 8)
        assert self.group > 0
        assert self.scales.shape == self.zeros.shape == (columns, -(-depth // self.group))
        assert self.order is None or self.order.shape == (depth,)
        assert self.levels is None or self.levels.shape == (1 << self.bits,)

    @property
    def shape(self) -> tuple[int, int]:
        """(columns, depth): outputs and inputs of the linear map."""
        columns, depth = self.codes.shape
        return columns, depth

    def on_even_steps(self) -> QuantizedMatrix:
        """The matrix with 8-bit codes in even steps, the nearest to levels that are uneven.

        A step is 1/127 of the largest level, which is far finer than the distances of 16 levels.
        """
        if self.levels is None:
            return self
        step = np.abs(self.levels).max() / np.float32(127)
        table = np.rint(self.levels / step if step else self.levels) + 128
        return replace(
            self,
            bits=8,
            codes=np.take(table.astype(np.uint8), self.codes),
            scales=self.scales * step,
            zeros=np.full_like(self.zeros, 128),
            levels=None,
        )

    def dequantized(self) -> NDArray[np.float32]:
        """The weight (columns, depth) in float32, its inputs in their own order."""
        columns, depth = self.codes.shape
        result = np.empty((columns, depth), np.float32)
        step = max(1, _CHUNK // max(1, depth))
        stored_at = None if self.order is None else np.argsort(self.order)
        for first in range(0, columns, step):
            rows = slice(first, first + step)
            values = self._values(rows)
            result[rows] = values if stored_at is None else np.take(values, stored_at, axis=1)
        return result

    def _values(self, rows: slice) -> NDArray[np.float32]:
        """Some rows of the weight, in stored order."""
        codes = self.codes[rows]
        codes = codes.astype(np.float32) if self.levels is None else np.take(self.levels, codes)
        depth, full = codes.shape[1], codes.shape[1] // self.group  # groups that are not shorter
        end = full * self.group
        scales, zeros = self.scales[rows, :, None], self.zeros[rows, :, None].astype(np.float32)
        groups = codes[:, :end].reshape(len(codes), full, self.group)
        values = np.empty_like(codes)
        values[:, :end] = ((groups - zeros[:, :full]) * scales[:, :full]).reshape(len(codes), end)
        if end < depth:
            values[:, end:] = (codes[:, end:] - zeros[:, -1]) * scales[:, -1]
        return values
