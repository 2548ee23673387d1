"""Activations with a gate and without, and soft caps, beside NumPy, for numbers of every size."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import activations, layout, simd
from quire.engines.native.cpu.kernels.arguments import Xielu
from quire.engines.native.cpu.kernels.layout import LANES
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import floats, ptr


def test_gates_everywhere() -> None:
    """Every size of gate, tiny and huge, of both signs, and what is no number."""
    tiny = 10.0 ** np.arange(-30, 3)
    values = np.array([*tiny, *-tiny, *np.linspace(-9, 9, 500), 0, np.inf, np.nan], np.float32)
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        for kernel, exponent in (
            (activations.silu_gate, wide),
            (activations.gelu_gate, np.sqrt(8 / np.pi) * (wide + 0.044715 * wide**3)),
        ):
            gate, up = values.copy(), np.full_like(values, 2)
            kernel(ptr(gate), ptr(up), 1, gate.size, 0, gate.size)
            expected = 2 * wide / (1 + np.exp(-exponent))
            np.testing.assert_allclose(gate, expected, rtol=1e-5, atol=1e-36)


def test_clamped_swiglu_everywhere() -> None:
    """Gates and ups below and above the limits, and what is no number."""
    values = np.array([*np.linspace(-30, 30, 241), 0, 1e-30, np.inf], np.float32)
    gate, up = (one.ravel().copy() for one in np.meshgrid(values, [*-values, *values]))
    gate, up = gate.astype(np.float32), up.astype(np.float32)
    expected: Any = reference.clamped_swiglu_gate
    wanted = expected(gate.astype(np.float64), up.astype(np.float64))
    activations.clamped_swiglu_gate(ptr(gate), ptr(up), 1, gate.size, 0, gate.size)
    np.testing.assert_allclose(gate, wanted, rtol=2e-6, atol=1e-36)
    for broken in ((np.nan, 1.0), (1.0, np.nan)):
        gate, up = (np.full(LANES + 3, one, np.float32) for one in broken)
        activations.clamped_swiglu_gate(ptr(gate), ptr(up), 1, gate.size, 0, gate.size)
        assert np.isnan(gate).all()


@pytest.mark.parametrize("cap", [0.0, 0.5, 50.0])
def test_soft_cap(cap: float) -> None:
    tiny = 10.0 ** np.arange(-30, 3, dtype=np.float32)
    values = [*tiny, *-tiny, *np.linspace(-3, 3, 500) * (cap or 1), 0, np.inf, -np.inf, np.nan]
    x = np.array(values, np.float32)
    exact: Any = reference.soft_cap
    expected = exact(x.astype(np.float64) * 0.7, cap)
    activations.soft_cap(ptr(x), x.size, 0.7, cap)
    np.testing.assert_allclose(x, expected, rtol=5e-7, atol=1e-37)


@kernel
def _softplus(x: int, size: int) -> None:
    for k in range(0, size, simd.LANES):
        count = min(simd.LANES, size - k)
        value = activations.softplus(simd.load_part(x + 4 * k, count))
        simd.store_part(x + 4 * k, value, count)


def test_softplus() -> None:
    tiny = 10.0 ** np.arange(-30, 3)
    values = [*tiny, *-tiny, *np.linspace(-80, 20, 2000), 0, np.inf, -np.inf]
    x = np.array(values, np.float32)
    expected = np.logaddexp(x.astype(np.float64), 0)
    _softplus(ptr(x), x.size)
    np.testing.assert_allclose(x, expected, rtol=4e-7, atol=1e-37)
    x[0] = np.nan
    _softplus(ptr(x), 1)
    assert np.isnan(x[0])


TINY = 10.0 ** np.arange(-30, 3)
EVERYWHERE = np.array([*TINY, *-TINY, *np.linspace(-9, 9, 500), 0, np.nan], np.float32)


def activated(kind: int, x: NDArray[np.float32], xielu: Xielu | None = None) -> Any:
    out = x.copy()
    for first, end in ((0, 112), (112, x.size)):
        activations.activate_columns(kind, xielu, ptr(out), 1, x.size, first, end)
    return out


@pytest.mark.parametrize(
    ("kind", "exact", "tolerance"),
    [
        (layout.SILU, lambda x: x / (1 + np.exp(-x)), 1e-5),
        (layout.GELU, lambda x: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2, 1e-4),
        (
            layout.GELU_TANH,
            lambda x: x / (1 + np.exp(-np.sqrt(8 / np.pi) * (x + 0.044715 * x**3))),
            1e-5,
        ),
        (layout.RELU, lambda x: np.maximum(x, 0), 0),
        (layout.RELU2, lambda x: np.maximum(x, 0) ** 2, 1e-6),
    ],
)
def test_activations_everywhere(kind: int, exact: Any, tolerance: float) -> None:
    with np.errstate(over="ignore"):
        expected = exact(EVERYWHERE.astype(np.float64))
    found = activated(kind, EVERYWHERE)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=1e-36)


def test_xielu_everywhere() -> None:
    own = Xielu()
    own.positive, own.negative, own.beta, own.eps = 0.9, 1.3, 0.5, -1e-6
    x = EVERYWHERE.astype(np.float64)
    below = (np.expm1(np.minimum(x, -1e-6)) - x) * 1.3
    expected = np.where(x > 0, 0.9 * x * x, below) + 0.5 * x
    found = activated(layout.XIELU, EVERYWHERE, own)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)


def test_some_columns_alone_are_activated() -> None:
    x = floats(3, 50)
    expected = x.copy()
    expected[:, 16:40] = expected[:, 16:40].clip(0, None)
    activations.activate_columns(layout.RELU, None, ptr(x), 3, 50, 16, 40)
    np.testing.assert_array_equal(x, expected)
