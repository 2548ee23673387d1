"""Activations and soft caps, beside NumPy, for numbers of every size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import activations, simd
from quire.engines.native.cpu.kernels.layout import LANES
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.kernels.arrays import ptr


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
