"""Linear maps of every kind of weight, beside NumPy; quantised ones on the numbers that they stand for."""

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

from quire.engines.native.cpu.kernels import layout, linear
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.program import ffn_step
from quire.engines.native.cpu.tables.ffn import ACTIVATIONS
from quire.engines.native.cpu.weights.linear_map import make_map
from quire.engines.native.cpu.weights.packed import PackedMatrix, pack, span_for
from quire.engines.native.models.layers.ffn import Activation
from quire.quantization.matrix import QuantizedMatrix
from quire.weights.safetensors import round_to_bfloat16
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr

ROOT = Path(__file__).parents[5]


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    ("rows", "depth", "columns"),
    [(1, 64, 37), (2, 9, 48), (7, 130, 50), (200, 700, 8), (3, 3, 3), (1, 2100, 5), (40, 2100, 21)],
)
def test_linear(rows: int, depth: int, columns: int, bfloat16: bool) -> None:
    x, bias, before = floats(rows, depth), floats(columns), floats(rows, columns)
    weight: NDArray[Any] = floats(columns, depth)
    if bfloat16:
        weight = round_to_bfloat16(weight)
    for use_bias, accumulate in ((False, 0), (True, 0), (True, 1)):
        shift = bias if use_bias else None
        expected = reference.linear(x, weight, shift) + before * accumulate
        result = []
        for threads in (1, 2, 5):
            out = before.copy()
            for thread in range(threads):
                linear_map = make_map(weight, shift)
                linear.linear(thread, threads, ptr(x), 0, rows, linear_map, ptr(out), accumulate)
            result.append(out)
        np.testing.assert_allclose(result[0], expected, atol=1e-5 * depth**0.5)
        for other in result[1:]:
            np.testing.assert_array_equal(other, result[0])


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("depth", [70, 2 * linear.DEPTH_PIECE + 50])
def test_linear_is_batch_invariant(depth: int, bfloat16: bool) -> None:
    # With the larger depth, the last numbers of rows exceed what is few.
    x, alone = floats(23, depth), np.zeros((23, 45), np.float32)
    weight: NDArray[Any] = floats(45, depth)
    if bfloat16:
        weight = round_to_bfloat16(weight)
    linear_map = make_map(weight)
    for row in range(23):
        linear.linear(0, 1, ptr(x[row]), 0, 1, linear_map, ptr(alone[row]), 0)
    for rows in range(1, 24):
        out = np.zeros((rows, 45), np.float32)
        linear.linear(0, 1, ptr(x), 0, rows, linear_map, ptr(out), 0)
        np.testing.assert_array_equal(out, alone[:rows])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh", "clamped_swiglu"])
def test_gated_ffn(bias: bool, activation: Activation) -> None:
    rows, depth, columns = 5, 48, 37
    x = floats(rows, depth)
    tensors: dict[str, NDArray[Any]] = {
        "gate": floats(columns, depth) * 10,  # some beyond what exp can hold
        "up": round_to_bfloat16(floats(columns, depth)),
    }
    if bias:
        tensors |= {"gate_bias": floats(columns), "up_bias": floats(columns)}
    gate_map, up_map = (make_map(tensors[n], tensors.get(f"{n}_bias")) for n in ("gate", "up"))
    gate, up = np.zeros((2, rows, columns), np.float32)
    word = ACTIVATIONS[activation]
    for thread in range(2):
        ffn_step.gated_ffn(thread, 2, ptr(x), 0, rows, gate_map, up_map, ptr(gate), ptr(up), word)
    expected = reference.gated_ffn(x, tensors, activation)
    np.testing.assert_allclose(gate, expected, rtol=1e-4, atol=1e-3)


# ---- quantised weights


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


def quantized_rows(x: NDArray[np.float32], depth: int, span: int) -> NDArray[np.uint8]:
    out = aligned_zeros((len(x), layout.quantized_row_bytes(depth, span)), np.uint8)
    linear_map = LinearMap()
    linear_map.depth, linear_map.packed_depth = x.shape[1], depth
    linear_map.span, linear_map.row_bytes = span, out.shape[1]
    linear.quantize_rows(linear_map, ptr(x), 0, len(x), ptr(out))
    return out


def meant(rows: NDArray[np.uint8], depth: int, span: int) -> NDArray[np.float32]:
    """The floats that quantised rows stand for."""
    scales = rows[:, depth : depth + 4 * (depth // span)].copy().view(np.float32)
    return rows[:, :depth].view(np.int8) * np.repeat(scales, span, axis=1)


def multiply(rows: NDArray[np.uint8], matrix: PackedMatrix) -> NDArray[np.float32]:
    out = np.full((len(rows), matrix.columns), np.nan, np.float32)
    linear_map = make_map(matrix)
    linear.linear_columns(0, ptr(rows), len(rows), linear_map, ptr(out), 0, matrix.columns, 0)
    return out


@pytest.mark.parametrize("size", [64, 70, 200])
def test_rows_become_int8(size: int) -> None:
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
def test_nan_and_infinity_make_the_row_nan(bad: float) -> None:
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
    codes = quantized_rows(x, packed.packed_depth, packed.span)
    plain = meant(codes, packed.packed_depth, packed.span)[:, :depth]
    expected = plain.astype(np.float64) @ matrix.dequantized().astype(np.float64).T
    result = multiply(codes, packed)
    np.testing.assert_allclose(result, expected, atol=2e-6 * max(1.0, np.abs(expected).max()) * 50)
    for row in range(rows):  # batch invariance
        np.testing.assert_array_equal(multiply(codes[row : row + 1], packed)[0], result[row])


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("span", [32, 64])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_products_do_not_saturate(bits: int, span: int, sign: int) -> None:
    """All weights and activations at their ends, where sums in 16 bits come nearest to their limit."""
    matrix = some_matrix(20, 128, bits, span, symmetric=True)
    largest = (1 << bits) - 1
    matrix.codes[:] = largest
    x = np.full((7, 128), sign, np.float32)
    rows = quantized_rows(x, 128, span)
    expected = sign * (largest - (1 << (bits - 1))) * span * matrix.scales.sum(1)
    for count in (1, 2, 7):
        found = multiply(rows[:count], pack(matrix, span))
        np.testing.assert_allclose(found, np.tile(expected, (count, 1)), rtol=1e-6)


@pytest.mark.parametrize(("first", "end"), [(0, 5), (5, 30), (15, 17), (48, 100), (99, 100)])
def test_a_part_of_the_columns_with_bias_and_what_was_there(first: int, end: int) -> None:
    generator = np.random.default_rng(2)
    packed = pack(some_matrix(100, 128, 4, 32, symmetric=True), 32)
    bias, x = generator.standard_normal(100, np.float32), generator.standard_normal((7, 128))
    rows = quantized_rows(x.astype(np.float32), 128, 32)
    before = generator.standard_normal((7, 100)).astype(np.float32)
    out, linear_map = before.copy(), make_map(packed, bias)
    linear.linear_columns(0, ptr(rows), 7, linear_map, ptr(out), first, end, 1)
    expected = multiply(rows, packed) + bias + before
    np.testing.assert_allclose(out[:, first:end], expected[:, first:end], rtol=1e-5, atol=1e-4)
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
