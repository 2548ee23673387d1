"""Kernels that act on rows, beside NumPy: the same result for any number of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import attention, rowwise
from quire.engines.native.cpu.kernels.layout import padded
from quire.engines.native.models.rope import cosines_and_sines
from quire.weights.safetensors import round_to_bfloat16
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr


@pytest.mark.parametrize("size", [1, 7, 8, 64, 100])
def test_rms_norm(size: int) -> None:
    x, weight = floats(5, size), floats(size)
    out = np.full_like(x, np.nan)
    for thread in range(3):
        rowwise.rms_norm(thread, 3, ptr(x), 5, size, ptr(weight), 1e-5, ptr(out))
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, 1e-5), rtol=2e-6)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("size", [5, 16, 40])
def test_gather_rows(size: int, bfloat16: bool) -> None:
    table: NDArray[Any] = floats(9, size)
    if bfloat16:
        table = round_to_bfloat16(table)
    indices = np.array([3, 3, 8, 0], np.int32)
    out = np.zeros((4, size), np.float32)
    for thread in range(2):
        rowwise.gather_rows(thread, 2, ptr(table), int(bfloat16), size, ptr(indices), 4, ptr(out))
    np.testing.assert_array_equal(out, reference.gather_rows(table, indices))


def test_scaled_rows_and_sums() -> None:
    x, total = floats(7, 21), floats(7, 21)
    expected = total + x * np.float32(0.3)
    for task in range(3):
        rowwise.add_rows(task, 3, ptr(x), 7, 21, 0.3, ptr(total))
    np.testing.assert_array_equal(total, expected)
    expected = x * np.float32(0.3)
    for task in range(3):
        rowwise.scale_rows(task, 3, ptr(x), 7, 21, 0.3)
    np.testing.assert_array_equal(x, expected)


def test_logits_are_scaled_and_capped_once() -> None:
    logits = floats(3, 50) * 20
    expected = reference.soft_cap(logits * np.float32(0.4), 5.0)
    for task in range(3):
        rowwise.scale_and_soft_cap(task, 3, ptr(logits), 3, 50, 0.4, 5.0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("norms", ["none", "first", "last"])
@pytest.mark.parametrize(
    ("size", "rotary", "interleaved"),
    [(6, 6, 0), (16, 16, 0), (20, 20, 0), (20, 12, 0), (20, 10, 1), (36, 36, 1), (20, 0, 0)],
)
def test_rotate_and_store(size: int, rotary: int, interleaved: int, norms: str) -> None:
    rows, heads, kv_heads, block_size, eps, scale = 5, 4, 2, 16, 1e-6, 0.3
    q, k, v = floats(rows, heads, size), floats(rows, kv_heads, size), floats(rows, kv_heads, size)
    q_norm, k_norm = (floats(size), floats(size)) if norms != "none" else (None, None)
    positions = np.array([3, 0, 31, 7, 8], np.int32)
    slots = np.array([40, 2, 17, 16, 63], np.int64)
    frequencies = (1 / 100 ** (np.arange(rotary // 2) / size)).astype(np.float32)
    cosines, sines = cosines_and_sines(frequencies, 1.0, 32)
    caches = [
        np.zeros((4, kv_heads, *shape), np.float32)
        for shape in ((size, block_size), (block_size, padded(size)))
    ]
    expected = [cache.copy() for cache in caches]
    caches = [np.zeros((kv_heads, 4, *cache.shape[2:]), np.float32) for cache in caches]

    def rotated(x: NDArray[np.float32], norm: NDArray[np.float32] | None) -> NDArray[np.float32]:
        angles = cosines[positions], sines[positions], bool(interleaved)
        if norm is None:
            return reference.rotate(x, *angles)
        if norms == "last":
            return reference.rms_norm(reference.rotate(x, *angles), norm, eps)
        return reference.rotate(reference.rms_norm(x, norm, eps), *angles)

    expected_q = rotated(q, q_norm) * np.float32(scale)
    reference.store(rotated(k, k_norm), v, slots, *expected)
    angles = (ptr(cosines), ptr(sines)) if rotary else (0, 0)
    for first in range(2):  # half of the heads at a time
        rowwise.rotate_heads(
            ptr(q), rows, heads, size, 2 * first, 2 * first + 2, ptr(q_norm), eps, scale,
            ptr(positions), *angles, rotary, interleaved, norms == "last",
        )  # fmt: skip
        one_head = (kv_heads, size, first, first + 1)
        rowwise.rotate_heads(
            ptr(k),
            rows,
            *one_head,
            ptr(k_norm),
            eps,
            1.0,
            ptr(positions),
            *angles,
            rotary,
            interleaved,
            norms == "last",
        )
        attention.store_keys(ptr(k), rows, *one_head, ptr(slots), block_size, 0, ptr(caches[0]), 4)
        attention.store_values(
            ptr(v), rows, *one_head, ptr(slots), block_size, 0, ptr(caches[1]), 4
        )
    np.testing.assert_allclose(q, expected_q, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(caches[0].swapaxes(0, 1), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(caches[1].swapaxes(0, 1), expected[1])


def test_task_ranges_cover_everything_once() -> None:
    for count in (0, 1, 15, 16, 100):
        for threads in (1, 2, 7):
            ranges = [rowwise.task_range(thread, threads, count, 16) for thread in range(threads)]
            covered = [i for first, end in ranges for i in range(first, end)]
            assert covered == list(range(count))
            assert all(first % 16 == 0 or first == count for first, _ in ranges)
