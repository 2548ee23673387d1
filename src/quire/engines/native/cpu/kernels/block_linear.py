"""Linear maps whose weights are in GGUF's blocks: see `block_tiles` and, for their order, `block_forms`.

`fast` and `exact` differ in the rows of x alone, which are of 8 or of 16 bits. The tests hold both to
`quire.gguf.blocks.dequantize`.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.block_forms import (
    COLUMNS,
    FORMS,
    SPAN,
    SUPER_SPANS,
    BlockForm,
)
from quire.engines.native.cpu.kernels.block_tiles import (
    make_block_tile,
    make_decode_span,
    make_quantize_span,
)
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.cpu.kernels.simd import get_int32

TILE_ROWS = 6 if LANES == 16 else 2
_AHEAD = 1024  # bytes of codes that a single row prefetches, as in `linear`


def _make_round_rows(exact: bool) -> Any:
    quantize_span = make_quantize_span(exact)
    width = 2 if exact else 1

    @kernel
    def round_rows(linear_map: LinearMap, x: int, first: int, end: int, out: int) -> None:
        """Round the rows `first` to `end - 1` of x (rows, depth) to integers, span by span."""
        depth, stride = linear_map.depth, linear_map.row_bytes
        spans = linear_map.packed_depth // SPAN
        for row in range(first, end):
            source, codes = x + row * depth * 4, out + row * stride
            scales = codes + spans * SPAN * width
            sums = scales + 4 * spans
            shorts = sums + 8 * spans  # which rows of 16 bits do not have beside
            for span in range(spans):
                start = span * SPAN
                quantize_span(source + 4 * start, codes + start * width, scales + 4 * span,
                              sums + 8 * span, shorts + 2 * start)  # fmt: skip

    return round_rows


def _make_columns(form: BlockForm, exact: bool) -> Any:
    """Multiply all rows with the blocks that hold some columns, by the largest tiles that fit."""
    tall_2, two_blocks = (make_block_tile(form, rows, 2, exact) for rows in (TILE_ROWS, 1))
    tall_1 = make_block_tile(form, TILE_ROWS, 1, exact)
    flat = make_block_tile(form, 1, 1, exact, _AHEAD)
    span_bytes, factor_bytes, super_bytes = form.span_bytes, form.factor_bytes, form.super_bytes

    @kernel
    def columns_of(
        x: int, rows: int, linear_map: LinearMap, out: int, first: int, end: int, accumulate: int
    ) -> None:
        """`linear_columns` for a map of this form, and rounded rows x."""
        spans = linear_map.packed_depth // SPAN
        x_stride, out_stride = linear_map.row_bytes, 4 * linear_map.columns
        bias = linear_map.bias
        supers = (spans + SUPER_SPANS - 1) // SUPER_SPANS
        block, last = first // COLUMNS, (end + COLUMNS - 1) // COLUMNS
        while block < last:
            left, start = last - block, block * COLUMNS
            w = linear_map.weight + block * spans * span_bytes
            f = linear_map.scales + block * spans * factor_bytes
            s = linear_map.supers + block * supers * super_bytes
            block_bias, target = bias + 4 * start if bias else 0, out + 4 * start
            low, high = first - start, end - start
            wide = rows > 1 and left >= 2
            row = 0
            while row + TILE_ROWS <= rows:
                source, out_row = x + row * x_stride, target + row * out_stride
                if wide:
                    tall_2(source, x_stride, spans, w, f, s, out_row, out_stride, block_bias,
                           accumulate, low, high)  # fmt: skip
                else:
                    tall_1(source, x_stride, spans, w, f, s, out_row, out_stride, block_bias,
                           accumulate, low, high)  # fmt: skip
                row += TILE_ROWS
            while row < rows:
                source, out_row = x + row * x_stride, target + row * out_stride
                if wide:
                    two_blocks(source, x_stride, spans, w, f, s, out_row, out_stride, block_bias,
                               accumulate, low, high)  # fmt: skip
                else:
                    flat(source, x_stride, spans, w, f, s, out_row, out_stride, block_bias,
                         accumulate, low, high)  # fmt: skip
                row += 1
            block += 2 if wide else 1

    return columns_of


def _make_read_rows(form: BlockForm) -> Any:
    decode_span = make_decode_span(form)
    span_bytes, factor_bytes, super_bytes = form.span_bytes, form.factor_bytes, form.super_bytes

    @kernel
    def read_rows(
        task: int, tasks: int, table: LinearMap, indices: int, rows: int, out: int
    ) -> None:
        """`out[t] = weight[indices[t]]` for a weight (columns, depth): the rows of an embedding."""
        depth, spans = table.depth, table.packed_depth // SPAN
        supers = (spans + SUPER_SPANS - 1) // SUPER_SPANS
        first, end = task_range(task, tasks, rows, 1)
        for row in range(first, end):
            index = get_int32(indices, row)
            block, column = index // COLUMNS, index % COLUMNS
            codes = table.weight + block * spans * span_bytes
            factors = table.scales + block * spans * factor_bytes
            above = table.supers + block * supers * super_bytes
            target = out + row * depth * 4
            for span in range(spans):
                decode_span(codes + span * span_bytes, factors + span * factor_bytes,
                            above + span // SUPER_SPANS * super_bytes, column,
                            target + 4 * span * SPAN)  # fmt: skip

    return read_rows


round_fast, round_exact = _make_round_rows(False), _make_round_rows(True)
FAST = {name: _make_columns(form, False) for name, form in FORMS.items()}
EXACT = {name: _make_columns(form, True) for name, form in FORMS.items()}
READ = {name: _make_read_rows(form) for name, form in FORMS.items()}
