"""The phases of a decoder but attention, for one thread of a team.

Each takes `(thread, threads, ...)` first and does its share: rows of a norm, columns of a product.
`reference.py` has the same functions in plain NumPy. A row's result never depends on which other
rows are there, nor on the number of threads: see `simd` and `tiles`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from quire.native.cpu import simd
from quire.native.cpu.simd import LANES
from quire.native.cpu.tiles import make_dot_tile

TILE_ROWS = 6 if LANES == 16 else 3  # with 4 columns: as many sums as registers hold
ROW_BLOCK_BYTES = 384 * 1024  # of activations, to stay in the second-level cache
COLUMN_GRAIN = 16  # columns, so that threads do not write to one cache line


@njit(inline="always")
def share(thread: int, threads: int, count: int, grain: int) -> tuple[int, int]:
    """This thread's range of `count` things, in whole grains."""
    grains = (count + grain - 1) // grain
    first = grains * thread // threads * grain
    end = grains * (thread + 1) // threads * grain
    return min(first, count), min(end, count)


@njit
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
    scale = simd.splat(np.float32(1) / np.sqrt(mean + np.float32(eps)))
    for k in range(0, whole, LANES):
        value = simd.multiply(simd.load(x + 4 * k), scale)
        simd.store(out + 4 * k, simd.multiply(simd.load(weight + 4 * k), value))
    if rest:
        value = simd.multiply(simd.load_part(x + 4 * whole, rest), scale)
        value = simd.multiply(simd.load_part(weight + 4 * whole, rest), value)
        simd.store_part(out + 4 * whole, value, rest)


@njit
def rms_norm(thread: int, threads: int, x: Any, weight: Any, eps: float, out: Any) -> None:
    """`out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight` for (T, size) float32."""
    rows, size = x.shape
    first, end = share(thread, threads, rows, 1)
    for row in range(first, end):
        offset = row * size * 4
        normalise_row(
            x.ctypes.data + offset, weight.ctypes.data, out.ctypes.data + offset, size, eps
        )


@njit
def gather_rows(thread: int, threads: int, table: Any, indices: Any, out: Any) -> None:
    """`out[t] = table[indices[t]]`: embeddings of float32, or of bfloat16 as uint16, widened."""
    first, end = share(thread, threads, len(indices), 1)
    size = table.shape[1]
    narrow = table.itemsize == 2
    whole = size // LANES * LANES
    for row in range(first, end):
        source = table.ctypes.data + np.int64(indices[row]) * size * table.itemsize
        target = out.ctypes.data + row * size * 4
        for k in range(0, whole, LANES):
            if narrow:
                simd.store(target + 4 * k, simd.load_bfloat16(source + 2 * k))
            else:
                simd.store(target + 4 * k, simd.load(source + 4 * k))
        if size > whole:
            rest = size - whole
            if narrow:
                value = simd.load_bfloat16_part(source + 2 * whole, rest)
            else:
                value = simd.load_part(source + 4 * whole, rest)
            simd.store_part(target + 4 * whole, value, rest)


def _make_product(bfloat16: bool) -> Any:
    """The product of a block of rows with some columns, by the widest tiles that fit."""
    size = 2 if bfloat16 else 4
    tall = make_dot_tile(TILE_ROWS, 4, bfloat16)
    middle = make_dot_tile(2, 4, bfloat16)
    flat = make_dot_tile(1, 8, bfloat16)
    small = make_dot_tile(1, 4, bfloat16)
    single = make_dot_tile(1, 1, bfloat16)

    @njit
    def block(
        x: int, x_stride: int, rows: int, w: int, depth: int, columns: int, out: int,
        out_stride: int, bias: int, accumulate: int,
    ) -> None:  # fmt: skip
        """Addresses, strides in bytes; `w` is this thread's first weight row."""
        stride = depth * size
        column = 0
        if rows == 1:
            while column + 8 <= columns:
                shift = bias + 4 * column if bias else 0
                flat(x, x_stride, w + column * stride, stride, depth, out + 4 * column,
                     out_stride, shift, accumulate)  # fmt: skip
                column += 8
        while column + 4 <= columns:
            shift = bias + 4 * column if bias else 0
            weights, target = w + column * stride, out + 4 * column
            row = 0
            while row + TILE_ROWS <= rows:
                tall(x + row * x_stride, x_stride, weights, stride, depth,
                     target + row * out_stride, out_stride, shift, accumulate)  # fmt: skip
                row += TILE_ROWS
            while row + 2 <= rows:
                middle(x + row * x_stride, x_stride, weights, stride, depth,
                       target + row * out_stride, out_stride, shift, accumulate)  # fmt: skip
                row += 2
            if row < rows:
                small(x + row * x_stride, x_stride, weights, stride, depth,
                      target + row * out_stride, out_stride, shift, accumulate)  # fmt: skip
            column += 4
        while column < columns:
            shift = bias + 4 * column if bias else 0
            for row in range(rows):
                single(x + row * x_stride, x_stride, w + column * stride, stride, depth,
                       out + row * out_stride + 4 * column, out_stride, shift,
                       accumulate)  # fmt: skip
            column += 1

    return block


_block_float32 = _make_product(False)
_block_bfloat16 = _make_product(True)


@njit
def linear_columns(
    x: Any, weight: int, narrow: bool, bias: int, out: Any, first: int, end: int, accumulate: int
) -> None:
    """Columns `first` to `end - 1` of `linear`; `weight` and `bias` are addresses."""
    rows, depth = x.shape
    if first >= end:
        return
    tiles = max(1, ROW_BLOCK_BYTES // (4 * depth * TILE_ROWS))
    step = tiles * TILE_ROWS
    out_stride = out.shape[1] * 4
    shift = bias + 4 * first if bias else 0
    for row in range(0, rows, step):
        count = min(step, rows - row)
        source = x.ctypes.data + row * depth * 4
        target = out.ctypes.data + row * out_stride + 4 * first
        if narrow:
            _block_bfloat16(source, depth * 4, count, weight + first * depth * 2, depth,
                            end - first, target, out_stride, shift, accumulate)  # fmt: skip
        else:
            _block_float32(source, depth * 4, count, weight + first * depth * 4, depth,
                           end - first, target, out_stride, shift, accumulate)  # fmt: skip


@njit
def linear(
    thread: int, threads: int, x: Any, weight: int, narrow: bool, bias: int, out: Any,
    accumulate: int,
) -> None:  # fmt: skip
    """`out (+)= x @ weight.T + bias`: x (T, depth), weight (columns, depth), out (T, columns).

    `weight` is the address of float32, or of bfloat16 where `narrow`; `bias` that of float32, or 0.
    """
    first, end = share(thread, threads, out.shape[1], COLUMN_GRAIN)
    linear_columns(x, weight, narrow, bias, out, first, end, accumulate)


@njit
def silu_gate(gate: Any, up: Any, first: int, end: int) -> None:
    """`gate = gate / (1 + exp(-gate)) * up` in the columns `first` to `end - 1`."""
    rows, size = gate.shape
    one = simd.splat(np.float32(1))
    zero = simd.splat(np.float32(0))
    for row in range(rows):
        for column in range(first, end, LANES):
            count = min(LANES, end - column)
            offset = 4 * (row * size + column)
            g = simd.load_part(gate.ctypes.data + offset, count)
            u = simd.load_part(up.ctypes.data + offset, count)
            g = simd.divide(g, simd.add(one, simd.exp(simd.subtract(zero, g))))
            simd.store_part(gate.ctypes.data + offset, simd.multiply(g, u), count)


@njit
def gated_ffn(
    thread: int, threads: int, x: Any, weights: Any, gate: Any, up: Any
) -> None:  # fmt: skip
    """`gate = silu(x @ gate_w.T + gate_b) * (x @ up_w.T + up_b)`; `up` is scratch of its shape.

    `weights`: (gate address, narrow, bias address, up address, narrow, bias address), int64.
    """
    first, end = share(thread, threads, gate.shape[1], COLUMN_GRAIN)
    linear_columns(x, weights[0], weights[1] != 0, weights[2], gate, first, end, 0)
    linear_columns(x, weights[3], weights[4] != 0, weights[5], up, first, end, 0)
    silu_gate(gate, up, first, end)


@njit
def _rotate(x: int, cosines: Any, sines: Any) -> None:
    """Turn each pair (x[i], x[i + half]) of the head at address `x`."""
    half = len(cosines)
    for i in range(half):
        first, second = simd.get_float32(x, i), simd.get_float32(x, i + half)
        simd.put_float32(x, i, first * cosines[i] - second * sines[i])
        simd.put_float32(x, i + half, second * cosines[i] + first * sines[i])


@njit
def rotate_and_store(
    thread: int, threads: int, q: Any, k: Any, v: Any, norms: Any, eps: float, scale: float,
    positions: Any, slots: Any, cosines: Any, sines: Any, k_cache: Any, v_cache: Any,
) -> None:  # fmt: skip
    """Head norms, rotary embedding and scale on q; the same, less the scale, on k; k, v to cache.

    q (T, heads, size), k and v (T, kv heads, size) are changed in place. `norms` holds the
    addresses of the query's and the key's norm, or zeros. `k_cache` is (blocks, kv heads, size,
    block size), keys side by side; `v_cache` (blocks, kv heads, block size, padded size).
    """
    rows, heads, size = q.shape
    kv_heads = k.shape[1]
    block_size = k_cache.shape[3]
    first, end = share(thread, threads, rows * (heads + kv_heads), 1)
    for task in range(first, end):
        row, head = task // (heads + kv_heads), task % (heads + kv_heads)
        angle_c, angle_s = cosines[positions[row]], sines[positions[row]]
        if head < heads:
            at = q.ctypes.data + (row * heads + head) * size * 4
            if norms[0] != 0:
                normalise_row(at, norms[0], at, size, eps)
            _rotate(at, angle_c, angle_s)
            for i in range(size):
                q[row, head, i] *= np.float32(scale)
            continue
        head -= heads
        at = k.ctypes.data + (row * kv_heads + head) * size * 4
        if norms[1] != 0:
            normalise_row(at, norms[1], at, size, eps)
        _rotate(at, angle_c, angle_s)
        block, offset = slots[row] // block_size, slots[row] % block_size
        for i in range(size):
            k_cache[block, head, i, offset] = k[row, head, i]
            v_cache[block, head, offset, i] = v[row, head, i]
