"""Paged attention over caches of each kind, beside NumPy."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.kernels import attention, layout
from quire.engines.native.cpu.kernels.layout import RUN, padded, scratch_floats, tiles_needed
from quire.engines.native.models.alibi import alibi_slopes
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.batches import make_batch, table_of
from tests.engines.native.cpu.kernels.arrays import floats, ptr

FIRST = RUN - 5
"""The block that the tests' first one is."""


def stored_as(
    kind: int, k_cache: NDArray[np.float32], v_cache: NDArray[np.float32], size: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """The caches as memory of some kind, written by the kernels position by position.

    Their blocks are those from `FIRST` on, so that they are in several runs, which have one head more.
    """
    blocks, heads, _, block_size = k_cache.shape
    runs = -(-(FIRST + blocks) // RUN)
    keys, values = (
        np.zeros((runs, heads + 1, RUN, layout.kv_head_bytes(kind, width, block_size)), np.uint8)
        for width in (size, padded(size))
    )
    slots = FIRST * block_size + np.arange(blocks * block_size)
    k = np.ascontiguousarray(k_cache.transpose(0, 3, 1, 2)).reshape(-1, heads, size)
    v = np.ascontiguousarray(v_cache[..., :size].transpose(0, 2, 1, 3)).reshape(-1, heads, size)
    sizes = (len(slots), heads, size, 0, heads)
    attention.store_keys(ptr(k), *sizes, ptr(slots), block_size, kind, ptr(keys), keys.strides[0])
    to_values = (ptr(values), values.strides[0])
    attention.store_values(ptr(v), *sizes, ptr(slots), block_size, kind, *to_values)
    return keys, values


@pytest.mark.parametrize(("kind", "error"), [(layout.KV_FLOAT16, 1e-3), (layout.KV_INT8, 4e-2)])
def test_attention_over_narrow_caches(kind: int, error: float) -> None:
    """Near the result of float32; and exactly that of the numbers that are stored."""
    rows = [(range(5), 200, table_of(205)), (range(1), 31, table_of(32, 13))]
    batch = make_batch(rows)
    q = floats(batch.num_rows, 6, 40) * np.float32(40**-0.5)
    k_cache, v_cache = floats(15, 2, 40, 16), floats(15, 2, 16, padded(40))
    result = run_attention(batch, q, k_cache, v_cache, 0, kind=kind)
    expected = reference.attention(q, batch, k_cache, v_cache, 0)
    assert np.abs(result - expected).max() < error
    assert np.abs(result - expected).max() > error / 300  # something was rounded
    k_held, v_held = held_by(kind, k_cache, axis=2), held_by(kind, v_cache, axis=3)
    exact = reference.attention(q, batch, k_held, v_held, 0)
    np.testing.assert_allclose(result, exact, atol=2e-5)


def held_by(kind: int, cache: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """What a cache of some kind holds of these numbers; `axis` runs over one head's."""
    if kind == layout.KV_FLOAT32:
        return cache
    if kind == layout.KV_FLOAT16:
        return cache.astype(np.float16).astype(np.float32)
    inner = cache if axis == 2 else cache[..., :40]
    largest = np.abs(inner).max(axis=axis, keepdims=True)
    codes = np.rint(cache * (np.float32(127) / largest)).clip(-127, 127)  # as the kernel rounds
    return (codes * (largest * np.float32(1 / 127))).astype(np.float32)


@pytest.mark.parametrize("kind", [layout.KV_FLOAT32, layout.KV_FLOAT16, layout.KV_INT8])
def test_nan_shows_in_attention(kind: int) -> None:
    batch = make_batch([(range(2), 20, table_of(22))])
    q, k_cache, v_cache = floats(2, 2, 16), floats(2, 2, 16, 16), floats(2, 2, 16, 16)
    v_cache[0, 1, 3] = np.nan
    result = run_attention(batch, q, k_cache, v_cache, 0, kind=kind)
    assert np.isfinite(result[:, 0]).all()
    assert not np.isfinite(result[:, 1]).any()


def run_attention(
    batch: Batch, q: NDArray[np.float32], k_cache: NDArray[np.float32],
    v_cache: NDArray[np.float32], window: int, cap: float = 0.0, kind: int = layout.KV_FLOAT32,
    chunked: bool = False, sinks: NDArray[np.float32] | None = None,
    slopes: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:  # fmt: skip
    heads, size = q.shape[1:]
    kv_heads, block_size = k_cache.shape[1], k_cache.shape[3]
    keys, values = stored_as(kind, k_cache, v_cache, size)
    group = heads // kv_heads
    tiles = np.zeros((tiles_needed(batch.num_rows, batch.num_sequences, group), 3), np.int64)
    tables = batch.block_tables + FIRST
    count = attention.plan_tiles(ptr(batch.query_start), batch.num_sequences, group, ptr(tiles))
    assert count <= len(tiles)
    assert tiles[:count, 2].sum() == batch.num_rows
    out = np.full_like(q, np.nan)
    last_seen = batch.positions if batch.last_seen is None else batch.last_seen
    scratch = np.full(scratch_floats(group, size, size), np.nan, np.float32)
    for task in range(count * kv_heads):
        attention.attention(
            task, ptr(q), heads, kv_heads, size, size, ptr(batch.positions), ptr(last_seen), ptr(tables),
            tables.shape[1], block_size, kind, ptr(keys), ptr(values), window, chunked, ptr(tiles),
            ptr(out), ptr(scratch), cap, 0 if sinks is None else ptr(sinks), ptr(slopes),
            keys.strides[0], values.strides[0],
        )  # fmt: skip
    return out


@pytest.mark.parametrize("kind", [layout.KV_FLOAT32, layout.KV_FLOAT16])
@pytest.mark.parametrize("window", [0, 20, 300])
def test_rows_that_see_ahead(window: int, kind: int) -> None:
    """Two pictures with text around them, one of them longer than the window and than a chunk."""
    batch = make_batch([(range(400), 37, table_of(437)), (range(3), 60, table_of(63, 28))])
    last_seen = batch.positions.copy()
    last_seen[5:25], last_seen[30:390] = 61, 426
    batch = dataclasses.replace(batch, last_seen=last_seen)
    q = floats(batch.num_rows, 4, 32) * np.float32(32**-0.5)
    k_cache, v_cache = floats(32, 2, 32, 16), floats(32, 2, 16, 32)
    result = run_attention(batch, q, k_cache, v_cache, window, kind=kind)
    expected = reference.attention(
        q, batch, held_by(kind, k_cache, 2), held_by(kind, v_cache, 3), window
    )
    np.testing.assert_allclose(result, expected, atol=2e-5)
    causal = run_attention(
        dataclasses.replace(batch, last_seen=None), q, k_cache, v_cache, window, kind=kind
    )
    blind = np.r_[0:5, 24:30, 389:403]  # rows of text, and the last ones of the pictures
    np.testing.assert_array_equal(result[blind], causal[blind])
    assert (result[np.r_[5:20, 30:380]] != causal[np.r_[5:20, 30:380]]).any(axis=(1, 2)).all()


@pytest.mark.parametrize(
    ("window", "cap", "chunked"),
    [
        (0, 0.0, False), (1, 0.0, False), (20, 2.0, False), (300, 0.0, False), (0, 0.7, False),
        (1, 0.0, True), (24, 0.0, True), (300, 1.5, True), (900, 0.0, True),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "block_size"),
    [(4, 2, 64, 16), (3, 3, 20, 32), (7, 1, 80, 16), (40, 1, 16, 16), (8, 2, 128, 64)],
)
def test_attention(
    heads: int, kv_heads: int, size: int, block_size: int, window: int, cap: float, chunked: bool
) -> None:
    spans = ((1, 700), (37, 0), (70, 250), (1, 0))  # new rows, tokens before them
    rows, first = [], 0
    for count, before in spans:
        table = table_of(before + count, first, block_size)
        rows.append((range(count), before, table))
        first += len(table)
    batch = make_batch(rows, block_size)
    q = floats(batch.num_rows, heads, size) * np.float32(size**-0.5)
    k_cache = floats(first, kv_heads, size, block_size)
    v_cache = floats(first, kv_heads, block_size, padded(size))
    result = run_attention(batch, q, k_cache, v_cache, window, cap, chunked=chunked)
    expected = reference.attention(q, batch, k_cache, v_cache, window, cap, chunked)
    np.testing.assert_allclose(result, expected, atol=2e-5)


@pytest.mark.parametrize("kind", [layout.KV_FLOAT32, layout.KV_FLOAT16, layout.KV_INT8])
@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (20, 0.0), (0, 0.7)])
def test_attention_with_sinks(kind: int, window: int, cap: float) -> None:
    """Sinks below all scores, among them, and far above, where next to nothing is left of the values."""
    batch = make_batch([(range(37), 250, table_of(287)), (range(1), 0, table_of(1, 18))])
    q = floats(batch.num_rows, 6, 40) * np.float32(40**-0.5)
    k_cache, v_cache = floats(19, 2, 40, 16), floats(19, 2, 16, padded(40))
    sinks = np.array([-1e30, -20, 0, 2, 9, 1000], np.float32)
    result = run_attention(batch, q, k_cache, v_cache, window, cap, kind, sinks=sinks)
    if kind != layout.KV_FLOAT32:
        k_cache, v_cache = held_by(kind, k_cache, axis=2), held_by(kind, v_cache, axis=3)
    expected = reference.attention(q, batch, k_cache, v_cache, window, cap, sinks=sinks)
    np.testing.assert_allclose(result, expected, atol=2e-5)
    without = reference.attention(q, batch, k_cache, v_cache, window, cap)
    np.testing.assert_allclose(result[:, 0], without[:, 0], atol=2e-5)
    assert (result[:, 5] == 0).all()


def test_attention_far_from_zero() -> None:
    """Scores that overflow exp unless the largest is taken off."""
    batch = make_batch([(range(3), 300, table_of(303))])
    q = floats(3, 2, 16) * 100
    k_cache, v_cache = floats(19, 2, 16, 16) * 10, floats(19, 2, 16, 16)
    result = run_attention(batch, q, k_cache, v_cache, 0)
    expected = reference.attention(q, batch, k_cache, v_cache, 0)
    np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("heads", [1, 6, 8])
def test_alibi(heads: int) -> None:
    """Scores sink with the distance, also far from the beginning; with a window, too."""
    rows = [(range(40), 300, table_of(340)), (range(1), 31, table_of(32, 25))]
    batch = make_batch(rows)
    q, slopes = floats(batch.num_rows, heads, 24), alibi_slopes(heads)
    k_cache, v_cache = floats(30, heads, 24, 16), floats(30, heads, 16, padded(24))
    for window in (0, 20):
        result = run_attention(batch, q, k_cache, v_cache, window, slopes=slopes)
        expected = reference.attention(q, batch, k_cache, v_cache, window, slopes=slopes)
        np.testing.assert_allclose(result, expected, atol=5e-5)


def test_slopes() -> None:
    """Those of transformers for powers of two and for other numbers of heads."""
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
    for heads in (1, 2, 6, 16, 71):
        alibi = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
        np.testing.assert_allclose(alibi_slopes(heads), alibi[:, 0, 1].numpy(), rtol=1e-6)
