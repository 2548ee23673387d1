"""Kernels that act on rows, beside NumPy: the same result for any number of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import attention, rowwise
from quire.engines.native.cpu.kernels.arguments import Norm
from quire.engines.native.cpu.kernels.layout import RUN, padded
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.models.rope import cosines_and_sines
from quire.weights.safetensors import round_to_bfloat16
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr


def norm_of(
    weight: NDArray[np.float32] | None,
    bias: NDArray[np.float32] | None = None,
    *,
    is_layer: bool = False,
    stride: int = 0,
) -> Norm:
    norm = Norm()
    norm.weight, norm.bias = ptr(weight), ptr(bias)
    norm.kernel = kernel_address("layer_norm") if is_layer else 0
    norm.stride, norm.eps = stride, 1e-5
    return norm


def normed(norm: Norm, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The norm of all rows, in three tasks."""
    out = np.full_like(x, np.nan)
    for task in range(3):
        rowwise.norm_rows(task, 3, norm, ptr(x), *x.shape, ptr(out))
    return out


@pytest.mark.parametrize("size", [1, 7, 8, 64, 100])
def test_norms_by_the_root_of_the_mean_square(size: int) -> None:
    x, weight = floats(5, size), floats(size)
    found = normed(norm_of(weight), x)
    np.testing.assert_allclose(found, reference.rms_norm(x, weight, 1e-5), rtol=2e-6)


@pytest.mark.parametrize("parts", [0, 1, 2])
@pytest.mark.parametrize("size", [2, 7, 8, 64, 100])
def test_layer_norms(size: int, parts: int) -> None:
    """Without weight and bias, with the one, with both; and of numbers whose mean is far from 0."""
    weight, bias = (*(floats(size), floats(size))[:parts], None, None)[:2]
    norm = norm_of(weight, bias, is_layer=True)
    for x, error in ((floats(5, size), 5e-6), (floats(5, size) * 0.01 + 50, 2e-3)):
        wide = x.astype(np.float64)
        centred = wide - wide.mean(-1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        expected = expected * (1 if weight is None else weight) + (0 if bias is None else bias)
        np.testing.assert_allclose(normed(norm, x), expected, rtol=error, atol=error)
        also = reference.layer_norm(x, weight, bias, 1e-5)
        np.testing.assert_allclose(also, expected, rtol=error, atol=error)


def test_nan_shows_in_norms_and_clips() -> None:
    x = floats(2, 20)
    x[1, 3] = np.nan
    found = normed(norm_of(None, is_layer=True), x)
    assert np.isfinite(found[0]).all()
    assert np.isnan(found[1]).all()
    rowwise.clip_columns(ptr(x), 2, 20, 2, 19, 0.5)
    assert np.isnan(x[1, 3])
    assert np.nanmax(np.abs(x[:, 2:19])) == 0.5


def test_clipped_columns_alone_are_clipped() -> None:
    x = floats(3, 50) * 3
    expected = x.copy()
    expected[:, 16:40] = expected[:, 16:40].clip(-0.7, 0.7)
    rowwise.clip_columns(ptr(x), 3, 50, 16, 40, 0.7)
    np.testing.assert_array_equal(x, expected)


def test_rows_of_a_table_are_added() -> None:
    table, x = floats(9, 21), floats(5, 21)
    indices = np.array([3, 3, 8, 0, 1], np.int32)
    expected = x + table[indices]
    for task in range(2):
        rowwise.add_table_rows(task, 2, ptr(table), 21, ptr(indices), 5, ptr(x))
    np.testing.assert_array_equal(x, expected)


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


@pytest.mark.parametrize("one_row", [False, True])
def test_multiply_columns(one_row: bool) -> None:
    x, y, out = floats(4, 30), floats(1 if one_row else 4, 25), np.zeros((4, 21), np.float32)
    for task in range(3):
        first, end = rowwise.task_range(task, 3, 21, 4)
        rowwise.multiply_columns(
            ptr(x), x.strides[0], ptr(y), 0 if one_row else y.strides[0], 4, first, end, ptr(out),
            out.strides[0],
        )  # fmt: skip
    np.testing.assert_array_equal(out, x[:, :21] * y[:, :21])


def test_logits_are_scaled_and_capped_once() -> None:
    logits = floats(3, 50) * 20
    expected = reference.soft_cap(logits * np.float32(0.4), 5.0)
    for task in range(3):
        rowwise.scale_and_soft_cap(task, 3, ptr(logits), 3, 50, 0.4, 5.0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5)


@pytest.mark.parametrize("norms", ["none", "first", "each", "last"])
@pytest.mark.parametrize(
    ("size", "rotary", "interleaved"),
    [(6, 6, 0), (16, 16, 0), (20, 20, 0), (20, 12, 0), (20, 10, 1), (36, 36, 1), (20, 0, 0)],
)
def test_rotate_and_store(size: int, rotary: int, interleaved: int, norms: str) -> None:
    """`norms` are of all heads alike, of each head its own, or of heads that are rotated already."""
    rows, heads, kv_heads, block_size, scale = 5, 4, 2, 16, 0.3
    q, k, v = floats(rows, heads, size), floats(rows, kv_heads, size), floats(rows, kv_heads, size)
    each = norms == "each"
    q_norm, k_norm = (floats(count if each else 1, size) for count in (heads, kv_heads))
    q_struct, k_struct = (
        None if norms == "none" else norm_of(one, stride=4 * size if each else 0)
        for one in (q_norm, k_norm)
    )
    positions = np.array([3, 0, 31, 7, 8], np.int32)
    slots = np.array([40, 2, 17, 16, 63], np.int64)
    frequencies = (1 / 100 ** (np.arange(rotary // 2) / size)).astype(np.float32)
    cosines, sines = cosines_and_sines(frequencies, 1.0, 32)
    caches = [
        np.zeros((4, kv_heads, *shape), np.float32)
        for shape in ((size, block_size), (block_size, padded(size)))
    ]
    expected = [cache.copy() for cache in caches]
    caches = [np.zeros((kv_heads, RUN, *cache.shape[2:]), np.float32) for cache in caches]

    def rotated(x: NDArray[np.float32], norm: NDArray[np.float32]) -> NDArray[np.float32]:
        x = reference.rms_norm(x, norm, 1e-5) if norms in ("first", "each") else x
        x = reference.rotate(x, cosines[positions], sines[positions], bool(interleaved))
        return reference.rms_norm(x, norm, 1e-5) if norms == "last" else x

    expected_q = rotated(q, q_norm) * np.float32(scale)
    reference.store(rotated(k, k_norm), v, slots, *expected)
    angles = (ptr(cosines), ptr(sines)) if rotary else (0, 0)
    for first in range(2):  # half of the heads at a time
        rowwise.rotate_heads(
            ptr(q), rows, heads, size, 2 * first, 2 * first + 2, q_struct, norms == "last",
            scale, ptr(positions), *angles, rotary, interleaved,
        )  # fmt: skip
        one_head = (kv_heads, size, first, first + 1)
        rowwise.rotate_heads(
            ptr(k),
            rows,
            *one_head,
            k_struct,
            norms == "last",
            1.0,
            ptr(positions),
            *angles,
            rotary,
            interleaved,
            norms == "last",
        )
        attention.store_keys(ptr(k), rows, *one_head, ptr(slots), block_size, 0, ptr(caches[0]), 0)
        attention.store_values(
            ptr(v), rows, *one_head, ptr(slots), block_size, 0, ptr(caches[1]), 0
        )
    np.testing.assert_allclose(q, expected_q, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(caches[0][:, :4].swapaxes(0, 1), expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(caches[1][:, :4].swapaxes(0, 1), expected[1])


def test_task_ranges_cover_everything_once() -> None:
    for count in (0, 1, 15, 16, 100):
        for threads in (1, 2, 7):
            ranges = [rowwise.task_range(thread, threads, count, 16) for thread in range(threads)]
            covered = [i for first, end in ranges for i in range(first, end)]
            assert covered == list(range(count))
            assert all(first % 16 == 0 or first == count for first, _ in ranges)
