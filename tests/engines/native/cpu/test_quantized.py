"""Products with quantised weights beside plain NumPy on the numbers that they stand for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.cpu import layout, quantized
from quire.engines.native.cpu.memory import aligned_zeros
from quire.engines.native.cpu.packed import PackedMatrix, pack, span_for
from quire.quantization.quantized import QuantizedMatrix

ROOT = Path(__file__).parents[4]


def some_matrix(
    columns: int, depth: int, bits: int, group: int, *, symmetric: bool, seed: int = 0
) -> QuantizedMatrix:
    generator = np.random.default_rng(seed)
    groups = -(-depth // group)
    middle = 1 << (bits - 1)
    zeros = np.full((columns, groups), middle, np.uint8)
    if not symmetric:
        zeros = generator.integers(0, 2 * middle, zeros.shape).astype(np.uint8)
    return QuantizedMatrix(
        bits,
        group,
        generator.integers(0, 2 * middle, (columns, depth)).astype(np.uint8),
        (generator.random((columns, groups)) + 0.5).astype(np.float16).astype(np.float32),
        zeros,
    )


def words_of(matrix: PackedMatrix, bias: NDArray[np.float32] | None = None) -> NDArray[np.int64]:
    words = np.zeros(layout.MAP_WORDS, np.int64)
    words[layout.KIND] = layout.INT8 if matrix.bits == 8 else layout.INT4
    words[layout.WEIGHT], words[layout.SCALES] = at(matrix.codes), at(matrix.scales)
    words[layout.ZEROS], words[layout.BIAS] = at(matrix.zeros), at(bias)
    words[layout.MAP_COLUMNS], words[layout.MAP_DEPTH] = matrix.shape
    words[layout.SPAN], words[layout.REPEAT] = matrix.span, matrix.repeat
    words[layout.QUANT_DEPTH] = matrix.packed_depth
    words.view(np.float32)[2 * layout.UNIT_SCALE] = matrix.unit
    return words


def at(array: NDArray[Any] | None) -> int:
    return 0 if array is None else array.ctypes.data


def quantized_rows(x: NDArray[np.float32], depth: int, span: int) -> NDArray[np.uint8]:
    out = aligned_zeros((len(x), layout.quantized_row_bytes(depth, span)), np.uint8)
    quantized.quantize_rows(0, len(x), at(x), x.shape[1], depth, span, at(out))
    return out


def meant(rows: NDArray[np.uint8], depth: int, span: int) -> NDArray[np.float32]:
    """The numbers that quantised rows stand for."""
    scales = rows[:, depth : depth + 4 * (depth // span)].copy().view(np.float32)
    return rows[:, :depth].view(np.int8) * np.repeat(scales, span, axis=1)


def multiply(rows: NDArray[np.uint8], matrix: PackedMatrix) -> NDArray[np.float32]:
    out = np.full((len(rows), matrix.columns), np.nan, np.float32)
    words = words_of(matrix)
    quantized.quantized_columns(at(rows), len(rows), at(words), at(out), 0, matrix.columns, 0)
    return out


@pytest.mark.parametrize("size", [64, 70, 200])
def test_rows_become_whole_numbers(size: int) -> None:
    x = np.random.default_rng(1).standard_normal((5, size), np.float32)
    x[1] = 0
    depth = -(-size // 64) * 64
    rows = quantized_rows(x, depth, 64)
    padded = np.zeros((5, depth), np.float32)
    padded[:, :size] = x
    groups = padded.reshape(5, -1, 64)
    largest = np.abs(groups).max(axis=2)
    error = np.abs(meant(rows, depth, 64) - padded).reshape(groups.shape).max(axis=2)
    assert (error <= largest / 127 * 0.5001).all()
    sums = rows[:, depth + 4 * (depth // 64) :].copy().view(np.int32)[:, : depth // 64]
    codes = rows[:, :depth].view(np.int8).astype(np.int32)
    np.testing.assert_array_equal(sums, codes.reshape(groups.shape).sum(axis=2))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(bad: float) -> None:
    x = np.ones((2, 64), np.float32)
    x[1, 7] = bad
    rows = quantized_rows(x, 64, 64)
    out = multiply(rows, pack(some_matrix(20, 64, 8, 64, symmetric=True), 64))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 14),
    columns=st.integers(1, 150),
    depth=st.integers(1, 300),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([32, 64, 128, 1000]),
    symmetric=st.booleans(),
)
def test_products(
    rows: int, columns: int, depth: int, bits: int, group: int, symmetric: bool
) -> None:
    matrix = some_matrix(columns, depth, bits, min(group, depth), symmetric=symmetric)
    packed = pack(matrix, span_for(group) or 64)
    x = np.random.default_rng(depth).standard_normal((rows, depth), np.float32)
    whole = quantized_rows(x, packed.packed_depth, packed.span)
    plain = meant(whole, packed.packed_depth, packed.span)[:, :depth]
    wanted = plain.astype(np.float64) @ matrix.dequantized().astype(np.float64).T
    found = multiply(whole, packed)
    np.testing.assert_allclose(found, wanted, atol=2e-6 * max(1.0, np.abs(wanted).max()) * 50)
    for row in range(rows):  # bitwise the same in any company
        np.testing.assert_array_equal(multiply(whole[row : row + 1], packed)[0], found[row])


@pytest.mark.parametrize(("first", "end"), [(0, 5), (5, 30), (15, 17), (48, 100), (99, 100)])
def test_a_part_of_the_columns_with_bias_and_what_was_there(first: int, end: int) -> None:
    generator = np.random.default_rng(2)
    packed = pack(some_matrix(100, 128, 4, 32, symmetric=True), 32)
    bias, x = generator.standard_normal(100, np.float32), generator.standard_normal((7, 128))
    rows = quantized_rows(x.astype(np.float32), 128, 32)
    before = generator.standard_normal((7, 100)).astype(np.float32)
    out, words = before.copy(), words_of(packed, bias)
    quantized.quantized_columns(at(rows), 7, at(words), at(out), first, end, 1)
    wanted = multiply(rows, packed) + bias + before
    np.testing.assert_allclose(out[:, first:end], wanted[:, first:end], rtol=1e-5, atol=1e-4)
    outside = np.r_[0:first, end:100]
    np.testing.assert_array_equal(out[:, outside], before[:, outside])


def test_scales_of_any_size_are_kept() -> None:
    for exponent in (-30, 0, 30):
        matrix = some_matrix(16, 64, 8, 64, symmetric=True)
        scaled = QuantizedMatrix(
            8, 64, matrix.codes, np.ldexp(matrix.scales, exponent), matrix.zeros
        )
        rows = quantized_rows(np.ones((1, 64), np.float32), 64, 64)
        plain = multiply(rows, pack(matrix, 64))
        np.testing.assert_array_equal(multiply(rows, pack(scaled, 64)), np.ldexp(plain, exponent))


@pytest.mark.skipif(layout.LANES == 8, reason="this processor has no registers of 16 numbers")
def test_the_same_with_narrower_registers() -> None:
    """The whole of this file once more, as on a processor with AVX2 and no more."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", __file__],
        env={**os.environ, "QUIRE_SIMD": "avx2"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "1 skipped" in done.stdout
