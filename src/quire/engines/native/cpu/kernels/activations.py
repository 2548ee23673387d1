"""Activations and soft caps: SiLU and GELU gates of the FFN, and tanh, which caps scores and logits.

They are made of `build_exp` and one tanh of our own, since the C library computes neither on a
register. The NumPy functions of the same names in `reference` say what each means.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import kernel, primitive
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.builders import (
    build_exp,
    build_fma,
    constant_vector,
)
from quire.engines.native.cpu.kernels.simd import REGISTER

GELU_SLOPE = 1.5957691216057308  # 2 * sqrt(2 / pi)
GELU_CUBE = 0.044715


def build_tanh(builder: ir.IRBuilder, x: Any) -> Any:
    """The hyperbolic tangent, within 3 units in the last place; NaN for NaN."""
    square = builder.fmul(x, x)
    # Cephes tanhf: near 0 a polynomial, because 1 - 2 / (exp(2 x) + 1) cancels to nothing there.
    near = constant_vector(-5.70498872745e-3)
    for term in (2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1):
        near = build_fma(builder, near, square, constant_vector(term))
    near = build_fma(builder, builder.fmul(near, square), x, x)
    one = constant_vector(1.0)
    power = builder.fadd(build_exp(builder, builder.fadd(x, x)), one)
    far = builder.fsub(one, builder.fdiv(constant_vector(2.0), power))
    return builder.select(builder.fcmp_ordered("<", square, constant_vector(0.39)), near, far)


@primitive(REGISTER, REGISTER)
def tanh(builder: ir.IRBuilder, value: Any) -> Any:
    """The hyperbolic tangent of each lane; see `build_tanh`."""
    return build_tanh(builder, value)


@kernel
def soft_cap(x: int, size: int, scale: float, cap: float) -> None:
    """`x = cap * tanh(x * scale / cap)` for `size` floats at address `x`; `x * scale` for a cap of 0."""
    limit = simd.splat(cap)
    # One multiplication for the scale and for the division by the cap.
    factor = simd.splat(float(scale / cap if cap != 0 else scale))
    for k in range(0, size, simd.LANES):
        count = min(simd.LANES, size - k)
        value = simd.multiply(simd.load_part(x + 4 * k, count), factor)
        if cap != 0:
            value = simd.multiply(tanh(value), limit)
        simd.store_part(x + 4 * k, value, count)


@kernel
def silu_gate(gate: int, up: int, rows: int, size: int, first: int, end: int) -> None:
    """`gate = silu(gate) * up` of (rows, size), in the columns `first` to `end - 1`.

    silu(x) is x / (1 + exp(-x)).
    """
    one = simd.splat(1.0)
    zero = simd.splat(0.0)
    for row in range(rows):
        for column in range(first, end, simd.LANES):
            count = min(simd.LANES, end - column)
            offset = 4 * (row * size + column)
            g = simd.load_part(gate + offset, count)
            u = simd.load_part(up + offset, count)
            g = simd.divide(g, simd.add(one, simd.exp(simd.subtract(zero, g))))
            simd.store_part(gate + offset, simd.multiply(g, u), count)


@kernel
def gelu_gate(gate: int, up: int, rows: int, size: int, first: int, end: int) -> None:
    """`gate = gelu(gate) * up` in the columns `first` to `end - 1`: the approximation by tanh.

    x * (1 + tanh(t)) / 2 is computed as x / (1 + exp(-2 t)), which is exact near tanh = -1 too.
    """
    one, zero = simd.splat(1.0), simd.splat(0.0)
    slope, cube = simd.splat(GELU_SLOPE), simd.splat(GELU_CUBE)
    for row in range(rows):
        for column in range(first, end, simd.LANES):
            count = min(simd.LANES, end - column)
            offset = 4 * (row * size + column)
            g = simd.load_part(gate + offset, count)
            u = simd.load_part(up + offset, count)
            inner = simd.fma(simd.multiply(simd.multiply(g, g), g), cube, g)
            power = simd.exp(simd.subtract(zero, simd.multiply(inner, slope)))
            g = simd.divide(g, simd.add(one, power))
            simd.store_part(gate + offset, simd.multiply(g, u), count)


@kernel
def gate_columns(
    activation: int, gate: int, up: int, rows: int, size: int, first: int, end: int
) -> None:
    """`silu_gate` or `gelu_gate`, by one of `layout`'s activations."""
    if activation == layout.GELU_TANH:
        gelu_gate(gate, up, rows, size, first, end)
    else:
        silu_gate(gate, up, rows, size, first, end)
