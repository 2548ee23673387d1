"""Linear maps: rows times a weight that is float32, bfloat16, int8 or int4.

Float32 and bfloat16 weights are read as they are stored in the mapped file (`tiles`), those of 8-bit floats
too (`float8_linear`). Quantised weights are
multiplied as integers (`quantized_tiles`): the rows are rounded to int8 first, by `quantize_rows`.
A quantised row of `depth` values in groups of `span` is `depth` int8, then for each group a float32
scale, then for each group the int32 sum of its int8: `x[k] = scale[k // span] * int8[k]`, nearly. Processors
that have no product of four bytes get the int8 as int16 behind it: see `layout.WIDE_BYTES`.

A row's result depends neither on the other rows nor on which columns a task has. `reference.linear`
is the same in plain NumPy, on arrays instead of addresses.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import (
    INT,
    NOTHING,
    calling,
    kernel,
    outlined,
    pointer_to,
)
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES, QUANT_BLOCK, WIDE_BYTES
from quire.engines.native.cpu.kernels.quantized_tiles import make_quantized_tile, quantize_group
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.cpu.kernels.simd import YES
from quire.engines.native.cpu.kernels.tiles import make_dot_tile

TILE_ROWS = 6 if LANES == 16 else 3  # with 4 columns: as many sums as there are registers for
DEPTH_PIECE = 1024  # depths that a tile sums at once: what it reads stays in the first-level cache
ROW_BLOCK_BYTES = 384 * 1024  # activations multiplied at once: they stay in the second-level cache
# Up to so many of activations, reading weights takes longer than multiplying.
FEW_BYTES = 128 * 1024
WEIGHTS_AHEAD = 2048  # bytes: a single row prefetches weights half a page before it needs them
QUANTIZED_TILE_ROWS = 6 if LANES == 16 else 2
QUANTIZED_WEIGHTS_AHEAD = 1024  # the same for quantised weights, of which a loop reads fewer bytes


# ---- float32 and bfloat16 weights


def make_four_columns(bfloat16: bool) -> Any:
    """The product of some rows with 4 columns, by the largest tiles that fit."""
    size = 2 if bfloat16 else 4
    tall = make_dot_tile(TILE_ROWS, 4, bfloat16, lines=2)
    middle = make_dot_tile(2, 4, bfloat16, lines=2)
    small = make_dot_tile(1, 4, bfloat16, lines=2)

    @kernel
    def four_columns(
        x: int, x_stride: int, rows: int, w: int, w_stride: int, depth: int, out: int,
        out_stride: int, bias: int, accumulate: int, ahead: int, ahead_stride: int,
    ) -> None:  # fmt: skip
        """The product of some rows with 4 columns, whose weights all tiles read from the cache.

        Meanwhile the weights needed next are prefetched: as many, from 4 addresses `ahead_stride` apart.
        Each tile fetches its share of them.
        """
        tiles = max(1, rows // TILE_ROWS + (rows % TILE_ROWS + 1) // 2)
        ahead_step = 4 * LANES * size // tiles
        row, quarters = 0, 0  # of the share of one tile
        while row < rows:
            share = ahead + quarters // tiles * ahead_stride
            share += quarters % tiles * depth * size // tiles
            source, target = x + row * x_stride, out + row * out_stride
            if row + TILE_ROWS <= rows:
                tall(source, x_stride, w, w_stride, depth, target, out_stride, bias, accumulate,
                     share, ahead_step)  # fmt: skip
                row += TILE_ROWS
            elif row + 2 <= rows:
                middle(source, x_stride, w, w_stride, depth, target, out_stride, bias, accumulate,
                       share, ahead_step)  # fmt: skip
                row += 2
            else:
                small(source, x_stride, w, w_stride, depth, target, out_stride, bias, accumulate,
                      share, ahead_step)  # fmt: skip
                row += 1
            quarters += 4

    return four_columns


def _make_product(bfloat16: bool) -> Any:
    """Multiply rows with some columns, by the largest tiles that fit."""
    size = 2 if bfloat16 else 4
    four_columns = make_four_columns(bfloat16)
    single = make_dot_tile(1, 1, bfloat16)

    @kernel
    def one_row(
        x: int, w: int, depth: int, columns: int, out: int, bias: int, accumulate: int
    ) -> None:
        """The product of a single row, which reads hardly anything but weights.

        One column after the other reads them in the order of memory, which is faster than four
        streams at once.
        """
        for column in range(columns):
            column_bias, adds = bias + 4 * column if bias else 0, accumulate
            for start in range(0, depth, DEPTH_PIECE):
                weights = w + (column * depth + start) * size
                single(x + 4 * start, 0, weights, 0, min(DEPTH_PIECE, depth - start),
                       out + 4 * column, 0, column_bias, adds, weights + WEIGHTS_AHEAD,
                       LANES * size)  # fmt: skip
                column_bias, adds = 0, YES

    @kernel
    def last_columns(
        x: int, x_stride: int, rows: int, w: int, w_stride: int, depth: int, columns: int, out: int,
        out_stride: int, bias: int, accumulate: int,
    ) -> None:  # fmt: skip
        """The product of some rows with fewer than 4 columns."""
        for column in range(columns):
            column_bias = bias + 4 * column if bias else 0
            weights = w + column * w_stride
            for row in range(rows):
                single(x + row * x_stride, x_stride, weights, w_stride, depth,
                       out + row * out_stride + 4 * column, out_stride, column_bias, accumulate,
                       weights + w_stride, LANES * size)  # fmt: skip

    @kernel
    def block(
        x: int, x_stride: int, rows: int, w: int, w_stride: int, depth: int, columns: int, out: int,
        out_stride: int, bias: int, accumulate: int,
    ) -> None:  # fmt: skip
        """`out (+)= x @ w.T + bias`, by addresses and strides in bytes; `w` is the first weight row."""
        for column in range(0, columns, 4):
            target, column_bias = out + 4 * column, bias + 4 * column if bias else 0
            adds = accumulate
            for start in range(0, depth, DEPTH_PIECE):
                piece = min(DEPTH_PIECE, depth - start)
                source, weights = x + 4 * start, w + column * w_stride + start * size
                if column + 4 > columns:
                    last_columns(source, x_stride, rows, weights, w_stride, piece, columns - column,
                                 target, out_stride, column_bias, adds)  # fmt: skip
                elif depth * size == w_stride:  # whole weight rows: the next ones follow in memory
                    ahead = w + (column + 4) * w_stride + 4 * start * size
                    four_columns(source, x_stride, rows, weights, w_stride, piece, target,
                                 out_stride, column_bias, adds, ahead, piece * size)  # fmt: skip
                else:
                    four_columns(source, x_stride, rows, weights, w_stride, piece, target,
                                 out_stride, column_bias, adds, weights + 4 * w_stride,
                                 w_stride)  # fmt: skip
                column_bias, adds = 0, YES

    @kernel
    def columns_of(
        x: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int, accumulate: int
    ) -> None:
        """`linear_columns` for a map of this kind.

        A row's product is summed piece by piece of the depth, in this order however many rows there are.
        """
        depth, columns = linear_map.depth, linear_map.columns
        w = linear_map.weight + first * depth * size
        bias = linear_map.bias + 4 * first if linear_map.bias else 0
        target = out + 4 * first
        if rows == 1:
            one_row(x, w, depth, end - first, target, bias, accumulate)
            return
        # Few rows take each column's pieces one after the other, and so read weights in the order of
        # memory. A prompt's rows exceed the cache: they are multiplied block by block, and each block
        # takes the same piece of all columns first, from the cache.
        whole = 4 * rows * depth <= FEW_BYTES
        piece = depth if whole else min(depth, DEPTH_PIECE)
        block_rows = max(1, ROW_BLOCK_BYTES // (4 * piece * TILE_ROWS)) * TILE_ROWS
        for row in range(0, rows, block_rows):
            count = min(block_rows, rows - row)
            block_bias, adds = bias, accumulate
            for start in range(0, depth, piece):
                block(x + 4 * (row * depth + start), depth * 4, count, w + start * size,
                      depth * size, min(piece, depth - start), end - first,
                      target + 4 * row * columns, columns * 4, block_bias, adds)  # fmt: skip
                block_bias, adds = 0, YES

    return columns_of


columns_float32 = _make_product(False)
columns_bfloat16 = _make_product(True)


# ---- quantised weights


@kernel
def quantize_rows(linear_map: LinearMap, x: int, first: int, end: int, out: int) -> None:
    """Round the rows `first` to `end - 1` of x (rows, depth) to int8."""
    size, depth, span = linear_map.depth, linear_map.packed_depth, linear_map.span
    stride, groups = linear_map.row_bytes, depth // span
    for row in range(first, end):
        source, target = x + row * size * 4, out + row * stride
        scales = target + depth  # then the sums, which the zero points are multiplied with
        wide = scales + 8 * groups
        for group in range(groups):
            start = group * span
            quantize_group(source + 4 * start, size - start, span, target + start,
                           scales + 4 * group, scales + 4 * (groups + group),
                           wide + WIDE_BYTES * start)  # fmt: skip


@kernel
def is_quantized(linear_map: LinearMap) -> bool:
    """Whether the weight of a map is quantised, so that it takes rounded rows."""
    return linear_map.rounder != 0


@kernel
def quantized_map_of(first: LinearMap, second: LinearMap) -> LinearMap:
    """The one of two maps that is quantised, if one is.

    Maps with one input share its quantised rows, also where a checkpoint quantises only some.
    """
    return first if is_quantized(first) else second


_round = calling(NOTHING, pointer_to(LinearMap), INT, INT, INT, INT)


@kernel
def quantize_for(linear_map: LinearMap, x: int, first: int, end: int, out: int) -> None:
    """Round the rows `first` to `end - 1` of x as a quantised map takes them."""
    _round(linear_map.rounder, linear_map, x, first, end, out)


def _make_columns(bits: int, zero_points: bool) -> Any:
    """Multiply all rows with the blocks that hold some columns, by the largest tiles that fit."""
    tall_2, two_blocks = (
        make_quantized_tile(rows, 2, bits, zero_points) for rows in (QUANTIZED_TILE_ROWS, 1)
    )
    tall_1 = make_quantized_tile(QUANTIZED_TILE_ROWS, 1, bits, zero_points)
    flat = make_quantized_tile(1, 1, bits, zero_points, QUANTIZED_WEIGHTS_AHEAD)

    @kernel
    def columns_of(
        x: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int, accumulate: int
    ) -> None:
        """`linear_columns` for a map of this kind, and quantised rows x."""
        depth, span = linear_map.packed_depth, linear_map.span
        repeat, groups = linear_map.repeat, depth // span
        x_stride = linear_map.row_bytes
        out_stride = 4 * linear_map.columns
        unit, bias = linear_map.unit, linear_map.bias
        block, last = first // QUANT_BLOCK, (end + QUANT_BLOCK - 1) // QUANT_BLOCK
        stored = (groups + repeat - 1) // repeat * QUANT_BLOCK
        while block < last:
            left, start = last - block, block * QUANT_BLOCK
            w = linear_map.weight + start * depth * bits // 8
            s = linear_map.scales + 2 * block * stored
            z = linear_map.zeros + block * stored
            block_bias, target = bias + 4 * start if bias else 0, out + 4 * start
            low, high = first - start, end - start
            # Two blocks at once use each int8 of x twice. A single row gains nothing by that, and
            # reads its weights faster in the order of memory.
            wide = rows > 1 and left >= 2
            row = 0
            while row + QUANTIZED_TILE_ROWS <= rows:
                source, out_row = x + row * x_stride, target + row * out_stride
                if wide:
                    tall_2(source, x_stride, depth, w, s, z, span, repeat, groups, out_row,
                           out_stride, unit, block_bias, accumulate, low, high)  # fmt: skip
                else:
                    tall_1(source, x_stride, depth, w, s, z, span, repeat, groups, out_row,
                           out_stride, unit, block_bias, accumulate, low, high)  # fmt: skip
                row += QUANTIZED_TILE_ROWS
            while row < rows:
                source, out_row = x + row * x_stride, target + row * out_stride
                if wide:
                    two_blocks(source, x_stride, depth, w, s, z, span, repeat, groups, out_row,
                               out_stride, unit, block_bias, accumulate, low, high)  # fmt: skip
                else:
                    flat(source, x_stride, depth, w, s, z, span, repeat, groups, out_row,
                         out_stride, unit, block_bias, accumulate, low, high)  # fmt: skip
                row += 1
            block += 2 if wide else 1

    return columns_of


columns_int8, columns_int8_zeros = _make_columns(8, False), _make_columns(8, True)
columns_int4, columns_int4_zeros = _make_columns(4, False), _make_columns(4, True)


# ---- any weights


_multiply = calling(NOTHING, INT, INT, pointer_to(LinearMap), INT, INT, INT, INT)


@outlined
def linear_columns(
    x: int, quantized: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int,
    accumulate: int,
) -> None:  # fmt: skip
    """Columns `first` to `end - 1` of `linear`, by the kernel of the map's kind of weights.

    Only the kinds that a model has are compiled, each by itself.
    """
    if first >= end:
        return
    rows_of = quantized if is_quantized(linear_map) else x
    _multiply(linear_map.kernel, rows_of, rows, linear_map, out, first, end, accumulate)


@kernel
def linear(
    task: int, tasks: int, x: int, quantized: int, rows: int, linear_map: LinearMap, out: int,
    accumulate: int,
) -> None:  # fmt: skip
    """`out (+)= x @ weight.T + bias`: x (rows, depth), weight (columns, depth), out (rows, columns).

    If the weight is quantised, `quantized` holds the rows of x as `quantize_rows` makes them.
    """
    first, end = task_range(task, tasks, linear_map.columns, COLUMN_GRAIN)
    linear_columns(x, quantized, rows, linear_map, out, first, end, accumulate)
