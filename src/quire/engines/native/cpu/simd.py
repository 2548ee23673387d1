"""SIMD for Numba: a value type of float32 lanes, and the memory and arithmetic on it.

Addresses are int64, in bytes. `LANES` is what one register of this machine holds: 16 with AVX-512,
else 8 (which a narrower machine splits in two). Every operation acts on each lane by itself, and
`sum_lanes` adds them in one fixed tree, so that a result never depends on how work was divided.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default

from quire.engines.native.cpu.builders import (
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
    suffix,
)
from quire.engines.native.cpu.jit import intrinsic, kernel
from quire.engines.native.cpu.layout import LANES


class LanesType(types.Type):
    """Numba's type of one register of float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


lanes_type = LanesType()


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
    """The larger; b where a is NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *args), *args)

    return _L(_L, _L), code


@intrinsic
def keep_range(typingctx: Any, value: Any, first: Any, end: Any, other: Any) -> Any:
    """The lanes `first` to `end - 1` of `value`, and `other` (float32) in the rest."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, first, end, other = args
        clamped: list[Any] = []
        for edge in (first, end):  # a mask is built of 32 bits: bring the edges into range
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
    """e to the power of each lane; see `build_exp`."""

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
    """A getter and a setter of scalars at an address plus an index."""

    @intrinsic
    def get(typingctx: Any, address: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.add(args[0], builder.mul(args[1], INT64(size)))
            return builder.load(build_pointer(builder, place, llvm_type), align=size)

        return numba_type(_I, _I), code

    @intrinsic
    def put(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = builder.add(args[0], builder.mul(args[1], INT64(size)))
            builder.store(args[2], build_pointer(builder, place, llvm_type), align=size)
            return context.get_dummy_value()

        return types.none(_I, _I, numba_type), code

    return get, put


get_float32, put_float32 = _memory(types.float32, FLOAT, 4)
get_int32, put_int32 = _memory(types.int32, INT32, 4)
get_int64, put_int64 = _memory(types.int64, INT64, 8)


@intrinsic
def put_float16(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """A float32 rounded to float16, at an address plus an index."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = builder.add(args[0], builder.mul(args[1], INT64(2)))
        half = builder.fptrunc(args[2], ir.HalfType())
        builder.store(half, build_pointer(builder, place, ir.HalfType()), align=2)
        return context.get_dummy_value()

    return types.none(_I, _I, _F), code


@intrinsic
def put_rounded(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
    """A float32 rounded to a signed byte, kept within -127 and 127; 0 for NaN."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value = call(builder, "llvm.rint.f32", FLOAT, [args[2]])
        high = builder.fcmp_ordered("<", value, FLOAT(127.0))
        value = builder.select(high, value, FLOAT(127.0))
        low = builder.fcmp_ordered(">", value, FLOAT(-127.0))
        value = builder.select(low, value, FLOAT(-127.0))
        byte = builder.trunc(builder.fptosi(value, INT32), ir.IntType(8))
        place = builder.add(args[0], args[1])
        builder.store(byte, build_pointer(builder, place, ir.IntType(8)), align=1)
        return context.get_dummy_value()

    return types.none(_I, _I, _F), code


@kernel
def max_magnitude(x: int, size: int) -> Any:
    """The largest magnitude of `size` floats; NaN where one is no finite number."""
    largest = np.float32(0)
    poison = np.float32(0)
    for i in range(size):
        value = get_float32(x, i)
        poison += value * np.float32(0)
        largest = max(largest, abs(value))
    return largest + poison


@kernel
def inverse_of(largest: float) -> Any:
    """What brings the largest magnitude to 127; 0 where there is none."""
    return np.float32(127) / largest if largest > 0 else np.float32(0)


ONE_127TH = np.float32(1 / 127)
NEGATIVE_INFINITY = np.float32(-np.inf)
