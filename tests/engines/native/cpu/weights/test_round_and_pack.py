"""Rounding at load by compiled code is that of `quantization.rounding`, in the order of the tiles."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.weights.packed import PackedMatrix, pack, round_and_pack
from quire.errors import WeightsError
from quire.quantization.rounding import quantize
from quire.weights.safetensors import round_to_bfloat16, widen

SETTINGS = [(8, 64), (8, 32), (4, 32)]


def weights(columns: int, depth: int, seed: int = 0) -> NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_t(4, (columns, depth)).astype(np.float32)
    values[3, :64] = 0
    values[4, 5] = 40.0
    return values


def scales_of(packed: PackedMatrix) -> NDArray[np.float32]:
    """(columns, groups)"""
    wide = packed.scales.astype(np.float32) * packed.unit
    return wide.transpose(0, 2, 1).reshape(-1, wide.shape[1])[: packed.columns]


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
@pytest.mark.parametrize("shape", [(70, 256), (16, 200), (200, 64)])
def test_the_result_is_that_of_numpy(
    bits: Literal[4, 8], group: int, shape: tuple[int, int]
) -> None:
    """With 8 bits, bit for bit; with 4, where the grids fit differently well."""
    values = weights(*shape)
    made = round_and_pack(values, bits, group, threads=2)
    plainly = pack(quantize(values, bits=bits, group=group), group)
    assert (made.shape, made.span, made.repeat) == (plainly.shape, group, 1)
    assert made.codes.shape == plainly.codes.shape
    if bits == 8:
        assert np.array_equal(made.codes, plainly.codes)
        assert np.array_equal(scales_of(made), scales_of(plainly))
        return
    one, other = scales_of(made), scales_of(plainly)
    same = np.isclose(one, other, rtol=2e-3)
    assert same.mean() > 0.98
    equal = (made.codes == plainly.codes).mean()
    assert equal > 0.97


@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_stored_types_and_threads_change_nothing(bits: Literal[4, 8], group: int) -> None:
    halves = round_to_bfloat16(weights(90, 512))
    expected = round_and_pack(widen(halves), bits, group, threads=1)
    for values, threads in ((halves, 1), (halves, 3), (widen(halves), 2)):
        made = round_and_pack(values, bits, group, threads)
        assert np.array_equal(made.codes, expected.codes)
        assert np.array_equal(made.scales, expected.scales)


def test_four_bits_err_no_more_than_in_numpy() -> None:
    values = weights(64, 1024, seed=5)
    plainly = quantize(values, bits=4, group=32).dequantized()
    packed = round_and_pack(values, 4, 32, threads=1)
    codes = packed.codes.reshape(4, -1, 16, 4)
    low, high = codes & 15, codes >> 4
    steps = np.stack((low, high), axis=2)  # (blocks, pairs, half, column, depth)
    plain = steps.transpose(0, 3, 1, 2, 4).reshape(64, 1024)
    mine = (plain.astype(np.float32) - 8) * np.repeat(scales_of(packed), 32, axis=1)

    def error(found: NDArray[Any]) -> float:
        return float(np.square(found - values).sum())

    assert error(mine) < 1.002 * error(plainly)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("bits", "group"), SETTINGS)
def test_what_is_no_number_is_refused(bits: Literal[4, 8], group: int, bad: float) -> None:
    values = weights(20, 128)
    values[11, 70] = bad
    with pytest.raises(WeightsError, match="infinities or NaN"):
        round_and_pack(values, bits, group, threads=1)
