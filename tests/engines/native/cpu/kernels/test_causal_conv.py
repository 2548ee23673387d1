"""The causal convolution beside NumPy: the same bits for any cut into chunks and any tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.causal_conv import causal_conv
from quire.engines.native.cpu.kernels.rowwise import task_range
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr

Floats = NDArray[np.float32]


def convolve(
    x: Floats, weight: Floats, bias: Floats | None, silu: bool, cuts: list[int], *,
    tasks: int = 1, saves: list[int] | None = None,
) -> tuple[Floats, Floats]:  # fmt: skip
    """The outputs of one sequence in slot 1, and the states of all slots."""
    rows, channels = x.shape
    width = weight.shape[1]
    states = np.full((rows + 2, width - 1, channels), np.nan, np.float32)
    taps, out = np.ascontiguousarray(weight.T), np.full((rows, channels + 3), np.nan, np.float32)
    slots = np.array(saves if saves is not None else [-1] * rows, np.int32)
    edges = [0, *cuts, rows]
    for start, stop in itertools.pairwise(edges):
        for task in range(tasks):
            first, end = task_range(task, tasks, channels, 16)
            causal_conv(
                ptr(x[start:]), x.strides[0], stop - start, channels, first, end, ptr(taps), width,
                ptr(bias), silu, ptr(states), states.strides[0], 1, ptr(slots[start:]), start == 0,
                ptr(out[start:]), out.strides[0],
            )  # fmt: skip
    return out[:, :channels], states


@pytest.mark.parametrize("silu", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("width", "channels"), [(3, 40), (4, 16), (2, 5), (4, 37)])
def test_causal_conv(width: int, channels: int, biased: bool, silu: bool) -> None:
    x, weight = floats(9, channels), floats(channels, width)
    bias = floats(channels) if biased else None
    state = np.zeros((width - 1, channels), np.float32)
    expected, state = reference.causal_conv(x, weight, bias, state, silu)
    out, states = convolve(x, weight, bias, silu, [])
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(states[1], state)


@given(st.sets(st.integers(1, 11)), st.integers(1, 4), st.integers(0, 2))
def test_cuts_and_tasks_change_no_bit(cuts: set[int], tasks: int, short: int) -> None:
    x, weight, bias = floats(12 - short, 50), floats(50, 4), floats(50)
    whole = convolve(x, weight, bias, True, [])
    cut = convolve(x, weight, bias, True, sorted(c for c in cuts if c < len(x)), tasks=tasks)
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_array_equal(one, other)


def test_saved_states_are_those_after_their_rows() -> None:
    x, weight = floats(6, 20), floats(20, 3)
    _, states = convolve(x, weight, None, False, [4], saves=[-1, 3, -1, 0, 5, -1])
    np.testing.assert_array_equal(states[3], x[:2])
    np.testing.assert_array_equal(states[0], x[2:4])
    np.testing.assert_array_equal(states[5], x[3:5])
    np.testing.assert_array_equal(states[1], x[4:])
    assert np.isnan(states[2]).all()


def test_in_place() -> None:
    x, weight = floats(5, 33), floats(33, 4)
    expected, _ = convolve(x, weight, None, True, [])
    state, taps = np.zeros((3, 33), np.float32), np.ascontiguousarray(weight.T)
    causal_conv(
        ptr(x), x.strides[0], 5, 33, 0, 33, ptr(taps), 4, 0, True, ptr(state), 0, 0, 0, False,
        ptr(x), x.strides[0],
    )  # fmt: skip
    np.testing.assert_array_equal(x, expected)
