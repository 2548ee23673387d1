"""The KV cache's memory: what a block of one head holds, and writing to it.

A block of keys lies (size, block) and one of values (block, padded size), so that attention's lanes
are positions in the scores and dimensions in the output. Elements are float32, float16, or signed
bytes; bytes are followed by one float32 scale for each position, whose largest element is 127.
All blocks of a head lie together: where a sequence has blocks in a row, as a prompt mostly has, its
keys and values are read in one long stream, which the CPU's own prefetching follows.
"""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import layout, simd
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.layout import LANES

_ONE = np.int64(1)  # typed, see kernels

head_bytes = kernel(layout.kv_head_bytes)


@kernel
def _store_bytes(source: int, size: int, target: int, stride: int, scale: int) -> None:
    """`size` floats as signed bytes, `stride` bytes apart, and their one scale."""
    largest = simd.max_magnitude(source, size)
    inverse = simd.inverse_of(largest)
    for i in range(size):
        simd.put_rounded(target, i * stride, simd.get_float32(source, i) * inverse)
    simd.put_float32(scale, 0, largest * simd.ONE_127TH)


@kernel
def store_keys(
    k: int, rows: int, heads: int, size: int, first: int, end: int, slots: int, block_size: int,
    kind: int, cache: int, blocks: int,
) -> None:  # fmt: skip
    """Heads of k (rows, heads, size) to their slots in (heads, blocks, size, block_size)."""
    each = head_bytes(kind, size, block_size)
    for row in range(rows):
        slot = simd.get_int64(slots, row)
        block, offset = slot // block_size, slot % block_size
        for head in range(first, end):
            source = k + (row * heads + head) * size * 4
            target = cache + (head * blocks + block) * each
            if kind == layout.KV_FLOAT32:
                for i in range(size):
                    simd.put_float32(target, i * block_size + offset, simd.get_float32(source, i))
            elif kind == layout.KV_FLOAT16:
                for i in range(size):
                    simd.put_float16(target, i * block_size + offset, simd.get_float32(source, i))
            else:
                _store_bytes(source, size, target + offset, block_size,
                             target + size * block_size + 4 * offset)  # fmt: skip


@kernel
def store_values(
    v: int, rows: int, heads: int, size: int, first: int, end: int, slots: int, block_size: int,
    kind: int, cache: int, blocks: int,
) -> None:  # fmt: skip
    """Heads of v (rows, heads, size) to their slots in (heads, blocks, block_size, padded size)."""
    width = (size + LANES - 1) // LANES * LANES
    each = head_bytes(kind, width, block_size)
    for row in range(rows):
        slot = simd.get_int64(slots, row)
        block, offset = slot // block_size, slot % block_size
        for head in range(first, end):
            source = v + (row * heads + head) * size * 4
            target = cache + (head * blocks + block) * each
            if kind == layout.KV_FLOAT32:
                place = target + 4 * offset * width
                for i in range(0, size, LANES):
                    count = min(LANES, size - i)
                    simd.store_part(place + 4 * i, simd.load_part(source + 4 * i, count), count)
            elif kind == layout.KV_FLOAT16:
                for i in range(size):
                    simd.put_float16(target, offset * width + i, simd.get_float32(source, i))
            else:
                _store_bytes(source, size, target + offset * width, _ONE,
                             target + width * block_size + 4 * offset)  # fmt: skip
