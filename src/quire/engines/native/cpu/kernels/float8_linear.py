"""Linear maps whose weights are 8-bit floats (E4M3), read as they are stored in the mapped file.

A weight is `code * scale`, rounded to float32, and multiplied with rows in float32, in the order of
`linear`: the result is, to the bit, that of the same matrix multiplied out. A scale serves `repeat` columns
and `span` depths, which is a power of two and at least `LEAST_SPAN`; it is 2 ** 8 times the stored one, by
which `build_float8` leaves codes too small.

Few rows are multiplied with weights as they are decoded, in registers. Many take those of four columns from
a small piece of float32, which is made once for all of them.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, kernel, primitive
from quire.engines.native.cpu.kernels import builders, simd
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT64
from quire.engines.native.cpu.kernels.layout import LANES, LEAST_SPAN, LINE
from quire.engines.native.cpu.kernels.linear import (
    DEPTH_PIECE,
    ROW_BLOCK_BYTES,
    TILE_ROWS,
    make_four_columns,
)
from quire.engines.native.cpu.kernels.simd import YES, get_float32
from quire.engines.native.cpu.kernels.tiles import (
    build_loop,
    build_offset,
    build_tail,
    build_write,
    make_dot_tile,
)

FEW_ROWS = 2 * TILE_ROWS  # up to so many are multiplied with weights as they are decoded
_COLUMNS = 4
# From column to column: not a power of two, as `layout.SCORE_STRIDE`.
_STRIDE = 4 * DEPTH_PIECE + LINE
_AHEAD = 1024  # bytes of codes that are prefetched, of each column


@primitive(INT)
def _piece(builder: ir.IRBuilder) -> Any:
    """The address of memory for the weights of four columns, which lasts as long as the kernel runs."""
    with builder.goto_entry_block():
        memory = builder.alloca(ir.ArrayType(FLOAT32, (_COLUMNS * _STRIDE + LINE) // 4))
    end = builder.add(builder.ptrtoint(memory, INT64), INT64(LINE - 1))
    return builder.and_(end, INT64(-LINE))  # the beginning of a cache line


@primitive(INT, INT)
def _shift_of(builder: ir.IRBuilder, span: Any) -> Any:
    """The power of two that a span is."""
    return builder.cttz(span, ir.Constant(ir.IntType(1), 1))


@kernel
def _scales_of(linear_map: LinearMap, column: int) -> int:
    """The address of a column's scales."""
    span = linear_map.span
    groups = (linear_map.depth + span - 1) // span
    return linear_map.scales + column // linear_map.repeat * groups * 4


# ---- few rows


def _make_tile(rows: int, columns: int) -> Any:
    """`tile(x, x_stride, w, w_stride, depth, start, shift, out, out_stride, bias, accumulate, *scales)`.

    As `make_dot_tile`, for `depth` depths from `start` on, whose numbers are at x and w. `scales` are those
    of each column, from its first depth on.
    """

    @primitive(NOTHING, *[INT] * (11 + columns))
    def tile(
        builder: ir.IRBuilder, x: Any, x_stride: Any, w: Any, w_stride: Any, depth: Any, start: Any,
        shift: Any, out: Any, out_stride: Any, bias: Any, accumulate: Any, *scales: Any,
    ) -> None:  # fmt: skip
        xs = [build_offset(builder, x, x_stride, r) for r in range(rows)]
        ws = [build_offset(builder, w, w_stride, c) for c in range(columns)]

        def scales_at(done: Any) -> list[Any]:
            """The scale of each column in all lanes."""
            group = builder.lshr(builder.add(start, done), shift)
            offset = builder.shl(group, INT64(2))
            at = [builder.add(own, offset) for own in scales]
            loaded = [
                builder.load(builders.build_pointer(builder, one, FLOAT32), align=4) for one in at
            ]
            return [builders.build_splat(builder, one) for one in loaded]

        def products(done: Any, own: list[Any], sums: list[Any], count: Any = None) -> list[Any]:
            """The sums after one register of depth; of `count` values of it, if given."""
            offset = builder.mul(done, INT64(4))
            places = [builder.add(row, offset) for row in xs]
            left = [builders.build_load_some(builder, at, count) for at in places]
            result = list(sums)
            for c, column in enumerate(ws):
                codes = builders.build_float8(builder, builder.add(column, done), count)
                weight = builder.fmul(codes, own[c])
                for r in range(rows):
                    index = r * columns + c
                    result[index] = builders.build_fma(builder, left[r], weight, result[index])
            return result

        def span(index: Any, sums: list[Any]) -> list[Any]:
            done = builder.mul(index, INT64(LEAST_SPAN))
            for column in ws:
                line = builder.add(column, builder.add(done, INT64(_AHEAD)))
                builders.build_prefetch(builder, line)
            own = scales_at(done)
            for part in range(0, LEAST_SPAN, LANES):
                sums = products(builder.add(done, INT64(part)), own, sums)
            return sums

        zero = builders.constant_vector(0.0)
        trips = builder.sdiv(depth, INT64(LEAST_SPAN))
        sums = build_loop(builder, trips, [zero] * (rows * columns), span)
        before = builder.mul(trips, INT64(LEAST_SPAN))
        rest = builder.sub(depth, before)

        def last(count: Any) -> list[Any]:
            own = scales_at(before)
            whole = builder.sdiv(count, INT64(LANES))
            inner = build_loop(
                builder, whole, sums,
                lambda index, state: products(
                    builder.add(before, builder.mul(index, INT64(LANES))), own, state
                ),
            )  # fmt: skip
            done = builder.mul(whole, INT64(LANES))
            return build_tail(
                builder, builder.sub(count, done), inner,
                lambda some: products(builder.add(before, done), own, inner, some),
            )  # fmt: skip

        sums = build_tail(builder, rest, sums, last)
        build_write(builder, sums, rows, columns, out, out_stride, bias, accumulate)

    return tile


_tall, _middle, _small = (_make_tile(rows, _COLUMNS) for rows in (TILE_ROWS, 2, 1))
_narrow = _make_tile(1, 1)


@kernel
def _few_rows(
    x: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int, accumulate: int
) -> None:
    depth, shift = linear_map.depth, _shift_of(linear_map.span)
    x_stride, out_stride = 4 * depth, 4 * linear_map.columns
    for column in range(first, end, _COLUMNS):
        count, adds = min(_COLUMNS, end - column), accumulate
        bias = linear_map.bias + 4 * column if linear_map.bias else 0
        a, b = _scales_of(linear_map, column), _scales_of(linear_map, column + 1)
        c, d = _scales_of(linear_map, column + 2), _scales_of(linear_map, column + 3)
        for start in range(0, depth, DEPTH_PIECE):
            w, piece = linear_map.weight + column * depth + start, min(DEPTH_PIECE, depth - start)
            row = 0
            while row < rows:
                source, target = x + row * x_stride + 4 * start, out + row * out_stride + 4 * column
                if count < _COLUMNS:
                    for i in range(count):
                        own_bias = bias + 4 * i if bias else 0
                        _narrow(source, x_stride, w + i * depth, depth, piece, start, shift,
                                target + 4 * i, out_stride, own_bias, adds,
                                _scales_of(linear_map, column + i))  # fmt: skip
                    row += 1
                elif row + TILE_ROWS <= rows:
                    _tall(source, x_stride, w, depth, piece, start, shift, target, out_stride, bias,
                          adds, a, b, c, d)  # fmt: skip
                    row += TILE_ROWS
                elif row + 2 <= rows:
                    _middle(source, x_stride, w, depth, piece, start, shift, target, out_stride,
                            bias, adds, a, b, c, d)  # fmt: skip
                    row += 2
                else:
                    _small(source, x_stride, w, depth, piece, start, shift, target, out_stride,
                           bias, adds, a, b, c, d)  # fmt: skip
                    row += 1
            bias, adds = 0, YES


# ---- many rows


@kernel
def _decode(
    codes: int, scales: int, start: int, shift: int, size: int, ahead: int, out: int
) -> None:
    """The weights of `size` depths of a column from `start` on, whose codes are at `codes`.

    Codes that lie `ahead` bytes further on are prefetched.
    """
    for span in range(0, size, LEAST_SPAN):
        simd.prefetch(codes + span + ahead)
        scale = simd.splat(get_float32(scales, (start + span) >> shift))
        if span + LEAST_SPAN <= size:
            for k in range(span, span + LEAST_SPAN, LANES):
                simd.store(out + 4 * k, simd.multiply(simd.load_float8(codes + k), scale))
        else:
            for k in range(span, size, LANES):
                count = min(LANES, size - k)
                value = simd.multiply(simd.load_float8_part(codes + k, count), scale)
                simd.store_part(out + 4 * k, value, count)


_four_columns, _single = make_four_columns(bfloat16=False), make_dot_tile(1, 1, bfloat16=False)


@kernel
def _piece_of_columns(
    x: int, rows: int, linear_map: LinearMap, piece: int, start: int, out: int, first: int,
    end: int, accumulate: int,
) -> None:  # fmt: skip
    """`out (+)= x @ w.T` of some rows and columns, for a piece of the depth from `start` on.

    `piece` is memory for the weights of four columns.
    """
    depth, shift, bias = linear_map.depth, _shift_of(linear_map.span), linear_map.bias
    size, x_stride, out_stride = min(DEPTH_PIECE, depth - start), 4 * depth, 4 * linear_map.columns
    source = x + 4 * start
    for column in range(first, end, _COLUMNS):
        count = min(_COLUMNS, end - column)
        for i in range(count):
            codes = linear_map.weight + (column + i) * depth + start
            _decode(codes, _scales_of(linear_map, column + i), start, shift, size, 4 * depth,
                    piece + i * _STRIDE)  # fmt: skip
        column_bias = bias + 4 * column if bias and not start else 0
        target = out + 4 * column
        if count == _COLUMNS:
            _four_columns(source, x_stride, rows, piece, _STRIDE, size, target, out_stride,
                          column_bias, accumulate, piece, 0)  # fmt: skip
        else:
            for i in range(count):
                own_bias = column_bias + 4 * i if column_bias else 0
                for row in range(rows):
                    _single(source + row * x_stride, 0, piece + i * _STRIDE, 0, size,
                            target + row * out_stride + 4 * i, 0, own_bias, accumulate, piece,
                            0)  # fmt: skip


@kernel
def columns_float8(
    x: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int, accumulate: int
) -> None:
    """`linear.linear_columns` for a map of this kind."""
    if rows <= FEW_ROWS:
        _few_rows(x, rows, linear_map, out, first, end, accumulate)
        return
    depth, piece = linear_map.depth, _piece()
    # As in `linear`: the same piece of all columns is taken by rows that stay in the cache.
    width = min(depth, DEPTH_PIECE)
    block_rows = max(1, ROW_BLOCK_BYTES // (4 * width * TILE_ROWS)) * TILE_ROWS
    for row in range(0, rows, block_rows):
        count, source = min(block_rows, rows - row), x + 4 * row * depth
        target, adds = out + 4 * row * linear_map.columns, accumulate
        for start in range(0, depth, DEPTH_PIECE):
            _piece_of_columns(source, count, linear_map, piece, start, target, first, end, adds)
            adds = YES
