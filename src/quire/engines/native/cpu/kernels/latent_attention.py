"""Paged attention over latents (see `LatentAttentionSpec`), which the cache holds once.

A position has one row for all heads: its latent, which is the value, and after it the rotated part of the
key. Rows lie one after the other, so that a register's lanes are dimensions, in the scores as in the output:
scores are summed over lanes at the end, which takes little beside some hundred products.

Rows of float32 and float16 are padded to whole registers. A block of int8 has the latents, padded, then one
float32 scale for each of them, and then the rotated parts, padded too, as float16: these are few, and some
are far larger than a latent's numbers.

A tile is some rows of one sequence and a part of the heads. It walks the context as `attention` does.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, kernel, outlined, primitive
from quire.engines.native.cpu.kernels import builders, layout, simd
from quire.engines.native.cpu.kernels.attention import (
    BLOCKS_AHEAD,
    block_at,
    block_place,
    make_add_values,
    multiply_row,
    softmax_chunk,
    store_int8,
)
from quire.engines.native.cpu.kernels.builders import INT64
from quire.engines.native.cpu.kernels.layout import (
    CHUNK,
    KV_FLOAT16,
    KV_FLOAT32,
    KV_INT8,
    LANES,
    LINE,
    SCORE_STRIDE,
    TILE_PAIRS,
)
from quire.engines.native.cpu.kernels.linear import TILE_ROWS
from quire.engines.native.cpu.kernels.rowwise import copy_row
from quire.engines.native.cpu.kernels.simd import NO, YES
from quire.engines.native.cpu.kernels.tiles import (
    build_loop,
    build_offset,
    build_tail,
    build_write,
)

_POSITIONS = 4  # of a tile of scores: every block has a multiple of it

block_bytes = kernel(layout.latent_block_bytes)


@kernel
def _padded(size: int) -> int:
    """`size` rounded up to whole registers."""
    return (size + LANES - 1) // LANES * LANES


# ---- writing to the cache


@outlined
def store_latent(
    key: int, rope: int, rank: int, slot: int, block_size: int, kind: int, cache: int,
    run_bytes: int,
) -> None:  # fmt: skip
    """Write a row's key, the rotated part and then the latent, to a slot of the cache."""
    block, offset = slot // block_size, slot % block_size
    each, latent = block_bytes(kind, rank, rope, block_size), key + 4 * rope
    target = cache + block_place(block, each, run_bytes)
    if kind == KV_FLOAT32:
        row = target + 4 * offset * _padded(rank + rope)
        copy_row(latent, row, rank)
        copy_row(key, row + 4 * rank, rope)
    elif kind == KV_FLOAT16:
        row = target + 2 * offset * _padded(rank + rope)
        for i in range(rank):
            simd.put_float16(row, i, simd.get_float32(latent, i))
        for i in range(rope):
            simd.put_float16(row, rank + i, simd.get_float32(key, i))
    else:
        scales = target + block_size * _padded(rank)
        store_int8(latent, rank, target + offset * _padded(rank), 1, scales + 4 * offset)
        rotated = scales + 4 * block_size + 2 * offset * _padded(rope)
        for i in range(rope):
            simd.put_float16(rotated, i, simd.get_float32(key, i))


# ---- scores


def _make_score_tile(rows: int, kind: int) -> Any:
    """`tile(q, q_stride, keys, key_stride, size, out, out_stride, accumulate)`, int64, strides in bytes.

    `out[r, c] (+)= sum_k q[r, k] * keys[c, k]` for `_POSITIONS` keys of a cache of this kind, whose rows are
    padded to whole registers.
    """
    element = {KV_FLOAT32: 4, KV_FLOAT16: 2, KV_INT8: 1}[kind]

    @primitive(NOTHING, *[INT] * 8)
    def score_tile(
        builder: ir.IRBuilder, q: Any, q_stride: Any, keys: Any, key_stride: Any, size: Any,
        out: Any, out_stride: Any, accumulate: Any,
    ) -> None:  # fmt: skip
        qs = [build_offset(builder, q, q_stride, r) for r in range(rows)]
        ks = [build_offset(builder, keys, key_stride, c) for c in range(_POSITIONS)]

        def products(index: Any, sums: list[Any], count: Any = None) -> list[Any]:
            q_at, key_at = (builder.mul(index, INT64(LANES * width)) for width in (4, element))
            places = [builder.add(row, q_at) for row in qs]
            left = [builders.build_load_some(builder, at, count) for at in places]
            result = list(sums)
            for c, key in enumerate(ks):
                loaded = builders.build_load_kv(builder, builder.add(key, key_at), kind)
                for r in range(rows):
                    cell = r * _POSITIONS + c
                    result[cell] = builders.build_fma(builder, left[r], loaded, result[cell])
            return result

        zero = builders.constant_vector(0.0)
        trips = builder.sdiv(size, INT64(LANES))
        sums = build_loop(builder, trips, [zero] * (rows * _POSITIONS), products)
        rest = builder.sub(size, builder.mul(trips, INT64(LANES)))
        sums = build_tail(builder, rest, sums, lambda count: products(trips, sums, count))
        build_write(builder, sums, rows, _POSITIONS, out, out_stride, INT64(0), accumulate)

    return score_tile


def _make_score_rows(kind: int) -> Any:
    """The products of any number of queries with the rows of a block."""
    tall, two, one = (_make_score_tile(rows, kind) for rows in (TILE_ROWS, 2, 1))

    @kernel
    def score_rows(
        q: int, q_stride: int, pairs: int, keys: int, key_stride: int, size: int, block_size: int,
        scores: int, accumulate: int,
    ) -> None:  # fmt: skip
        pair = 0
        while pair < pairs:
            left, source = pairs - pair, q + pair * q_stride
            count = TILE_ROWS if left >= TILE_ROWS else min(left, 2)
            for position in range(0, block_size, _POSITIONS):
                at, out = (
                    keys + position * key_stride,
                    scores + 4 * (pair * SCORE_STRIDE + position),
                )
                if count == TILE_ROWS:
                    tall(source, q_stride, at, key_stride, size, out, 4 * SCORE_STRIDE, accumulate)
                elif count == 2:
                    two(source, q_stride, at, key_stride, size, out, 4 * SCORE_STRIDE, accumulate)
                else:
                    one(source, q_stride, at, key_stride, size, out, 4 * SCORE_STRIDE, accumulate)
            pair += count

    return score_rows


_score_float32, _score_float16 = _make_score_rows(KV_FLOAT32), _make_score_rows(KV_FLOAT16)
_score_int8 = _make_score_rows(KV_INT8)


@kernel
def _score_block(
    kind: int, q: int, rank: int, rope: int, pairs: int, block: int, block_size: int, scores: int
) -> None:
    """The scores of queries, which are stored as keys are, against the rows of a block."""
    width = _padded(rank + rope)
    if kind == KV_FLOAT32:
        _score_float32(q, 4 * width, pairs, block, 4 * width, rank + rope, block_size, scores, NO)
    elif kind == KV_FLOAT16:
        _score_float16(q, 4 * width, pairs, block, 2 * width, rank + rope, block_size, scores, NO)
    else:
        scales = block + block_size * _padded(rank)
        _score_int8(q, 4 * width, pairs, block, _padded(rank), rank, block_size, scores, NO)
        for pair in range(pairs):
            multiply_row(scores + 4 * pair * SCORE_STRIDE, scales, block_size)
        _score_float16(q + 4 * rank, 4 * width, pairs, scales + 4 * block_size, 2 * _padded(rope),
                       rope, block_size, scores, YES)  # fmt: skip


# ---- values

_add_float32, _add_float16 = make_add_values(KV_FLOAT32, 4), make_add_values(KV_FLOAT16, 2)
_add_int8 = make_add_values(KV_INT8, 1)


@kernel
def _add_values(
    kind: int, p: int, pairs: int, block: int, block_size: int, rank: int, rope: int, count: int,
    out: int,
) -> None:  # fmt: skip
    """Add the latents of the first `count` positions of a block."""
    width, row = _padded(rank), _padded(rank + rope)
    if kind == KV_FLOAT32:
        _add_float32(p, pairs, block, 4 * row, 0, count, width, out, block)
    elif kind == KV_FLOAT16:
        _add_float16(p, pairs, block, 2 * row, 0, count, width, out, block)
    else:
        scales = block + block_size * width
        _add_int8(p, pairs, block, width, scales, count, width, out, block)


# ---- attention


@kernel
def _prefetch(address: int, size: int) -> None:
    for line in range(0, size, LINE):
        simd.prefetch(address + line)


@kernel
def _attend_tile(
    q: int, heads: int, first: int, end: int, rank: int, rope: int, row: int, rows: int,
    positions: int, table: int, block_size: int, kind: int, cache: int, run_bytes: int, out: int,
    scratch: int,
) -> None:  # fmt: skip
    """Attend with `rows` rows from `row` on and the heads `first` to `end - 1`."""
    own, size, width = end - first, rank + rope, _padded(rank)
    pairs, stride = rows * own, 4 * _padded(size)
    queries = scratch
    scores = queries + pairs * stride
    outs = scores + pairs * SCORE_STRIDE * 4
    states = outs + pairs * width * 4
    for pair in range(pairs):
        source = q + ((row + pair // own) * heads + first + pair % own) * size * 4
        copy_row(source + 4 * rope, queries + pair * stride, rank)
        copy_row(source, queries + pair * stride + 4 * rank, rope)
        for i in range(width):
            simd.put_float32(outs, pair * width + i, 0.0)
        simd.put_float32(states, 2 * pair, simd.NEGATIVE_INFINITY)
        simd.put_float32(states, 2 * pair + 1, 0.0)
    last = simd.get_int32(positions, row + rows - 1) + 1
    each, final = block_bytes(kind, rank, rope, block_size), (last - 1) // block_size
    for chunk in range(0, last, CHUNK):
        high = min(last, chunk + CHUNK)
        for start in range(chunk, high, block_size):
            number = start // block_size
            following = min(number + BLOCKS_AHEAD, final)
            _prefetch(cache + block_place(block_at(table, following), each, run_bytes), each)
            block = cache + block_place(block_at(table, number), each, run_bytes)
            _score_block(kind, queries, rank, rope, pairs, block, block_size,
                         scores + 4 * (start - chunk))  # fmt: skip
        length = (high - chunk + LANES - 1) // LANES * LANES
        for pair in range(pairs):
            seen = simd.get_int32(positions, row + pair // own) + 1 - chunk
            softmax_chunk(scores + 4 * pair * SCORE_STRIDE, 0, seen, length, states + 8 * pair,
                          outs + 4 * pair * width, width, 0.0, 0.0)  # fmt: skip
        for start in range(chunk, high, block_size):
            block = cache + block_place(block_at(table, start // block_size), each, run_bytes)
            _add_values(kind, scores + 4 * (start - chunk), pairs, block, block_size, rank, rope,
                        min(block_size, high - start), outs)  # fmt: skip
    for pair in range(pairs):
        inverse = 1.0 / simd.get_float32(states, 2 * pair + 1)
        target = out + ((row + pair // own) * heads + first + pair % own) * rank * 4
        for i in range(rank):
            simd.put_float32(target, i, simd.get_float32(outs, pair * width + i) * inverse)


@kernel
def parts_of(heads: int) -> int:
    """Into how many parts the heads are cut, so that there are tasks for all threads."""
    return (heads + TILE_PAIRS - 1) // TILE_PAIRS


@kernel
def attend_latents(
    task: int, q: int, heads: int, rank: int, rope: int, positions: int, block_tables: int,
    table_width: int, block_size: int, kind: int, cache: int, run_bytes: int, tiles: int, out: int,
    scratch: int,
) -> None:  # fmt: skip
    """One of (number of tiles * parts of the heads) tasks: attend with some of q (rows, heads, rope + rank).

    q is scaled and rotated already, its rotated part first; out is (rows, heads, rank).
    `run_bytes` is from one run of blocks to the next. `reference.attention` is the same on arrays.
    """
    parts = parts_of(heads)
    tile, first = tiles + 24 * (task // parts), task % parts * TILE_PAIRS
    table = block_tables + 4 * table_width * simd.get_int64(tile, 0)
    _attend_tile(q, heads, first, min(first + TILE_PAIRS, heads), rank, rope,
                 simd.get_int64(tile, 1), simd.get_int64(tile, 2), positions, table, block_size,
                 kind, cache, run_bytes, out, scratch)  # fmt: skip
