"""What a decoder's phases are made of, but attention.

Those that take `(task, tasks, ...)` do one of so many parts: rows of a norm, columns of a product.
`reference.py` has the same functions in plain NumPy. A row's result never depends on which other
rows are there, nor on the number of tasks or threads: see `simd` and `tiles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quire.engines.native.cpu import layout, simd
from quire.engines.native.cpu.curves import gelu_gate, soft_cap
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.layout import COLUMN_GRAIN, LANES
from quire.engines.native.cpu.lora import add_lora
from quire.engines.native.cpu.quantized import quantized_columns
from quire.engines.native.cpu.tiles import make_dot_tile

TILE_ROWS = 6 if LANES == 16 else 3  # with 4 columns: as many sums as registers hold
ROW_BLOCK_BYTES = 128 * 1024  # of activations, to stay in the second-level cache
WEIGHTS_AHEAD = 2048  # bytes: half a page before they are wanted, weights are called into the cache
NO, YES = np.int64(0), np.int64(1)  # typed, or Numba compiles the callee anew for each literal


@kernel
def share(task: int, tasks: int, count: int, grain: int) -> tuple[int, int]:
    """The range of `count` things, in whole grains, that is one task of so many."""
    grains = (count + grain - 1) // grain
    first = grains * task // tasks * grain
    end = grains * (task + 1) // tasks * grain
    return min(first, count), min(end, count)


@kernel
def normalise_row(x: int, weight: int, out: int, size: int, eps: float) -> None:
    """RMS norm of `size` floats at address `x`, which may be `out`."""
    total = simd.splat(np.float32(0))
    whole = size // LANES * LANES
    for k in range(0, whole, LANES):
        value = simd.load(x + 4 * k)
        total = simd.fma(value, value, total)
    rest = size - whole
    if rest:
        value = simd.load_part(x + 4 * whole, rest)
        total = simd.fma(value, value, total)
    mean = simd.sum_lanes(total) / np.float32(size)
    scale = simd.divide(simd.splat(np.float32(1)), simd.sqrt(simd.splat(mean + np.float32(eps))))
    for k in range(0, whole, LANES):
        value = simd.multiply(simd.load(x + 4 * k), scale)
        simd.store(out + 4 * k, simd.multiply(simd.load(weight + 4 * k), value))
    if rest:
        value = simd.multiply(simd.load_part(x + 4 * whole, rest), scale)
        value = simd.multiply(simd.load_part(weight + 4 * whole, rest), value)
        simd.store_part(out + 4 * whole, value, rest)


@kernel
def rms_norm(
    task: int, tasks: int, x: int, rows: int, size: int, weight: int, eps: float, out: int
) -> None:
    """`out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight` for (rows, size)."""
    first, end = share(task, tasks, rows, 1)
    for row in range(first, end):
        offset = row * size * 4
        normalise_row(x + offset, weight, out + offset, size, eps)


@kernel
def _copy_row(source: int, target: int, size: int) -> None:
    """`size` floats from one address to another."""
    whole = size // LANES * LANES
    rest = size - whole
    for k in range(0, whole, LANES):
        simd.store(target + 4 * k, simd.load(source + 4 * k))
    if rest:
        simd.store_part(target + 4 * whole, simd.load_part(source + 4 * whole, rest), rest)


@kernel
def gather_rows(
    task: int, tasks: int, table: int, narrow: int, size: int, indices: int, rows: int, out: int
) -> None:
    """`out[t] = table[indices[t]]` for (n, size) of float32, or of bfloat16 if `narrow`."""
    first, end = share(task, tasks, rows, 1)
    whole = size // LANES * LANES
    rest = size - whole
    for row in range(first, end):
        index = np.int64(simd.get_int32(indices, row))
        target = out + row * size * 4
        if narrow:
            source = table + index * size * 2
            for k in range(0, whole, LANES):
                simd.store(target + 4 * k, simd.load_bfloat16(source + 2 * k))
            if rest:
                value = simd.load_bfloat16_part(source + 2 * whole, rest)
                simd.store_part(target + 4 * whole, value, rest)
        else:
            _copy_row(table + index * size * 4, target, size)


@kernel
def place_rows(
    task: int, tasks: int, given: int, size: int, places: int, rows: int, out: int
) -> None:
    """`out[t] = given[places[t]]` for (n, size) of float32, where the place is not negative."""
    first, end = share(task, tasks, rows, 1)
    for row in range(first, end):
        place = np.int64(simd.get_int32(places, row))
        if place >= 0:
            _copy_row(given + place * size * 4, out + row * size * 4, size)


def _make_product(bfloat16: bool) -> Any:
    """The product of a block of rows with some columns, by the widest tiles that fit."""
    size = 2 if bfloat16 else 4
    tall = make_dot_tile(TILE_ROWS, 4, bfloat16, lines=2)
    middle = make_dot_tile(2, 4, bfloat16, lines=2)
    small = make_dot_tile(1, 4, bfloat16, lines=2)
    single = make_dot_tile(1, 1, bfloat16)

    @kernel
    def block(
        x: int, x_stride: int, rows: int, w: int, depth: int, columns: int, out: int,
        out_stride: int, bias: int, accumulate: int,
    ) -> None:  # fmt: skip
        """Addresses, strides in bytes; `w` is the first weight row."""
        stride = depth * size
        column = 0
        if rows == 1:  # it reads nothing but weights: they come fastest one line after the other
            while column < columns:
                shift = bias + 4 * column if bias else 0
                weights = w + column * stride
                single(x, x_stride, weights, stride, depth, out + 4 * column, out_stride, shift,
                       accumulate, weights + WEIGHTS_AHEAD, LANES * size)  # fmt: skip
                column += 1
        # While the rows take their turns with 4 weight rows, the next 4 come from memory.
        tiles = max(1, rows // TILE_ROWS + (rows % TILE_ROWS + 1) // 2)
        pace = 4 * LANES * size // tiles
        while column + 4 <= columns:
            shift = bias + 4 * column if bias else 0
            weights, target = w + column * stride, out + 4 * column
            ahead = weights + 4 * stride
            row = 0
            while row + TILE_ROWS <= rows:
                tall(x + row * x_stride, x_stride, weights, stride, depth,
                     target + row * out_stride, out_stride, shift, accumulate, ahead,
                     pace)  # fmt: skip
                row += TILE_ROWS
                ahead += 4 * stride // tiles
            while row + 2 <= rows:
                middle(x + row * x_stride, x_stride, weights, stride, depth,
                       target + row * out_stride, out_stride, shift, accumulate, ahead,
                       pace)  # fmt: skip
                row += 2
                ahead += 4 * stride // tiles
            if row < rows:
                small(x + row * x_stride, x_stride, weights, stride, depth,
                      target + row * out_stride, out_stride, shift, accumulate, ahead,
                      pace)  # fmt: skip
            column += 4
        while column < columns:
            shift = bias + 4 * column if bias else 0
            weights = w + column * stride
            for row in range(rows):
                single(x + row * x_stride, x_stride, weights, stride, depth,
                       out + row * out_stride + 4 * column, out_stride, shift, accumulate,
                       weights + stride, LANES * size)  # fmt: skip
            column += 1

    return block


_block_float32 = _make_product(False)
_block_bfloat16 = _make_product(True)


@kernel
def linear_columns(
    x: int, whole: int, rows: int, linear_map: int, out: int, first: int, end: int,
    accumulate: int,
) -> None:  # fmt: skip
    """Columns `first` to `end - 1` of `linear`."""
    if first >= end:
        return
    kind = simd.get_int64(linear_map, layout.KIND)
    if kind >= layout.INT8:
        quantized_columns(whole, rows, linear_map, out, first, end, accumulate)
        return
    weight, bias = (
        simd.get_int64(linear_map, layout.WEIGHT),
        simd.get_int64(linear_map, layout.BIAS),
    )
    depth = simd.get_int64(linear_map, layout.MAP_DEPTH)
    columns = simd.get_int64(linear_map, layout.MAP_COLUMNS)
    tiles = max(1, ROW_BLOCK_BYTES // (4 * depth * TILE_ROWS))
    step = tiles * TILE_ROWS
    shift = bias + 4 * first if bias else 0
    row = 0
    while row < rows:
        count = min(step, rows - row)
        source = x + row * depth * 4
        target = out + row * columns * 4 + 4 * first
        if kind == layout.BFLOAT16:
            _block_bfloat16(source, depth * 4, count, weight + first * depth * 2, depth,
                            end - first, target, columns * 4, shift, accumulate)  # fmt: skip
        else:
            _block_float32(source, depth * 4, count, weight + first * depth * 4, depth,
                           end - first, target, columns * 4, shift, accumulate)  # fmt: skip
        row += step


@kernel
def linear(
    task: int, tasks: int, x: int, whole: int, rows: int, linear_map: int, out: int,
    accumulate: int,
) -> None:  # fmt: skip
    """`out (+)= x @ weight.T + bias`: x (rows, depth), weight (columns, depth), out (rows, columns).

    `linear_map` is the address of `layout`'s words of one map: weight, bias and sizes. Where the
    weight is quantised, `whole` has the rows of x as `quantize_rows` makes them.
    """
    first, end = share(task, tasks, simd.get_int64(linear_map, layout.MAP_COLUMNS), COLUMN_GRAIN)
    linear_columns(x, whole, rows, linear_map, out, first, end, accumulate)


@kernel
def silu_gate(gate: int, up: int, rows: int, size: int, first: int, end: int) -> None:
    """`gate = gate / (1 + exp(-gate)) * up` in the columns `first` to `end - 1`."""
    one = simd.splat(np.float32(1))
    zero = simd.splat(np.float32(0))
    for row in range(rows):
        for column in range(first, end, LANES):
            count = min(LANES, end - column)
            offset = 4 * (row * size + column)
            g = simd.load_part(gate + offset, count)
            u = simd.load_part(up + offset, count)
            g = simd.divide(g, simd.add(one, simd.exp(simd.subtract(zero, g))))
            simd.store_part(gate + offset, simd.multiply(g, u), count)


@kernel
def gated_ffn(
    task: int, tasks: int, x: int, whole: int, rows: int, gate_map: int, up_map: int, gate: int,
    up: int, activation: int = layout.SILU, adapters: int = 0, entry: int = 0,
) -> None:  # fmt: skip
    """`gate = silu(x @ gate_w.T + gate_b) * (x @ up_w.T + up_b)`; `up` is scratch of its shape.

    The maps are addresses as in `linear`; `activation` is one of `layout`'s. `adapters` add to both
    before the gate (see `add_lora`; `entry` is the number of their entry of the gate's map, followed
    by that of `up`).
    """
    columns = simd.get_int64(gate_map, layout.MAP_COLUMNS)
    first, end = share(task, tasks, columns, COLUMN_GRAIN)
    linear_columns(x, whole, rows, gate_map, gate, first, end, NO)
    linear_columns(x, whole, rows, up_map, up, first, end, NO)
    add_lora(adapters, entry, NO, gate, columns, first, end)
    add_lora(adapters, entry + 1, YES, up, columns, first, end)
    if activation == layout.GELU_TANH:
        gelu_gate(gate, up, rows, columns, first, end)
    else:
        silu_gate(gate, up, rows, columns, first, end)


@kernel
def scale_rows(task: int, tasks: int, x: int, rows: int, size: int, scale: float) -> None:
    """`x[t] *= scale` for (rows, size)."""
    first, end = share(task, tasks, rows, 1)
    soft_cap(x + first * size * 4, (end - first) * size, scale, np.float32(0))


@kernel
def add_rows(task: int, tasks: int, x: int, rows: int, size: int, scale: float, out: int) -> None:
    """`out[t] += x[t] * scale` for (rows, size)."""
    first, end = share(task, tasks, rows, 1)
    factor = simd.splat(np.float32(scale))
    for k in range(first * size, end * size, LANES):
        count = min(LANES, end * size - k)
        value = simd.multiply(simd.load_part(x + 4 * k, count), factor)
        value = simd.add(simd.load_part(out + 4 * k, count), value)
        simd.store_part(out + 4 * k, value, count)


@kernel
def bend_logits(
    task: int, tasks: int, logits: int, rows: int, columns: int, scale: float, cap: float
) -> None:
    """Scale and soft cap of (rows, columns), in the columns that `linear` gives to the same task."""
    first, end = share(task, tasks, columns, COLUMN_GRAIN)
    for row in range(rows):
        soft_cap(logits + 4 * (row * columns + first), end - first, scale, cap)


@kernel
def _rotate(x: int, cosines: int, sines: int, half: int, scale: float) -> None:
    """Turn each pair (x[i], x[i + half]) of the head at address `x`, and scale it."""
    factor = simd.splat(np.float32(scale))
    for i in range(0, half, LANES):
        count = min(LANES, half - i)
        low, high = x + 4 * i, x + 4 * (i + half)
        first, second = simd.load_part(low, count), simd.load_part(high, count)
        c, s = simd.load_part(cosines + 4 * i, count), simd.load_part(sines + 4 * i, count)
        turned = simd.subtract(simd.multiply(first, c), simd.multiply(second, s))
        simd.store_part(low, simd.multiply(turned, factor), count)
        turned = simd.add(simd.multiply(second, c), simd.multiply(first, s))
        simd.store_part(high, simd.multiply(turned, factor), count)


@kernel
def _rotate_neighbours(x: int, cosines: int, sines: int, half: int, scale: float) -> None:
    """Turn each pair (x[2 i], x[2 i + 1]) of the head at address `x`, and scale it."""
    factor = np.float32(scale)
    for i in range(half):
        first, second = simd.get_float32(x, 2 * i), simd.get_float32(x, 2 * i + 1)
        c, s = simd.get_float32(cosines, i), simd.get_float32(sines, i)
        simd.put_float32(x, 2 * i, (first * c - second * s) * factor)
        simd.put_float32(x, 2 * i + 1, (second * c + first * s) * factor)


@kernel
def rotate_heads(
    x: int, rows: int, heads: int, size: int, first: int, end: int, norm: int, eps: float,
    scale: float, positions: int, cosines: int, sines: int, rotary: int, interleaved: int,
) -> None:  # fmt: skip
    """Norm, rotary embedding and scale of the heads `first` to `end - 1`, in place.

    x (rows, heads, size), of which the first `rotary` turn, in neighbouring pairs if `interleaved`;
    `norm` is 0 for none; cosines and sines (positions, rotary / 2), 0 for no rotary embedding.
    """
    turned = rotary if cosines else 0
    for row in range(rows):
        angles = np.int64(simd.get_int32(positions, row)) * (rotary // 2) * 4
        for head in range(first, end):
            at = x + (row * heads + head) * size * 4
            if norm:
                normalise_row(at, norm, at, size, eps)
            if turned and interleaved:
                _rotate_neighbours(at, cosines + angles, sines + angles, rotary // 2, scale)
            elif turned:
                _rotate(at, cosines + angles, sines + angles, rotary // 2, scale)
            if turned < size:
                soft_cap(at + 4 * turned, size - turned, scale, np.float32(0))
