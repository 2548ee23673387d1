"""Activations of the FFN, with a gate and without; tanh, which caps scores and logits; softplus.

They are made of `build_exp` and one tanh of our own, since the C library computes neither on a
register. The NumPy functions of the same names in `reference` say what each means.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import kernel, outlined, primitive
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.arguments import Xielu
from quire.engines.native.cpu.kernels.builders import (
    build_erfc,
    build_exp,
    build_expm1,
    build_fma,
    constant_vector,
)
from quire.engines.native.cpu.kernels.simd import REGISTER

GELU_SLOPE = 1.5957691216057308  # 2 * sqrt(2 / pi)
GELU_CUBE = 0.044715
SWIGLU_SLOPE = 1.702
SWIGLU_LIMIT = 7.0
ROOT_HALF = 0.7071067811865476


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


@primitive(REGISTER, REGISTER)
def softplus(builder: ir.IRBuilder, x: Any) -> Any:
    """log(1 + exp(x)) of each lane, within 3 units in the last place; NaN for NaN."""
    zero = constant_vector(0.0)
    is_positive = builder.fcmp_ordered(">", x, zero)
    negative = builder.select(is_positive, builder.fsub(zero, x), x)
    small = build_exp(builder, negative, negative=True)
    # log(1 + u) = 2 atanh(u / (2 + u)), whose series ends soon: that quotient is at most a third.
    ratio = builder.fdiv(small, builder.fadd(small, constant_vector(2.0)))
    square = builder.fmul(ratio, ratio)
    series = constant_vector(2 / 17)
    for power in (15, 13, 11, 9, 7, 5, 3):
        series = build_fma(builder, series, square, constant_vector(2 / power))
    cube = builder.fmul(ratio, square)
    log = build_fma(builder, cube, series, builder.fadd(ratio, ratio))
    return builder.fadd(builder.select(is_positive, x, zero), log)


@outlined
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


@primitive(REGISTER, REGISTER, REGISTER)
def silu(builder: ir.IRBuilder, gate: Any, up: Any) -> Any:
    """silu(gate) * up of each lane; silu(x) is x / (1 + exp(-x))."""
    zero, one = constant_vector(0.0), constant_vector(1.0)
    power = build_exp(builder, builder.fsub(zero, gate))
    return builder.fmul(builder.fdiv(gate, builder.fadd(one, power)), up)


@primitive(REGISTER, REGISTER, REGISTER)
def gelu(builder: ir.IRBuilder, gate: Any, up: Any) -> Any:
    """gelu(gate) * up of each lane: the approximation by tanh.

    x * (1 + tanh(t)) / 2 is computed as x / (1 + exp(-2 t)), which is exact near tanh = -1 too.
    """
    zero, one = constant_vector(0.0), constant_vector(1.0)
    cube = builder.fmul(builder.fmul(gate, gate), gate)
    inner = build_fma(builder, cube, constant_vector(GELU_CUBE), gate)
    inner = builder.fmul(inner, constant_vector(GELU_SLOPE))
    power = build_exp(builder, builder.fsub(zero, inner))
    return builder.fmul(builder.fdiv(gate, builder.fadd(one, power)), up)


@primitive(REGISTER, REGISTER, REGISTER)
def clamped_swiglu(builder: ir.IRBuilder, gate: Any, up: Any) -> Any:
    """gpt-oss's gate of each lane: gate / (1 + exp(-1.702 * gate)) * (up + 1).

    Before that, gate is at most 7, and up between -7 and 7. What is no number stays none.
    """
    one = constant_vector(1.0)
    highest, lowest = constant_vector(SWIGLU_LIMIT), constant_vector(-SWIGLU_LIMIT)
    gate = builder.select(builder.fcmp_ordered(">", gate, highest), highest, gate)
    up = builder.select(builder.fcmp_ordered(">", up, highest), highest, up)
    up = builder.select(builder.fcmp_ordered("<", up, lowest), lowest, up)
    power = build_exp(builder, builder.fmul(gate, constant_vector(-SWIGLU_SLOPE)))
    gate = builder.fdiv(gate, builder.fadd(one, power))
    return builder.fmul(gate, builder.fadd(up, one))


@primitive(REGISTER, REGISTER)
def sigmoid(builder: ir.IRBuilder, value: Any) -> Any:
    """1 / (1 + exp(-x)) of each lane."""
    one = constant_vector(1.0)
    power = build_exp(builder, builder.fsub(constant_vector(0.0), value))
    return builder.fdiv(one, builder.fadd(one, power))


@kernel
def multiply_by_silu(x: int, gate: int, size: int) -> None:
    """`x *= silu(gate)` for `size` floats."""
    for k in range(0, size, simd.LANES):
        count = min(simd.LANES, size - k)
        value = silu(simd.load_part(gate + 4 * k, count), simd.load_part(x + 4 * k, count))
        simd.store_part(x + 4 * k, value, count)


@outlined
def multiply_by_sigmoid(x: int, gate: int, size: int) -> None:
    """`x *= sigmoid(gate)` for `size` floats."""
    for k in range(0, size, simd.LANES):
        count = min(simd.LANES, size - k)
        factor = sigmoid(simd.load_part(gate + 4 * k, count))
        simd.store_part(x + 4 * k, simd.multiply(simd.load_part(x + 4 * k, count), factor), count)


def _make_gate(activation: Any) -> Any:
    """`gate = activation(gate) * up` of (rows, size), in the columns `first` to `end - 1`."""

    @kernel
    def gated(gate: int, up: int, rows: int, size: int, first: int, end: int) -> None:
        full = (end - first) // simd.LANES * simd.LANES
        rest = end - first - full
        for row in range(rows):
            g, u = gate + 4 * (row * size + first), up + 4 * (row * size + first)
            for k in range(0, full, simd.LANES):
                simd.store(g + 4 * k, activation(simd.load(g + 4 * k), simd.load(u + 4 * k)))
            if rest:
                g, u = g + 4 * full, u + 4 * full
                value = activation(simd.load_part(g, rest), simd.load_part(u, rest))
                simd.store_part(g, value, rest)

    return gated


silu_gate, gelu_gate = _make_gate(silu), _make_gate(gelu)
clamped_swiglu_gate = _make_gate(clamped_swiglu)


@outlined
def gate_columns(
    activation: int, gate: int, up: int, rows: int, size: int, first: int, end: int
) -> None:
    """The gate of one of `layout`'s activations; nothing for `NO_ACTIVATION`."""
    if activation == layout.GELU_TANH:
        gelu_gate(gate, up, rows, size, first, end)
    elif activation == layout.CLAMPED_SWIGLU:
        clamped_swiglu_gate(gate, up, rows, size, first, end)
    elif activation == layout.SILU:
        silu_gate(gate, up, rows, size, first, end)


# ---- without a gate


@primitive(REGISTER, REGISTER)
def exact_gelu(builder: ir.IRBuilder, x: Any) -> Any:
    """x * (1 + erf(x / sqrt(2))) / 2 of each lane."""
    zero = constant_vector(0.0)
    below = builder.fcmp_ordered("<", x, zero)
    size = builder.select(below, builder.fsub(zero, x), x)
    # The part that is missing from x above 0 is what is left of it below: neither cancels.
    tail = build_erfc(builder, builder.fmul(size, constant_vector(ROOT_HALF)))
    tail = builder.fmul(builder.fmul(x, constant_vector(0.5)), tail)
    return builder.select(below, tail, builder.fsub(x, tail))


@primitive(REGISTER, REGISTER)
def expm1(builder: ir.IRBuilder, x: Any) -> Any:
    """e to the power of each lane minus 1; none is above 0."""
    return build_expm1(builder, x)


@primitive(REGISTER, REGISTER, REGISTER, REGISTER)
def _where_positive(builder: ir.IRBuilder, x: Any, then: Any, otherwise: Any) -> Any:
    """`then` in the lanes in which x is above 0."""
    return builder.select(builder.fcmp_ordered(">", x, constant_vector(0.0)), then, otherwise)


def _make_activate(activation: Any) -> Any:
    """`x = activation(x)` of (rows, size), in the columns `first` to `end - 1`."""

    @kernel
    def activate(x: int, rows: int, size: int, first: int, end: int) -> None:
        for row in range(rows):
            for column in range(first, end, simd.LANES):
                count = min(simd.LANES, end - column)
                target = x + 4 * (row * size + column)
                simd.store_part(target, activation(simd.load_part(target, count)), count)

    return activate


@primitive(REGISTER, REGISTER)
def _silu_alone(builder: ir.IRBuilder, x: Any) -> Any:
    return silu.build(builder, x, constant_vector(1.0))


@primitive(REGISTER, REGISTER)
def _gelu_alone(builder: ir.IRBuilder, x: Any) -> Any:
    return gelu.build(builder, x, constant_vector(1.0))


@primitive(REGISTER, REGISTER)
def _relu(builder: ir.IRBuilder, x: Any) -> Any:
    zero = constant_vector(0.0)
    return builder.select(builder.fcmp_ordered("<", x, zero), zero, x)  # NaN stays


@primitive(REGISTER, REGISTER)
def _relu_squared(builder: ir.IRBuilder, x: Any) -> Any:
    value = _relu.build(builder, x)
    return builder.fmul(value, value)


activate_silu, activate_gelu_tanh, activate_gelu, activate_relu, activate_relu2 = (
    _make_activate(one) for one in (_silu_alone, _gelu_alone, exact_gelu, _relu, _relu_squared)
)


@kernel
def activate_xielu(own: Xielu, x: int, rows: int, size: int, first: int, end: int) -> None:
    """xIELU (arXiv 2411.13010): `positive * x^2 + beta * x` above 0, and below it
    `negative * (exp(min(x, eps)) - 1 - x) + beta * x`.
    """
    positive, negative = simd.splat(own.positive), simd.splat(own.negative)
    beta, eps = simd.splat(own.beta), simd.splat(own.eps)
    for row in range(rows):
        for column in range(first, end, simd.LANES):
            count = min(simd.LANES, end - column)
            target = x + 4 * (row * size + column)
            value = simd.load_part(target, count)
            above = simd.multiply(positive, simd.multiply(value, value))
            below = simd.subtract(expm1(simd.minimum(value, eps)), value)
            curve = _where_positive(value, above, simd.multiply(negative, below))
            simd.store_part(target, simd.fma(beta, value, curve), count)


@kernel
def activate_columns(
    activation: int, xielu: Xielu | None, x: int, rows: int, size: int, first: int, end: int
) -> None:
    """One of `layout`'s activations, of some columns of x (rows, size)."""
    if activation == layout.GELU:
        activate_gelu(x, rows, size, first, end)
    elif activation == layout.GELU_TANH:
        activate_gelu_tanh(x, rows, size, first, end)
    elif activation == layout.RELU:
        activate_relu(x, rows, size, first, end)
    elif activation == layout.RELU2:
        activate_relu2(x, rows, size, first, end)
    elif activation == layout.XIELU:
        activate_xielu(xielu, x, rows, size, first, end)
    else:
        activate_silu(x, rows, size, first, end)
