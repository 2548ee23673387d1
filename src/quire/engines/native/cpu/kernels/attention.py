"""Paged attention with an online softmax, for decodes and prefill chunks alike, and its KV cache.

The work is cut into tiles: some rows of one sequence times one key-value head with all its query
heads, so that keys and values are read once for all of them. A tile walks the context in chunks of
`CHUNK` positions that begin at multiples of it, so that a row's sums run in one order whichever rows
share its tile.

A block of keys is stored as (size, block) and one of values as (block, padded size). So a register's
lanes are positions in the scores, and dimensions in the output: neither has to be reduced over
lanes. Elements are float32, float16 or int8. A block of int8 is followed by one float32 scale for
each of its positions.

`RUN` blocks of a head are stored together, then those of the next head, over all layers; after them the
next blocks. Where a sequence has neighbouring blocks, as a prompt mostly does, its keys are so read in long
streams, which the CPU's own prefetcher follows, and a cache that is hardly used takes little memory. For
other blocks, the tiles prefetch one while they read an earlier one.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel, outlined
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.activations import soft_cap
from quire.engines.native.cpu.kernels.layout import CHUNK, LANES, RUN, SCORE_STRIDE, TILE_PAIRS
from quire.engines.native.cpu.kernels.tiles import make_outer_tile

SPAN = 16  # positions of one tile of scores: no block is smaller
BLOCKS_AHEAD = 2  # a block of keys or values is prefetched so many blocks before its use
# Pairs of the tallest tile: its sums and operands fill the registers.
TALL = 6 if LANES == 8 else 12

head_bytes = kernel(layout.kv_head_bytes)


@kernel
def block_place(block: int, each: int, run_bytes: int) -> int:
    """Where a block of a head begins, from the head's first one on."""
    return block // RUN * run_bytes + block % RUN * each


# ---- writing to the cache


@kernel
def store_int8(source: int, size: int, target: int, stride: int, scale: int) -> None:
    """Write `size` floats as int8, `stride` bytes apart, and the scale that they share."""
    largest = simd.max_magnitude(source, size)
    inverse = simd.inverse_scale(largest)
    for i in range(size):
        simd.put_int8(target, i * stride, simd.get_float32(source, i) * inverse)
    simd.put_float32(scale, 0, largest * simd.ONE_127TH)


@outlined
def store_keys(
    k: int, rows: int, heads: int, size: int, first: int, end: int, slots: int, block_size: int,
    kind: int, cache: int, run_bytes: int,
) -> None:  # fmt: skip
    """Write heads of k (rows, heads, size) to their slots in (runs, heads, RUN, size, block_size).

    `run_bytes` is from one run of a head's blocks to its next.

    A key's elements lie `block_size` apart, so that they are written one by one. The tiles read
    each of them many times, and this way in whole registers.
    """
    each = head_bytes(kind, size, block_size)
    for row in range(rows):
        slot = simd.get_int64(slots, row)
        block, offset = slot // block_size, slot % block_size
        for head in range(first, end):
            source = k + (row * heads + head) * size * 4
            target = cache + head * RUN * each + block_place(block, each, run_bytes)
            if kind == layout.KV_FLOAT32:
                for i in range(size):
                    simd.put_float32(target, i * block_size + offset, simd.get_float32(source, i))
            elif kind == layout.KV_FLOAT16:
                for i in range(size):
                    simd.put_float16(target, i * block_size + offset, simd.get_float32(source, i))
            else:
                store_int8(source, size, target + offset, block_size,
                             target + size * block_size + 4 * offset)  # fmt: skip


@outlined
def store_values(
    v: int, rows: int, heads: int, size: int, first: int, end: int, slots: int, block_size: int,
    kind: int, cache: int, run_bytes: int,
) -> None:  # fmt: skip
    """Write heads of v (rows, heads, size) to slots in (runs, heads, RUN, block_size, padded size)."""
    width = (size + LANES - 1) // LANES * LANES
    each = head_bytes(kind, width, block_size)
    for row in range(rows):
        slot = simd.get_int64(slots, row)
        block, offset = slot // block_size, slot % block_size
        for head in range(first, end):
            source = v + (row * heads + head) * size * 4
            target = cache + head * RUN * each + block_place(block, each, run_bytes)
            if kind == layout.KV_FLOAT32:
                position = target + 4 * offset * width
                for i in range(0, size, LANES):
                    count = min(LANES, size - i)
                    simd.store_part(position + 4 * i, simd.load_part(source + 4 * i, count), count)
            elif kind == layout.KV_FLOAT16:
                for i in range(size):
                    simd.put_float16(target, offset * width + i, simd.get_float32(source, i))
            else:
                store_int8(source, size, target + offset * width, 1,
                             target + width * block_size + 4 * offset)  # fmt: skip


# ---- scores and values


def _make_scores(rows: int, kind: int, element: int) -> Any:
    """Compute the scores of `rows` pairs against one block of keys."""
    tile = make_outer_tile(rows, SPAN // LANES, False, kind)

    @kernel
    def scores_of(q: int, size: int, keys: int, block_size: int, scores: int, ahead: int) -> None:
        for lane in range(0, block_size, SPAN):
            tile(q, size * 4, keys + element * lane, block_size * element, size, scores + 4 * lane,
                 SCORE_STRIDE * 4, ahead + element * lane)  # fmt: skip

    return scores_of


def _make_score_block(kind: int, element: int) -> Any:
    """Compute the scores of any number of pairs against one block of keys (size, block_size)."""
    tall, four, two, one = (_make_scores(rows, kind, element) for rows in (TALL, 4, 2, 1))
    scaled = kind == layout.KV_INT8

    @kernel
    def score_block(
        q: int, size: int, pairs: int, keys: int, block_size: int, scores: int, ahead: int
    ) -> None:
        pair = 0
        while pair < pairs:
            left, source, out = pairs - pair, q + pair * size * 4, scores + pair * SCORE_STRIDE * 4
            if left >= TALL:
                tall(source, size, keys, block_size, out, ahead)
                pair += TALL
            elif left >= 4:
                four(source, size, keys, block_size, out, ahead)
                pair += 4
            elif left >= 2:
                two(source, size, keys, block_size, out, ahead)
                pair += 2
            else:
                one(source, size, keys, block_size, out, ahead)
                pair += 1
            ahead = keys  # prefetched once: the other tiles fetch what is in the cache anyway
        if scaled:
            for pair in range(pairs):
                multiply_row(scores + pair * SCORE_STRIDE * 4, keys + size * block_size, block_size)

    return score_block


def _make_values(rows: int, vectors: int, kind: int, element: int) -> Any:
    """Add weighted values to the outputs of `rows` pairs: `vectors` registers at once, then one."""
    wide = make_outer_tile(rows, vectors, True, kind)
    narrow = make_outer_tile(rows, 1, True, kind)

    @kernel
    def add_values(
        p: int, values: int, stride: int, count: int, width: int, out: int, ahead: int
    ) -> None:
        lane, out_stride = 0, width * 4
        while lane + vectors * LANES <= width:
            wide(p, SCORE_STRIDE * 4, values + element * lane, stride, count, out + 4 * lane,
                 out_stride, ahead + element * lane)  # fmt: skip
            lane += vectors * LANES
        while lane < width:
            narrow(p, SCORE_STRIDE * 4, values + element * lane, stride, count, out + 4 * lane,
                   out_stride, ahead + element * lane)  # fmt: skip
            lane += LANES

    return add_values


def make_add_values(kind: int, element: int) -> Any:
    """Add `sum_j p[pair, j] * values[j]` over `count` positions to `out[pair]`; `width` in elements.

    Values are `stride` bytes apart.

    Int8 values have one scale for each position, at `scales`: p is multiplied by it first, which
    takes one product for each position instead of one for each element.
    """
    tall = _make_values(6, TALL // 3, kind, element)
    two, one = (_make_values(rows, 4, kind, element) for rows in (2, 1))
    scaled = kind == layout.KV_INT8

    @kernel
    def add_values(
        p: int, pairs: int, values: int, stride: int, scales: int, count: int, width: int, out: int,
        ahead: int,
    ) -> None:  # fmt: skip
        if scaled:
            for pair in range(pairs):
                multiply_row(p + pair * SCORE_STRIDE * 4, scales, count)
        pair = 0
        while pair < pairs:
            left, weights = pairs - pair, p + pair * SCORE_STRIDE * 4
            target = out + pair * width * 4
            if left >= 6:
                tall(weights, values, stride, count, width, target, ahead)
                pair += 6
            elif left >= 2:
                two(weights, values, stride, count, width, target, ahead)
                pair += 2
            else:
                one(weights, values, stride, count, width, target, ahead)
                pair += 1
            ahead = values  # prefetched once, as for the keys

    return add_values


@kernel
def multiply_row(x: int, factors: int, count: int) -> None:
    """`x[j] *= factors[j]` for `count` floats."""
    for j in range(0, count, LANES):
        some = min(LANES, count - j)
        value = simd.multiply(
            simd.load_part(x + 4 * j, some), simd.load_part(factors + 4 * j, some)
        )
        simd.store_part(x + 4 * j, value, some)


_score_float32 = _make_score_block(layout.KV_FLOAT32, 4)
_score_float16 = _make_score_block(layout.KV_FLOAT16, 2)
_score_int8 = _make_score_block(layout.KV_INT8, 1)
_add_float32 = make_add_values(layout.KV_FLOAT32, 4)
_add_float16 = make_add_values(layout.KV_FLOAT16, 2)
_add_int8 = make_add_values(layout.KV_INT8, 1)


@kernel
def _score_block(
    kind: int, q: int, size: int, pairs: int, keys: int, block_size: int, scores: int, ahead: int
) -> None:
    """The scores against one block of a cache of this kind."""
    if kind == layout.KV_FLOAT32:
        _score_float32(q, size, pairs, keys, block_size, scores, ahead)
    elif kind == layout.KV_FLOAT16:
        _score_float16(q, size, pairs, keys, block_size, scores, ahead)
    else:
        _score_int8(q, size, pairs, keys, block_size, scores, ahead)


@kernel
def _add_values(
    kind: int, p: int, pairs: int, block: int, block_size: int, first: int, count: int, width: int,
    out: int, ahead: int,
) -> None:  # fmt: skip
    """Add the values of `count` positions from `first` on, of the block at address `block`."""
    start, skipped = first * width, 4 * first
    if kind == layout.KV_FLOAT32:
        _add_float32(p, pairs, block + 4 * start, 4 * width, 0, count, width, out, ahead)
    elif kind == layout.KV_FLOAT16:
        _add_float16(p, pairs, block + 2 * start, 2 * width, 0, count, width, out, ahead)
    else:
        scales = block + width * block_size + skipped
        _add_int8(p, pairs, block + start, width, scales, count, width, out, ahead)


@kernel
def plan_tiles(query_start: int, sequences: int, group: int, tiles: int) -> int:
    """Cut every sequence's rows into tiles (sequence, first row, rows), the latest rows first.

    The latest rows see the most context, so that the longest tasks begin first.
    `query_start` is the address of int32, `tiles` that of int64. Returns the number of tiles.
    """
    tile_rows = max(1, TILE_PAIRS // group)
    count = 0
    for sequence in range(sequences):
        start = simd.get_int32(query_start, sequence)
        end = simd.get_int32(query_start, sequence + 1)
        while end > start:
            rows = min(tile_rows, end - start)
            simd.put_int64(tiles, 3 * count, sequence)
            simd.put_int64(tiles, 3 * count + 1, end - rows)
            simd.put_int64(tiles, 3 * count + 2, rows)
            count += 1
            end -= rows
    return count


@kernel
def _add_slope(scores: int, length: int, slope: float, last: int) -> None:
    """ALiBi (arXiv 2108.12409): `scores[j] += slope * (j - last)`."""
    factor = simd.splat(slope)
    for j in range(0, length, LANES):
        distance = simd.add(simd.lane_numbers(), simd.splat(float(j - last)))
        simd.store(scores + 4 * j, simd.fma(distance, factor, simd.load(scores + 4 * j)))


@kernel
def softmax_chunk(
    scores: int, first: int, end: int, length: int, state: int, out: int, width: int, cap: float,
    slope: float,
) -> None:  # fmt: skip
    """One step of a pair's online softmax: a chunk's scores become weights.

    The pair sees the positions `first` to `end - 1` of the chunk. `state` holds the maximum of the
    scores so far and the sum of their exponentials. When the maximum grows, the sum and the output
    so far are scaled down to it. `cap` is the soft cap of the scores, 0 for none; with a `slope`
    they sink with the distance from the last position that the pair sees.
    """
    if first >= min(end, length):  # another pair of the tile sees the chunk; this one does not
        zero = simd.splat(0.0)
        for j in range(0, length, LANES):
            simd.store(scores + 4 * j, zero)
        return
    if cap != 0:
        soft_cap(scores, length, 1.0, cap)
    if slope != 0:
        _add_slope(scores, length, slope, end - 1)
    top = simd.splat(simd.NEGATIVE_INFINITY)
    for j in range(0, length, LANES):
        value = simd.load(scores + 4 * j)
        if first > j or end < j + LANES:  # only the edges of what the pair sees need a mask
            value = simd.keep_range(value, first - j, end - j, simd.NEGATIVE_INFINITY)
            simd.store(scores + 4 * j, value)
        top = simd.maximum(value, top)
    old = simd.get_float32(state, 0)
    new = max(old, simd.max_lanes(top))
    highest = simd.splat(new)
    total = simd.splat(0.0)
    for j in range(0, length, LANES):
        value = simd.exp_negative(simd.subtract(simd.load(scores + 4 * j), highest))
        simd.store(scores + 4 * j, value)
        total = simd.add(total, value)
    shrink = simd.exp_negative(simd.subtract(simd.splat(old), highest))
    simd.put_float32(state, 0, new)
    kept = simd.get_float32(state, 1) * simd.first_lane(shrink)
    simd.put_float32(state, 1, kept + simd.sum_lanes(total))
    for j in range(0, width, LANES):
        simd.store(out + 4 * j, simd.multiply(simd.load(out + 4 * j), shrink))


@kernel
def block_at(table: int, number: int) -> int:
    """The id of a sequence's block, by its index in the block table."""
    return simd.get_int32(table, number)


@kernel
def _first_seen(position: int, window: int, chunked: int) -> int:
    """The first position that one sees: all, those of a window, or those of its own chunk."""
    if not window:
        return 0
    if chunked:
        return position // window * window
    return max(0, position + 1 - window)


@kernel
def _attend_tile(
    q: int, heads: int, kv_heads: int, size: int, value_size: int, row: int, rows: int, head: int,
    positions: int, last_seen: int, table: int, block_size: int, kind: int, k_cache: int, v_cache: int,
    window: int, chunked: int, out: int, scratch: int, cap: float, sinks: int, slopes: int, k_run: int,
    v_run: int,
) -> None:  # fmt: skip
    """Attend with one tile: `rows` rows from `row` on, and the key-value head `head`."""
    group = heads // kv_heads
    width = (value_size + LANES - 1) // LANES * LANES
    pairs = rows * group
    # The scratch memory holds queries, scores, outputs and softmax states of all pairs.
    queries = scratch
    scores = queries + pairs * ((size + LANES - 1) // LANES * LANES) * 4
    outs = scores + pairs * SCORE_STRIDE * 4
    states = outs + pairs * width * 4
    # Pairs are copied so that they follow each other, as the tiles read them.
    for pair in range(pairs):
        source = q + ((row + pair // group) * heads + head * group + pair % group) * size * 4
        for i in range(size):
            simd.put_float32(queries, pair * size + i, simd.get_float32(source, i))
        for i in range(width):
            simd.put_float32(outs, pair * width + i, 0.0)
        # A sink is a score without a position, and the first one: it has no value to add.
        if sinks:
            sink = simd.get_float32(sinks, head * group + pair % group)
            simd.put_float32(states, 2 * pair, sink)
            simd.put_float32(states, 2 * pair + 1, 1.0)
        else:
            simd.put_float32(states, 2 * pair, simd.NEGATIVE_INFINITY)
            simd.put_float32(states, 2 * pair + 1, 0.0)

    last = simd.get_int32(last_seen, row + rows - 1) + 1  # no row before sees more
    begin = _first_seen(simd.get_int32(positions, row), window, chunked)
    k_block, v_block = head_bytes(kind, size, block_size), head_bytes(kind, width, block_size)
    k_base, v_base = k_cache + head * RUN * k_block, v_cache + head * RUN * v_block
    final = (last - 1) // block_size  # the last block of the context
    for chunk in range(begin // CHUNK * CHUNK, last, CHUNK):
        low = max(begin, chunk) // block_size * block_size
        high = min(last, chunk + CHUNK)
        end = (high + block_size - 1) // block_size  # the index of the first block after the chunk
        count = end - low // block_size
        # While keys are read, later keys of the chunk are prefetched, then its first values; while
        # values are read, later values, then the first keys of the next chunk.
        for start in range(low, high, block_size):
            number = start // block_size
            keys = k_base + block_place(block_at(table, number), k_block, k_run)
            following = number + BLOCKS_AHEAD
            if following < end:
                ahead = k_base + block_place(block_at(table, following), k_block, k_run)
            else:
                ahead = v_base + block_place(
                    block_at(table, min(following - count, final)), v_block, v_run
                )
            _score_block(kind, queries, size, pairs, keys, block_size, scores + 4 * (start - chunk),
                         ahead)  # fmt: skip
        length = (high - low + LANES - 1) // LANES * LANES
        for pair in range(pairs):
            position = simd.get_int32(positions, row + pair // group)
            first = _first_seen(position, window, chunked)
            slope = simd.get_float32(slopes, head * group + pair % group) if slopes else 0.0
            after = simd.get_int32(last_seen, row + pair // group) + 1
            softmax_chunk(scores + 4 * (pair * SCORE_STRIDE + low - chunk), first - low, after - low,
                    length, states + 8 * pair, outs + pair * width * 4, width, cap, slope)  # fmt: skip
        for block_start in range(low, high, block_size):
            start, number = max(block_start, begin), block_start // block_size
            values = v_base + block_place(block_at(table, number), v_block, v_run)
            following = min(number + BLOCKS_AHEAD, final)
            if following < end:
                ahead = v_base + block_place(block_at(table, following), v_block, v_run)
            else:
                ahead = k_base + block_place(block_at(table, following), k_block, k_run)
            _add_values(kind, scores + 4 * (start - chunk), pairs, values, block_size,
                        start - block_start, min(block_start + block_size, high) - start, width,
                        outs, ahead)  # fmt: skip

    # The softmax divides by its sum here, once, and not in every chunk.
    for pair in range(pairs):
        inverse = 1.0 / simd.get_float32(states, 2 * pair + 1)
        target = (
            out + ((row + pair // group) * heads + head * group + pair % group) * value_size * 4
        )
        for i in range(value_size):
            simd.put_float32(target, i, simd.get_float32(outs, pair * width + i) * inverse)


@kernel
def attention(
    task: int, q: int, heads: int, kv_heads: int, size: int, value_size: int, positions: int, last_seen: int,
    block_tables: int, table_width: int, block_size: int, kind: int, k_cache: int, v_cache: int, window: int,
    chunked: int, tiles: int, out: int, scratch: int, cap: float, sinks: int, slopes: int, k_run: int,
    v_run: int,
) -> None:  # fmt: skip
    """One of (number of tiles * kv_heads) tasks: attend with some of q (rows, heads, size).

    q is scaled and rotated already; out is (rows, heads, value_size). A row sees up to `last_seen`,
    which is its position or, in a picture, that of a later row. `window` is how many positions it sees up
    to its own, 0 for all. `k_run` and `v_run` are bytes from one run of a head's blocks to its
    next; `scratch` is this thread's own memory, of
    `scratch_floats`. A score s becomes `cap * tanh(s / cap)`, unless `cap` is 0. `sinks` (heads,) is one
    more score of each head in its softmax, which no cap changes; 0 for none. `slopes` are ALiBi's (heads,),
    or 0.
    `reference.attention` is the same on arrays.
    """
    tile, head = tiles + 24 * (task // kv_heads), task % kv_heads  # 24: a tile is 3 int64
    table = block_tables + 4 * table_width * simd.get_int64(tile, 0)
    _attend_tile(q, heads, kv_heads, size, value_size, simd.get_int64(tile, 1),
                 simd.get_int64(tile, 2), head, positions, last_seen, table, block_size, kind, k_cache, v_cache,
                 window, chunked, out, scratch, cap, sinks, slopes, k_run, v_run)  # fmt: skip
