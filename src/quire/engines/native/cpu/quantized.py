"""Products of rows with quantised weights: rows become whole numbers, then tiles multiply them.

A quantised row of `depth` numbers in groups of `span` is `depth` signed bytes, then a float32 scale
and an int32 sum of the bytes for each group: `x[k] = scale[k // span] * byte[k]`, nearly.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu import layout, simd
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.layout import LANES, QUANT_BLOCK
from quire.engines.native.cpu.quantized_tiles import make_quantized_tile, quantize_group

TALL_ROWS = 6 if LANES == 16 else 2


WEIGHTS_AHEAD = 1024  # bytes: see `kernels`

quantized_row_bytes = kernel(layout.quantized_row_bytes)


@kernel
def quantize_rows(first: int, end: int, x: int, size: int, depth: int, span: int, out: int) -> None:
    """Quantise the rows `first` to `end - 1` of x (rows, size); `depth` is `size` in whole groups."""
    stride, groups = quantized_row_bytes(depth, span), depth // span
    for row in range(first, end):
        source, target = x + row * size * 4, out + row * stride
        scales = target + depth
        for group in range(groups):
            start = group * span
            quantize_group(source + 4 * start, size - start, span, target + start,
                           scales + 4 * group, scales + 4 * (groups + group))  # fmt: skip


def _make_columns(bits: int, zero_points: bool) -> Any:
    """The product of all rows with the blocks that hold some columns, by the widest tiles that fit."""
    tall_2, two_blocks = (
        make_quantized_tile(rows, 2, bits, zero_points) for rows in (TALL_ROWS, 1)
    )
    tall_1 = make_quantized_tile(TALL_ROWS, 1, bits, zero_points)
    flat = make_quantized_tile(1, 1, bits, zero_points, WEIGHTS_AHEAD)

    @kernel
    def columns_of(
        x: int, rows: int, linear_map: int, out: int, first: int, end: int, accumulate: int
    ) -> None:
        depth, span = (
            simd.get_int64(linear_map, layout.QUANT_DEPTH),
            simd.get_int64(linear_map, layout.SPAN),
        )
        repeat, groups = simd.get_int64(linear_map, layout.REPEAT), depth // span
        x_stride = quantized_row_bytes(depth, span)
        out_stride = 4 * simd.get_int64(linear_map, layout.MAP_COLUMNS)
        unit, bias = (
            simd.get_float32(linear_map, 2 * layout.UNIT_SCALE),
            simd.get_int64(linear_map, layout.BIAS),
        )
        block, last = first // QUANT_BLOCK, (end + QUANT_BLOCK - 1) // QUANT_BLOCK
        stored = (groups + repeat - 1) // repeat * QUANT_BLOCK
        while block < last:
            left, start = last - block, block * QUANT_BLOCK
            w = simd.get_int64(linear_map, layout.WEIGHT) + start * depth * bits // 8
            s = simd.get_int64(linear_map, layout.SCALES) + 2 * block * stored
            z = simd.get_int64(linear_map, layout.ZEROS) + block * stored
            shift, target = bias + 4 * start if bias else 0, out + 4 * start
            low, high = first - start, end - start
            wide = rows > 1 and left >= 2
            row = 0
            while row + TALL_ROWS <= rows:
                source, place = x + row * x_stride, target + row * out_stride
                if wide:
                    tall_2(source, x_stride, depth, w, s, z, span, repeat, groups, place,
                           out_stride, unit, shift, accumulate, low, high)  # fmt: skip
                else:
                    tall_1(source, x_stride, depth, w, s, z, span, repeat, groups, place,
                           out_stride, unit, shift, accumulate, low, high)  # fmt: skip
                row += TALL_ROWS
            while row < rows:
                source, place = x + row * x_stride, target + row * out_stride
                if wide:
                    two_blocks(source, x_stride, depth, w, s, z, span, repeat, groups, place,
                               out_stride, unit, shift, accumulate, low, high)  # fmt: skip
                else:
                    flat(source, x_stride, depth, w, s, z, span, repeat, groups, place,
                         out_stride, unit, shift, accumulate, low, high)  # fmt: skip
                row += 1
            block += 2 if wide else 1

    return columns_of


_columns_8, _columns_8_zeros = _make_columns(8, False), _make_columns(8, True)
_columns_4, _columns_4_zeros = _make_columns(4, False), _make_columns(4, True)


@kernel
def quantized_columns(
    x: int, rows: int, linear_map: int, out: int, first: int, end: int, accumulate: int
) -> None:
    """Columns `first` to `end - 1` of `kernels.linear` for a quantised map and quantised rows."""
    zeros = simd.get_int64(linear_map, layout.ZEROS)
    if simd.get_int64(linear_map, layout.KIND) == layout.INT8:
        if zeros:
            _columns_8_zeros(x, rows, linear_map, out, first, end, accumulate)
        else:
            _columns_8(x, rows, linear_map, out, first, end, accumulate)
    elif zeros:
        _columns_4_zeros(x, rows, linear_map, out, first, end, accumulate)
    else:
        _columns_4(x, rows, linear_map, out, first, end, accumulate)
