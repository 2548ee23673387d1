"""Linear maps of 8-bit floats: the numbers are torch's, the products those of the same matrix in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels import float8_linear, layout, linear
from quire.engines.native.cpu.weights.float8 import Float8Weight, float8_weight
from quire.engines.native.cpu.weights.linear_map import make_map
from quire.quantization.float8 import VALUES, Float8Matrix
from tests.engines.native.cpu.kernels.arrays import floats, ptr

NAN = (0x7F, 0xFF)


def some_matrix(columns: int, depth: int, repeat: int, group: int) -> Float8Matrix:
    """Of all codes but those of NaN."""
    random = np.random.default_rng(columns * depth)
    codes = random.choice([one for one in range(256) if one not in NAN], (columns, depth))
    shape = (-(-columns // repeat), -(-depth // group))
    scales = (random.random(shape) * 0.01 + 1e-4).astype(np.float32)
    return Float8Matrix(codes.astype(np.uint8), scales, repeat, group)


def product(
    weight: Float8Weight | NDArray[np.float32],
    x: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
    *,
    tasks: int = 1,
    before: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    out = (
        np.full((len(x), weight.shape[0]), np.nan, np.float32) if before is None else before.copy()
    )
    for task in range(tasks):
        own, adds = make_map(weight, bias), int(before is not None)
        linear.linear(task, tasks, ptr(x), 0, len(x), own, ptr(out), adds)
    return out


def test_values_are_torchs() -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    wanted = codes.view(torch.float8_e4m3fn).float().numpy()
    known = [code for code in range(256) if code not in NAN]
    assert np.isnan(wanted[list(NAN)]).all()
    np.testing.assert_array_equal(VALUES[known], wanted[known])
    np.testing.assert_array_equal(np.signbit(VALUES[known]), np.signbit(wanted[known]))


@pytest.mark.parametrize("rows", [1, 2, 7, float8_linear.FEW_ROWS + 1, 200])
@pytest.mark.parametrize(
    ("columns", "depth", "repeat", "group"),
    [
        (37, 64, 128, 128),
        (48, 9, 128, 128),
        (50, 130, 16, 64),
        (9, 2100, 3, 128),
        (21, 1100, 1, 4000),
        (130, 300, 128, 128),
        (13, 700, 5, 192),
    ],
)
def test_products_are_those_of_float32(
    rows: int, columns: int, depth: int, repeat: int, group: int
) -> None:
    matrix, x = some_matrix(columns, depth, repeat, group), floats(rows, depth)
    weight = float8_weight(matrix)
    assert weight is not None
    assert weight.codes is matrix.codes
    full = matrix.dequantized()
    codes = torch.from_numpy(matrix.codes).view(torch.float8_e4m3fn).float().numpy()
    spread = np.repeat(np.repeat(matrix.scales, repeat, 0)[:columns], group, 1)[:, :depth]
    np.testing.assert_array_equal(full, codes * spread)
    bias, before = floats(columns), floats(rows, columns)
    wanted = product(full, x, bias, before=before)
    for tasks in (1, 2, 5):
        np.testing.assert_array_equal(product(weight, x, bias, tasks=tasks, before=before), wanted)
    np.testing.assert_array_equal(product(weight, x), product(full, x))


def test_parts_of_a_matrix() -> None:
    """Columns that begin inside a block keep their scales, and those in a row are not copied."""
    matrix = some_matrix(40, 300, 16, 128)
    full = matrix.dequantized()
    part = matrix.take(slice(5, 21))
    assert np.shares_memory(part.codes, matrix.codes)
    np.testing.assert_array_equal(part.dequantized(), full[5:21])
    apart = np.array([39, 0, 17])
    np.testing.assert_array_equal(matrix.take(apart).dequantized(), full[apart])


def test_groups_that_are_too_small() -> None:
    assert float8_weight(some_matrix(8, 100, 4, layout.LEAST_SPAN // 2)) is None
    assert float8_weight(some_matrix(8, 100, 4, 96)) is None
