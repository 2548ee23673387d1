"""SIMD for Numba: a type of one register of float32, and the memory and arithmetic on it.

Numba leaves it to LLVM to find vectors in a loop, which it may or may not, in whatever order of
sums. Here a kernel says what a register holds. Addresses are int64, in bytes. Every operation acts
on each lane by itself, and `sum_lanes` adds them in one fixed tree, so that a result never depends
on how the work was divided.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default

from quire.engines.native.cpu.kernels.builders import (
    FLOAT,
    INT32,
    INT64,
    VECTOR,
    build_exp,
    build_fma,
    build_load,
    build_load_part,
    build_mask,
    build_pointer,
    build_splat,
    build_sums,
    call,
    intrinsic,
    kernel,
    suffix,
)
from quire.engines.native.cpu.kernels.layout import LANES

# Typed constants: Numba would compile a callee anew for each literal that it is called with.
ZERO, ONE = np.int64(0), np.int64(1)
NO, YES = ZERO, ONE


class LanesType(types.Type):
    """Numba's type of one register of float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


lanes_type = LanesType()


# Numba passes a value of this type as an LLVM vector, in a register, and never looks inside.
@register_default(LanesType)
class _LanesModel(PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


_L = lanes_type
_I = types.int64
_F = types.float32


@intrinsic
def load(typingctx: Any, address: Any) -> Any:
    """LANES float32 from memory."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_load(builder, args[0])

    return _L(_I), code


@intrinsic
def load_bfloat16(typingctx: Any, address: Any) -> Any:
    """LANES bfloat16 from memory, widened."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_load(builder, args[0], bfloat16=True)

    return _L(_I), code


@intrinsic
def load_part(typingctx: Any, address: Any, count: Any) -> Any:
    """The first `count` float32; 0 in the other lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_load_part(builder, args[0], args[1])

    return _L(_I, _I), code


@intrinsic
def load_bfloat16_part(typingctx: Any, address: Any, count: Any) -> Any:
    """The first `count` bfloat16, widened; 0 in the other lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_load_part(builder, args[0], args[1], bfloat16=True)

    return _L(_I, _I), code


@intrinsic
def store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write all lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # Rows begin at any float: LLVM takes an instruction that needs no alignment.
        builder.store(args[1], build_pointer(builder, args[0], VECTOR), align=4)
        return context.get_dummy_value()

    return types.none(_I, _L), code


@intrinsic
def store_part(typingctx: Any, address: Any, value: Any, count: Any) -> Any:
    """Write the first `count` lanes."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = build_pointer(builder, args[0], VECTOR)
        mask = build_mask(builder, args[2])
        name = f"llvm.masked.store.{suffix(LANES)}.p0"
        call(builder, name, ir.VoidType(), [args[1], pointer, INT32(4), mask])
        return context.get_dummy_value()

    return types.none(_I, _L, _I), code


@intrinsic
def splat(typingctx: Any, value: Any) -> Any:
    """A float32 in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_splat(builder, args[0])

    return _L(_F), code


@intrinsic
def fma(typingctx: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_fma(builder, *args)

    return _L(_L, _L, _L), code


@intrinsic
def add(typingctx: Any, a: Any, b: Any) -> Any:
    """a + b"""
    return _L(_L, _L), lambda context, builder, signature, args: builder.fadd(*args)


@intrinsic
def subtract(typingctx: Any, a: Any, b: Any) -> Any:
    """a - b"""
    return _L(_L, _L), lambda context, builder, signature, args: builder.fsub(*args)


@intrinsic
def multiply(typingctx: Any, a: Any, b: Any) -> Any:
    """a * b"""
    return _L(_L, _L), lambda context, builder, signature, args: builder.fmul(*args)


@intrinsic
def divide(typingctx: Any, a: Any, b: Any) -> Any:
    """a / b"""
    return _L(_L, _L), lambda context, builder, signature, args: builder.fdiv(*args)


@intrinsic
def sqrt(typingctx: Any, value: Any) -> Any:
    """The square root of each lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call(builder, f"llvm.sqrt.{suffix(LANES)}", VECTOR, [args[0]])

    return _L(_L), code


@intrinsic
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of a and b in each lane; b where a is NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return _L(_L, _L), code


@intrinsic
def keep_range(typingctx: Any, value: Any, first: Any, end: Any, other: Any) -> Any:
    """The lanes `first` to `end - 1` of `value`, and `other` (float32) in the rest."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, first, end, other = args
        clamped: list[Any] = []
        for edge in (first, end):  # `build_mask` keeps 32 bits of a count: bring it into 0..LANES
            low = builder.select(builder.icmp_signed("<", edge, INT64(0)), INT64(0), edge)
            above = builder.icmp_signed(">", low, INT64(LANES))
            clamped.append(builder.select(above, INT64(LANES), low))
        inside = builder.and_(
            builder.not_(build_mask(builder, clamped[0])), build_mask(builder, clamped[1])
        )
        return builder.select(inside, value, build_splat(builder, other))

    return _L(_L, _I, _I, _F), code


@intrinsic
def exp(typingctx: Any, value: Any) -> Any:
    """e to the power of each lane: see `build_exp`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_exp(builder, args[0])

    return _L(_L), code


@intrinsic
def exp_negative(typingctx: Any, value: Any) -> Any:
    """e to the power of each lane, none of which is above 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return build_exp(builder, args[0], negative=True)

    return _L(_L), code


@intrinsic
def sum_lanes(typingctx: Any, value: Any) -> Any:
    """The sum of the lanes, in the fixed tree of `build_sums`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(build_sums(builder, [args[0]]), INT32(0))

    return _F(_L), code


@intrinsic
def max_lanes(typingctx: Any, value: Any) -> Any:
    """The largest lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call(builder, f"llvm.vector.reduce.fmax.{suffix(LANES)}", FLOAT, [args[0]])

    return _F(_L), code


@intrinsic
def first_lane(typingctx: Any, value: Any) -> Any:
    """Lane 0."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.extract_element(args[0], INT32(0))

    return _F(_L), code


def _memory(numba_type: Any, llvm_type: ir.Type, size: int) -> tuple[Any, Any]:
    """A getter and a setter of the scalar at an index of an array at some address."""

    @intrinsic
    def get(typingctx: Any, address: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = builder.add(args[0], builder.mul(args[1], INT64(size)))
            return builder.load(build_pointer(builder, element, llvm_type), align=size)

        return numba_type(_I, _I), code

    @intrinsic
    def put(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element = builder.add(args[0], builder.mul(args[1], INT64(size)))
            builder.store(args[2], build_pointer(builder, element, llvm_type), align=size)
            return context.get_dummy_value()

        return types.none(_I, _I, numba_type), code

    return get, put


get_float32, put_float32 = _memory(types.float32, FLOAT, 4)
get_int32, put_int32 = _memory(types.int32, INT32, 4)
get_int64, put_int64 = _memory(types.int64, INT64, 8)


@intrinsic
def put_float16(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Round a float32 to float16, and write it at an index of an array."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element = builder.add(args[0], builder.mul(args[1], INT64(2)))
        half = builder.fptrunc(args[2], ir.HalfType())
        builder.store(half, build_pointer(builder, element, ir.HalfType()), align=2)
        return context.get_dummy_value()

    return types.none(_I, _I, _F), code


@intrinsic
def put_int8(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """Round a float32 to an int8 within -127 and 127, and write it. NaN becomes 127.

    -128 is not used, so that negative and positive numbers have the same range.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # Clamped before it becomes an integer: the conversion is undefined out of its range.
        value = call(builder, "llvm.rint.f32", FLOAT, [args[2]])
        high = builder.fcmp_ordered("<", value, FLOAT(127.0))
        value = builder.select(high, value, FLOAT(127.0))
        low = builder.fcmp_ordered(">", value, FLOAT(-127.0))
        value = builder.select(low, value, FLOAT(-127.0))
        byte = builder.trunc(builder.fptosi(value, INT32), ir.IntType(8))
        element = builder.add(args[0], args[1])
        builder.store(byte, build_pointer(builder, element, ir.IntType(8)), align=1)
        return context.get_dummy_value()

    return types.none(_I, _I, _F), code


@kernel
def max_magnitude(x: int, size: int) -> Any:
    """The largest magnitude of `size` floats; NaN if one of them is infinite or NaN."""
    largest = np.float32(0)
    poison = np.float32(0)
    for i in range(size):
        value = get_float32(x, i)
        poison += value * np.float32(0)  # 0, or NaN: `max` would lose a NaN
        largest = max(largest, abs(value))
    return largest + poison


@kernel
def inverse_scale(largest: float) -> Any:
    """The factor that brings the largest magnitude to 127; 0 if all numbers are 0."""
    return np.float32(127) / largest if largest > 0 else np.float32(0)


ONE_127TH = np.float32(1 / 127)
NEGATIVE_INFINITY = np.float32(-np.inf)
