"""Paged attention with an online softmax, for decodes and prefill chunks alike.

The work is cut into tiles: some rows of one sequence times one key-value head with all its query
heads. A tile walks the context in chunks of `CHUNK` positions that begin at multiples of it, so a
row's sums run in one order whichever rows share its tile. Keys lie `(size, block)`, so that lanes
are positions in the scores; values lie `(block, size)`, so that lanes are dimensions in the output.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from quire.native.cpu import simd
from quire.native.cpu.simd import LANES
from quire.native.cpu.sync import atomic_add
from quire.native.cpu.tiles import make_outer_tile

CHUNK = 256  # positions between two rescalings of the softmax
TILE_PAIRS = 32  # (row, query head) pairs of a tile that share the keys and values they read
BLOCK_SIZES = (16, 32)

_scores_8 = make_outer_tile(8, 1, False)
_scores_4 = make_outer_tile(4, 1, False)
_scores_2 = make_outer_tile(2, 1, False)
_scores_1 = make_outer_tile(1, 1, False)
_values_4x4 = make_outer_tile(4, 4, True)
_values_2x4 = make_outer_tile(2, 4, True)
_values_1x4 = make_outer_tile(1, 4, True)
_values_4x1 = make_outer_tile(4, 1, True)
_values_1x1 = make_outer_tile(1, 1, True)


def padded(size: int) -> int:
    """`size` rounded up to whole registers."""
    return -(-size // LANES) * LANES


def scratch_floats(group: int, head_dim: int) -> int:
    """The floats that one thread needs: scores, queries, outputs, and a maximum and sum a pair."""
    pairs = max(TILE_PAIRS, group)
    return pairs * (CHUNK + padded(head_dim) * 2 + 2 * LANES)


@njit
def plan_tiles(query_start: Any, group: int, tiles: Any) -> int:
    """Cut every sequence's rows into tiles (sequence, first row, rows), latest rows first.

    Returns their number. The longest contexts come first, so that the threads end together.
    """
    tile_rows = max(1, TILE_PAIRS // group)
    count = 0
    for sequence in range(len(query_start) - 1):
        start, end = query_start[sequence], query_start[sequence + 1]
        while end > start:
            rows = min(tile_rows, end - start)
            tiles[count, 0], tiles[count, 1], tiles[count, 2] = sequence, end - rows, rows
            count += 1
            end -= rows
    return count


@njit
def _score_block(q: int, size: int, pairs: int, keys: int, block_size: int, scores: int) -> None:
    """scores[pair, 0:block_size] = q[pair] . keys, for keys (size, block_size)."""
    q_stride, stride, out_stride = size * 4, block_size * 4, CHUNK * 4
    for lane in range(0, block_size, LANES):
        k, out = keys + 4 * lane, scores + 4 * lane
        pair = 0
        while pair + 8 <= pairs:
            _scores_8(q + pair * q_stride, q_stride, k, stride, size, out + pair * out_stride,
                      out_stride)  # fmt: skip
            pair += 8
        if pair + 4 <= pairs:
            _scores_4(q + pair * q_stride, q_stride, k, stride, size, out + pair * out_stride,
                      out_stride)  # fmt: skip
            pair += 4
        if pair + 2 <= pairs:
            _scores_2(q + pair * q_stride, q_stride, k, stride, size, out + pair * out_stride,
                      out_stride)  # fmt: skip
            pair += 2
        if pair < pairs:
            _scores_1(q + pair * q_stride, q_stride, k, stride, size, out + pair * out_stride,
                      out_stride)  # fmt: skip


@njit
def _add_values(p: int, pairs: int, values: int, count: int, width: int, out: int) -> None:
    """out[pair] += sum of p[pair, j] * values[j] over `count` positions; `width` in floats."""
    stride, p_stride = width * 4, CHUNK * 4
    lane = 0
    while lane < width:
        wide = lane + 4 * LANES <= width
        v, target = values + 4 * lane, out + 4 * lane
        pair = 0
        while pair + 4 <= pairs:
            a, o = p + pair * p_stride, target + pair * stride
            if wide:
                _values_4x4(a, p_stride, v, stride, count, o, stride)
            else:
                _values_4x1(a, p_stride, v, stride, count, o, stride)
            pair += 4
        while wide and pair + 2 <= pairs:
            a, o = p + pair * p_stride, target + pair * stride
            _values_2x4(a, p_stride, v, stride, count, o, stride)
            pair += 2
        while pair < pairs:
            a, o = p + pair * p_stride, target + pair * stride
            if wide:
                _values_1x4(a, p_stride, v, stride, count, o, stride)
            else:
                _values_1x1(a, p_stride, v, stride, count, o, stride)
            pair += 1
        lane += 4 * LANES if wide else LANES


@njit
def _soften(
    scores: int, first: int, end: int, length: int, state: int, out: int, width: int
) -> None:
    """One pair's softmax over a chunk: scores become weights, the rest of its state is rescaled.

    Positions `first` to `end - 1` of the chunk are seen. `state`: its maximum and its sum so far.
    """
    if first >= end:
        zero = simd.splat(np.float32(0))
        for j in range(0, length, LANES):
            simd.store(scores + 4 * j, zero)
        return
    top = simd.splat(simd.NEGATIVE_INFINITY)
    for j in range(0, length, LANES):
        value = simd.keep_range(
            simd.load(scores + 4 * j), first - j, end - j, simd.NEGATIVE_INFINITY
        )
        simd.store(scores + 4 * j, value)
        top = simd.maximum(value, top)
    old = simd.get_float32(state, 0)
    new = max(old, simd.max_lanes(top))
    highest = simd.splat(new)
    total = simd.splat(np.float32(0))
    for j in range(0, length, LANES):
        value = simd.exp(simd.subtract(simd.load(scores + 4 * j), highest))
        simd.store(scores + 4 * j, value)
        total = simd.add(total, value)
    shrink = simd.exp(simd.subtract(simd.splat(old), highest))
    simd.put_float32(state, 0, new)
    kept = simd.get_float32(state, 1) * simd.first_lane(shrink)
    simd.put_float32(state, 1, kept + simd.sum_lanes(total))
    for j in range(0, width, LANES):
        simd.store(out + 4 * j, simd.multiply(simd.load(out + 4 * j), shrink))


@njit
def _attend_tile(
    q: Any, row: int, rows: int, head: int, positions: Any, table: Any, k_cache: Any,
    v_cache: Any, window: int, out: Any, scratch: int,
) -> None:  # fmt: skip
    """One tile: `rows` rows from `row` on, key-value head `head`."""
    size = q.shape[2]
    group = q.shape[1] // k_cache.shape[1]
    block_size, width = k_cache.shape[3], v_cache.shape[3]
    pairs = rows * group
    # scratch: queries, scores, outputs, states
    queries = scratch
    scores = queries + pairs * width * 4
    outs = scores + pairs * CHUNK * 4
    states = outs + pairs * width * 4
    for r in range(rows):
        for g in range(group):
            pair = r * group + g
            source = q.ctypes.data + ((row + r) * q.shape[1] + head * group + g) * size * 4
            for i in range(size):
                simd.put_float32(queries, pair * size + i, simd.get_float32(source, i))
            for i in range(width):
                simd.put_float32(outs, pair * width + i, np.float32(0))
            simd.put_float32(states, 2 * pair, simd.NEGATIVE_INFINITY)
            simd.put_float32(states, 2 * pair + 1, np.float32(0))

    last = np.int64(positions[row + rows - 1]) + 1
    begin = max(0, np.int64(positions[row]) + 1 - window) if window else 0
    k_block = k_cache.shape[1] * size * block_size * 4
    v_block = v_cache.shape[1] * width * block_size * 4
    k_base = k_cache.ctypes.data + head * size * block_size * 4
    v_base = v_cache.ctypes.data + head * width * block_size * 4
    for chunk in range(begin // CHUNK * CHUNK, last, CHUNK):
        low = max(begin, chunk) // block_size * block_size
        high = min(last, chunk + CHUNK)
        for place in range(low, high, block_size):
            keys = k_base + np.int64(table[place // block_size]) * k_block
            _score_block(queries, size, pairs, keys, block_size, scores + 4 * (place - chunk))
        length = (high - low + LANES - 1) // LANES * LANES
        for pair in range(pairs):
            position = np.int64(positions[row + pair // group])
            first = max(0, position + 1 - window) if window else 0
            _soften(scores + 4 * (pair * CHUNK + low - chunk), first - low, position + 1 - low,
                    length, states + 8 * pair, outs + pair * width * 4, width)  # fmt: skip
        for place in range(low, high, block_size):
            start = max(place, begin)
            values = v_base + np.int64(table[place // block_size]) * v_block
            _add_values(scores + 4 * (start - chunk), pairs,
                        values + (start - place) * width * 4,
                        min(place + block_size, high) - start, width, outs)  # fmt: skip

    for pair in range(pairs):
        inverse = np.float32(1) / simd.get_float32(states, 2 * pair + 1)
        r, g = pair // group, pair % group
        target = out.ctypes.data + ((row + r) * q.shape[1] + head * group + g) * size * 4
        for i in range(size):
            simd.put_float32(target, i, simd.get_float32(outs, pair * width + i) * inverse)


@njit
def attention(
    q: Any, positions: Any, block_tables: Any, k_cache: Any, v_cache: Any, window: int,
    tiles: Any, counter: int, out: Any, scratch: int,
) -> None:  # fmt: skip
    """Attend: q (T, heads, size), scaled and rotated, to out (T, heads, size).

    Threads take tiles off `counter`, the address of an int64 that begins at 0. `window` is the
    number of positions that a row sees, or 0. Caches as in `kernels.rotate_and_store`; `scratch`
    is the address of this thread's `scratch_floats`.
    """
    kv_heads = k_cache.shape[1]
    while True:
        task = atomic_add(counter, 1)
        if task >= len(tiles) * kv_heads:
            return
        tile, head = task // kv_heads, task % kv_heads
        sequence, row, rows = tiles[tile, 0], tiles[tile, 1], tiles[tile, 2]
        _attend_tile(q, row, rows, head, positions, block_tables[sequence], k_cache, v_cache,
                     window, out, scratch)  # fmt: skip
