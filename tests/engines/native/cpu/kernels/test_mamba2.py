"""Mamba-2's kernels beside NumPy: the same bits for any cut into chunks and any tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quire.engines.native.cpu.kernels.mamba2 import gated_norm, selective_scan
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr

Floats = NDArray[np.float32]


class Inputs:
    """Projected rows of one sequence: x of all heads, B and C of all groups, dt of all heads."""

    def __init__(self, rows: int, heads: int, head_dim: int, groups: int, size: int) -> None:
        self.rows, self.heads, self.head_dim, self.groups, self.size = (
            rows, heads, head_dim, groups, size,
        )  # fmt: skip
        self.parts = np.cumsum([0, heads * head_dim, groups * size, groups * size, heads]).tolist()
        self.projected = floats(rows, self.parts[-1])
        self.a, self.d = -np.exp(floats(heads)), floats(heads)
        self.dt_bias = floats(heads)

    def expected(self, low: float, high: float) -> tuple[Floats, Floats]:
        """The outputs (rows, heads, head_dim), and the state of all heads after them."""
        x, b, c, dt = (self.projected[:, i:j] for i, j in itertools.pairwise(self.parts))
        shape = (self.rows, self.groups, self.size)
        each = self.heads // self.groups
        b, c = (np.repeat(one.reshape(shape), each, axis=1) for one in (b, c))
        step = np.clip(reference.softplus(dt + self.dt_bias), low, high)
        state = np.zeros((self.heads, self.size, self.head_dim), np.float32)
        x = x.reshape(self.rows, self.heads, self.head_dim)
        return reference.selective_scan(x, b, c, step, self.a, self.d, state)

    def scan(
        self, cuts: list[int], saves: list[int] | None = None, low: float = 0, high: float = np.inf
    ) -> tuple[Floats, Floats]:
        """The outputs, and the states of all slots; the sequence has slot 1."""
        out = np.full((self.rows, self.heads, self.head_dim), np.nan, np.float32)
        states = np.full((4, self.heads, self.size, self.head_dim), np.nan, np.float32)
        slots = np.array(saves or [-1] * self.rows, np.int32)
        for first, end in itertools.pairwise([0, *cuts, self.rows]):
            for head in range(self.heads):
                x, b, c, dt = (
                    ptr(self.projected[first:, start:])
                    for start in (
                        head * self.head_dim,
                        *(self.parts[i] + head * self.groups // self.heads * self.size for i in (1, 2)),
                        self.parts[3] + head,
                    )
                )  # fmt: skip
                selective_scan(
                    x, b, c, dt, self.projected.strides[0], end - first, self.head_dim, self.size,
                    float(self.a[head]), float(self.d[head]), float(self.dt_bias[head]), low, high,
                    ptr(states[0, head]), states.strides[0], 1, ptr(slots[first:]), first == 0,
                    ptr(out[first:, head]), out.strides[0],
                )  # fmt: skip
        return out, states


@pytest.mark.parametrize("limits", [(0.0, np.inf), (0.5, 0.9)])
@pytest.mark.parametrize(
    ("heads", "head_dim", "groups", "size"), [(4, 64, 1, 16), (2, 24, 2, 5), (6, 7, 2, 8), (1, 80, 1, 3)]
)  # fmt: skip
def test_selective_scan(
    heads: int, head_dim: int, groups: int, size: int, limits: tuple[float, float]
) -> None:
    inputs = Inputs(9, heads, head_dim, groups, size)
    out, states = inputs.scan([], low=limits[0], high=limits[1])
    expected, state = inputs.expected(*limits)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(states[1], state, rtol=1e-4, atol=1e-5)


@given(st.sets(st.integers(1, 9)))
def test_cuts_change_no_bit(cuts: set[int]) -> None:
    inputs = Inputs(10, 2, 21, 1, 6)
    for one, other in zip(inputs.scan([]), inputs.scan(sorted(cuts)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_saved_states_are_those_after_their_rows() -> None:
    inputs = Inputs(5, 2, 16, 1, 4)
    _, states = inputs.scan([], saves=[-1, 3, -1, 0, -1])
    for rows, slot in ((2, 3), (4, 0), (5, 1)):
        inputs.rows = rows
        np.testing.assert_array_equal(inputs.scan([])[1][1], states[slot])
    assert np.isnan(states[2]).all()


@pytest.mark.parametrize("gates_last", [False, True])
@pytest.mark.parametrize(
    ("size", "groups", "normed"), [(48, 1, True), (40, 4, True), (19, 1, False)]
)
def test_gated_norm(size: int, groups: int, normed: bool, gates_last: bool) -> None:
    x, gate, weight = floats(5, size), floats(5, size + 3), floats(size) if normed else None
    expected = reference.gated_norm(x, gate[:, :size], weight, groups, 1e-5, gates_last) * 0.5
    for task in range(3):
        gated_norm(
            task, 3, ptr(x), ptr(gate), gate.strides[0], 5, size, groups, ptr(weight), 1e-5, gates_last, 0.5
        )  # fmt: skip
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)
