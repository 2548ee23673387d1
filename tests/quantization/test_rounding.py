"""Rounding against a plain version, against llama.cpp's grids, and against itself in pieces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.errors import WeightsError
from quire.quantization import rounding
from quire.quantization.rounding import quantize
from quire.weights.safetensors import round_to_bfloat16, widen

Floats = NDArray[np.float32]


def weights(columns: int, depth: int, seed: int = 0) -> Floats:
    """Heavy tails, as weights have them."""
    generator = np.random.default_rng(seed)
    return generator.standard_t(6, (columns, depth)).astype(np.float32)


def squares(matrix: Floats, **options: Any) -> float:
    found = quantize(matrix, **options)
    return float(((found.dequantized().astype(np.float64) - matrix) ** 2).sum())


def plain_grids(matrix: Floats, group: int) -> tuple[float, float]:
    """The squared errors of plain grids of four bits: the extreme at -8, and the range in 15."""
    parts = matrix.reshape(-1, group).astype(np.float64)
    extreme = np.take_along_axis(parts, np.abs(parts).argmax(1)[:, None], 1)
    scale = extreme / -8
    about_0 = np.clip(np.rint(parts / scale), -8, 7) * scale
    low, high = parts.min(1, keepdims=True), parts.max(1, keepdims=True)
    scale = (high - low) / 15
    zero = np.rint(-low / scale)
    ranged = (np.clip(np.rint(parts / scale) + zero, 0, 15) - zero) * scale
    return float(((parts - about_0) ** 2).sum()), float(((parts - ranged) ** 2).sum())


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_search_beats_plain_grids(group: int, seed: int) -> None:
    matrix = weights(64, 512, seed)
    about_0, ranged = plain_grids(matrix, group)
    symmetric = squares(matrix, bits=4, group=group)
    free = squares(matrix, bits=4, group=group, symmetric=False)
    assert symmetric < 0.93 * about_0
    assert free < 0.93 * ranged
    assert free < 0.92 * symmetric


@pytest.mark.parametrize("group", [32, 128])
def test_the_search_is_close_to_the_best(group: int) -> None:
    """Within 2 % of 400 grids, each with the scale that fits best."""
    parts = weights(16, 256).reshape(-1, group).astype(np.float64)
    total = (parts**2).sum(1)
    best = np.full(len(parts), np.inf)
    extreme = np.abs(parts).max(1)
    for steps in np.linspace(4, 14, 200):
        for sign in (-1, 1):
            numbers = np.clip(np.rint(parts * (sign * steps / extreme)[:, None]), -8, 7)
            along, length = (parts * numbers).sum(1), (numbers**2).sum(1)
            best = np.minimum(best, total - along**2 / np.maximum(length, 1e-9))
    matrix = parts.reshape(16, 256).astype(np.float32)
    assert squares(matrix, bits=4, group=group) < 1.02 * best.sum()


@pytest.mark.parametrize("symmetric", [True, False])
def test_eight_bits_are_off_by_half_a_step_at_most(symmetric: bool) -> None:
    matrix = weights(32, 200)
    found = quantize(matrix, bits=8, group=64, symmetric=symmetric)
    assert found.scales.shape == (32, 4)
    steps = np.repeat(found.scales, 64, axis=1)[:, :200]
    # Where the range's ends fall between two numbers, the one beyond may be cut off by one more half.
    most = 0.5 if symmetric else 1.0
    assert (np.abs(found.dequantized() - matrix) <= (most + 1e-4) * steps).all()
    assert (found.zeros == 128).all() == symmetric


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([8, 32, 64]),
    symmetric=st.booleans(),
    columns=st.integers(1, 9),
    depth=st.integers(1, 150),
)
def test_every_number_is_the_nearest(
    seed: int, bits: Any, group: int, symmetric: bool, columns: int, depth: int
) -> None:
    """No other number of the same grid is closer to the weight than the one that was taken."""
    matrix = weights(columns, depth, seed)
    found = quantize(matrix, bits=bits, group=group, symmetric=symmetric)
    group = found.group
    grid = np.arange(2**bits)
    for k in range(depth):
        scale, zero = found.scales[:, k // group, None], found.zeros[:, k // group, None]
        distances = np.abs(
            scale.astype(np.float64) * (grid - zero.astype(int)) - matrix[:, k, None]
        )
        taken = np.take_along_axis(distances, found.codes[:, k, None].astype(int), 1)[:, 0]
        assert (taken <= distances.min(1) + 1e-5 * np.abs(scale[:, 0])).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_threads_and_chunks_change_no_bit(
    bits: Any, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = weights(37, 300)
    options: dict[str, Any] = {"bits": bits, "group": 64, "symmetric": symmetric}
    whole = quantize(matrix, **options)
    for chunk, threads in ((300, 1), (1000, 2), (1, 3)):
        monkeypatch.setattr(rounding, "_CHUNK", chunk)
        found = quantize(matrix, threads=threads, **options)
        for one, other in (
            (found.codes, whole.codes), (found.scales, whole.scales), (found.zeros, whole.zeros),
        ):  # fmt: skip
            np.testing.assert_array_equal(one, other)
    alone = quantize(matrix[5:6], **options)
    np.testing.assert_array_equal(alone.codes, whole.codes[5:6])


def test_types_of_weights() -> None:
    halves = round_to_bfloat16(weights(8, 64))
    for narrow, wide in ((halves, widen(halves)), (weights(8, 64).astype(np.float16), None)):
        wanted = quantize(narrow.astype(np.float32) if wide is None else wide, bits=4, group=32)
        found = quantize(narrow, bits=4, group=32)
        np.testing.assert_array_equal(found.codes, wanted.codes)
        np.testing.assert_array_equal(found.scales, wanted.scales)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_odd_groups(bits: Any, symmetric: bool) -> None:
    """Nothing but 0, one weight alone, all of one sign, numbers near the smallest."""
    matrix = np.zeros((6, 32), np.float32)
    matrix[1, 3] = 2.5
    matrix[2] = np.linspace(1, 2, 32)
    matrix[3] = -np.linspace(1, 2, 32)
    matrix[4] = 1e-30
    matrix[5] = 3e-45  # no scale so small has an inverse
    found = quantize(matrix, bits=bits, group=32, symmetric=symmetric).dequantized()
    assert not found[0].any()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found[1], matrix[1], atol=1e-6)
    np.testing.assert_allclose(found[2:4], matrix[2:4], atol=0.15)
    np.testing.assert_allclose(found[4:], matrix[4:], atol=1e-30)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("bits", [4, 8])
def test_weights_that_are_no_numbers(value: float, bits: Any) -> None:
    matrix = weights(40, 64)
    matrix[33, 7] = value
    with pytest.raises(WeightsError, match="infinities or NaN"):
        quantize(matrix, bits=bits, group=32, threads=2)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_largest_numbers(bits: Any, symmetric: bool) -> None:
    """Sums of squares do not end before the numbers do."""
    matrix = weights(4, 64)
    matrix *= 1e36 / np.abs(matrix).max()
    found = quantize(matrix, bits=bits, group=32, symmetric=symmetric).dequantized()
    np.testing.assert_allclose(found / 1e36, matrix / 1e36, atol=0.1)


def test_a_range_without_a_scale() -> None:
    matrix = np.full((1, 32), 3e38, np.float32)
    matrix[0, :16] = -3e38
    with pytest.raises(WeightsError, match="too large"):
        quantize(matrix, bits=8, group=32, symmetric=False)
