"""Paged attention over latents in caches of each kind, beside NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.kernels import attention, latent_attention, layout
from quire.engines.native.cpu.kernels.layout import scratch_floats, tiles_needed
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.batches import make_batch, table_of
from tests.engines.native.cpu.kernels.arrays import floats, ptr

KINDS = [layout.KV_FLOAT32, layout.KV_FLOAT16, layout.KV_INT8]


def stored_as(
    kind: int, keys: NDArray[np.float32], rope: int, block_size: int
) -> NDArray[np.uint8]:
    """Keys (positions, rope + rank) as a cache of some kind, which held other numbers before."""
    positions, size = keys.shape
    blocks = positions // block_size
    each = layout.latent_block_bytes(kind, size - rope, rope, block_size)
    cache = np.zeros((blocks, each), np.uint8)
    for slot in range(positions):
        for key in (keys[slot] * -3, keys[slot]):
            latent_attention.store_latent(
                ptr(key), rope, size - rope, slot, block_size, kind, ptr(cache),
                layout.RUN * each,
            )  # fmt: skip
    return cache


def run(
    batch: Batch, q: NDArray[np.float32], keys: NDArray[np.float32], rope: int, kind: int,
    block_size: int = 16,
) -> NDArray[np.float32]:  # fmt: skip
    rows, heads, size = q.shape
    rank, cache = size - rope, stored_as(kind, keys, rope, block_size)
    tiles = np.zeros((tiles_needed(rows, batch.num_sequences, heads), 3), np.int64)
    count = attention.plan_tiles(ptr(batch.query_start), batch.num_sequences, heads, ptr(tiles))
    out = np.full((rows, heads, rank), np.nan, np.float32)
    for task in range(count * latent_attention.parts_of(heads)):
        scratch = np.full(scratch_floats(heads, size, rank), np.nan, np.float32)
        latent_attention.attend_latents(
            task, ptr(q), heads, rank, rope, ptr(batch.positions), ptr(batch.block_tables),
            batch.block_tables.shape[1], block_size, kind, ptr(cache),
            layout.RUN * cache.shape[1], ptr(tiles), ptr(out), ptr(scratch),
        )  # fmt: skip
    return out


def expected(
    batch: Batch, q: NDArray[np.float32], keys: NDArray[np.float32], rope: int, block_size: int = 16
) -> NDArray[np.float32]:
    """By the reference of attention, which has keys and values apart, and of one size."""
    size = keys.shape[1]
    blocks = keys.reshape(-1, 1, block_size, size)
    values = np.zeros_like(blocks)
    values[..., : size - rope] = blocks[..., rope:]
    both = (np.ascontiguousarray(blocks.transpose(0, 1, 3, 2)), values)
    return reference.attention(q, batch, *both, 0)[..., : size - rope]


def held_by(kind: int, keys: NDArray[np.float32], rope: int) -> NDArray[np.float32]:
    """What a cache of some kind holds of these numbers."""
    held = keys.astype(np.float16).astype(np.float32)
    if kind == layout.KV_INT8:
        latents = keys[:, rope:]
        largest = np.abs(latents).max(axis=1, keepdims=True)
        codes = np.rint(latents * (np.float32(127) / largest)).clip(-127, 127)
        held[:, rope:] = codes * (largest * np.float32(1 / 127))
    return keys if kind == layout.KV_FLOAT32 else held


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("heads", "rank", "rope", "block_size"),
    [(4, 64, 16, 16), (3, 20, 6, 32), (30, 40, 12, 16), (128, 64, 32, 16), (5, 80, 9, 64)],
)
def test_attention_over_latents(
    heads: int, rank: int, rope: int, block_size: int, kind: int
) -> None:
    """Exactly that of the numbers that are stored; the rotated part is large, and keeps its bits."""
    spans = ((1, 300), (37, 0), (5, 250), (1, 0))  # new rows, tokens before them
    rows, first = [], 0
    for count, before in spans:
        table = table_of(before + count, first, block_size)
        rows.append((range(count), before, table))
        first += len(table)
    batch = make_batch(rows, block_size)
    q = floats(batch.num_rows, heads, rope + rank) * np.float32((rope + rank) ** -0.5)
    keys = floats(first * block_size, rope + rank)
    keys[:, :rope] *= 7
    q[..., :rope] /= 7
    result = run(batch, q, keys, rope, kind, block_size)
    held = held_by(kind, keys, rope)
    np.testing.assert_allclose(result, expected(batch, q, held, rope, block_size), atol=3e-5)
    error = np.abs(result - expected(batch, q, keys, rope, block_size)).max()
    assert error < {layout.KV_FLOAT32: 3e-5, layout.KV_FLOAT16: 2e-3, layout.KV_INT8: 3e-2}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_each_other(kind: int) -> None:
    table = table_of(170)
    keys, q = floats(176, 52), floats(170, 30, 52)
    whole = run(make_batch([(range(170), 0, table)]), q, keys, 12, kind)
    for row in (0, 15, 16, 127, 128, 169):
        alone = run(make_batch([(range(1), row, table)]), q[row : row + 1], keys, 12, kind)
        np.testing.assert_array_equal(alone, whole[row : row + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_nan_shows(kind: int) -> None:
    """Of a position in the context; what lies in the cache behind it does not count."""
    keys, q = floats(48, 20), floats(1, 2, 20)
    keys[40:] = np.nan
    before, after = (
        run(make_batch([(range(1), last, [0, 1, 2])]), q, keys, 4, kind) for last in (39, 40)
    )
    assert np.isfinite(before).all()
    assert not np.isfinite(after).any()


def test_a_position_takes_one_row() -> None:
    """Half of what keys and values apart take, nearly, at DeepSeek-V3's sizes."""
    for kind in KINDS:
        once = layout.latent_block_bytes(kind, 512, 64, 16)
        apart = sum(layout.kv_head_bytes(kind, size, 16) for size in (576, 512))
        assert once / apart < (0.6 if kind == layout.KV_INT8 else 0.53)
