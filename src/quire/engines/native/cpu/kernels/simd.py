"""SIMD for kernels: a type of one register of float32, and the memory and arithmetic on it.

To leave it to LLVM to find vectors in a loop would leave the order of sums to it too. Here a kernel says
what a register holds. Every operation acts on each lane by itself, and `sum_lanes` adds them in one fixed
tree, so that a result never depends on how the work was divided.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import (
    FLOAT,
    INT,
    NOTHING,
    ValueType,
    kernel,
    primitive,
)
from quire.engines.native.cpu.kernels.builders import (
    FLOAT32,
    INT32,
    INT64,
    VECTOR,
    build_exp,
    build_float8,
    build_fma,
    build_load,
    build_load_part,
    build_mask,
    build_pointer,
    build_prefetch,
    build_splat,
    build_sums,
    call,
    constant_vector,
    suffix,
)
from quire.engines.native.cpu.kernels.layout import LANES

NO, YES = 0, 1

REGISTER = ValueType(f"float32x{LANES}", VECTOR)
"""The language's type of one register of float32."""


@primitive(REGISTER, INT)
def load(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES float32 from memory."""
    return build_load(builder, address)


@primitive(REGISTER, INT)
def load_bfloat16(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES bfloat16 from memory, widened."""
    return build_load(builder, address, bfloat16=True)


@primitive(REGISTER, INT, INT)
def load_part(builder: ir.IRBuilder, address: Any, count: Any) -> Any:
    """The first `count` float32; 0 in the other lanes."""
    return build_load_part(builder, address, count)


@primitive(REGISTER, INT, INT)
def load_bfloat16_part(builder: ir.IRBuilder, address: Any, count: Any) -> Any:
    """The first `count` bfloat16, widened; 0 in the other lanes."""
    return build_load_part(builder, address, count, bfloat16=True)


@primitive(REGISTER, INT)
def load_float8(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES 8-bit floats: see `build_float8`."""
    return build_float8(builder, address)


@primitive(REGISTER, INT, INT)
def load_float8_part(builder: ir.IRBuilder, address: Any, count: Any) -> Any:
    """The first `count` 8-bit floats; 0 in the other lanes."""
    return build_float8(builder, address, count)


@primitive(NOTHING, INT, REGISTER)
def store(builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Write all lanes."""
    # Rows begin at any float: LLVM takes an instruction that needs no alignment.
    builder.store(value, build_pointer(builder, address, VECTOR), align=4)


@primitive(NOTHING, INT, REGISTER, INT)
def store_part(builder: ir.IRBuilder, address: Any, value: Any, count: Any) -> None:
    """Write the first `count` lanes."""
    pointer = build_pointer(builder, address, VECTOR)
    # A masked store takes some processors ten times as long as a plain one, also where all lanes are on.
    whole = builder.icmp_signed(">=", count, INT64(LANES))
    with builder.if_else(whole, likely=True) as (plain, masked):
        with plain:
            builder.store(value, pointer, align=4)
        with masked:
            name = f"llvm.masked.store.{suffix(LANES)}.p0"
            mask = build_mask(builder, count)
            call(builder, name, ir.VoidType(), [value, pointer, INT32(4), mask])


@primitive(NOTHING, INT)
def prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Fetch a cache line: see `build_prefetch`."""
    build_prefetch(builder, address)


@primitive(REGISTER, FLOAT)
def splat(builder: ir.IRBuilder, value: Any) -> Any:
    """A float32 in every lane."""
    return build_splat(builder, value)


@primitive(REGISTER)
def lane_numbers(builder: ir.IRBuilder) -> Any:
    """0, 1, 2 and so on."""
    return constant_vector(range(LANES))


@primitive(REGISTER, REGISTER, REGISTER, REGISTER)
def fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return build_fma(builder, a, b, c)


@primitive(REGISTER, REGISTER, REGISTER)
def add(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """a + b"""
    return builder.fadd(a, b)


@primitive(REGISTER, REGISTER, REGISTER)
def subtract(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """a - b"""
    return builder.fsub(a, b)


@primitive(REGISTER, REGISTER, REGISTER)
def multiply(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """a * b"""
    return builder.fmul(a, b)


@primitive(REGISTER, REGISTER, REGISTER)
def divide(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """a / b"""
    return builder.fdiv(a, b)


@primitive(REGISTER, REGISTER)
def sqrt(builder: ir.IRBuilder, value: Any) -> Any:
    """The square root of each lane."""
    return call(builder, f"llvm.sqrt.{suffix(LANES)}", VECTOR, [value])


@primitive(REGISTER, REGISTER, REGISTER)
def maximum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """The larger of a and b in each lane; b where a is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@primitive(REGISTER, REGISTER, REGISTER)
def minimum(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """The smaller number in each lane; b where a is NaN."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


@primitive(REGISTER, REGISTER, INT, INT, FLOAT)
def keep_range(builder: ir.IRBuilder, value: Any, first: Any, end: Any, other: Any) -> Any:
    """The lanes `first` to `end - 1` of `value`, and `other` (float32) in the rest."""
    clamped: list[Any] = []
    for edge in (first, end):  # `build_mask` keeps 32 bits of a count: bring it into 0..LANES
        low = builder.select(builder.icmp_signed("<", edge, INT64(0)), INT64(0), edge)
        above = builder.icmp_signed(">", low, INT64(LANES))
        clamped.append(builder.select(above, INT64(LANES), low))
    inside = builder.and_(
        builder.not_(build_mask(builder, clamped[0])), build_mask(builder, clamped[1])
    )
    return builder.select(inside, value, build_splat(builder, other))


@primitive(REGISTER, REGISTER)
def exp(builder: ir.IRBuilder, value: Any) -> Any:
    """e to the power of each lane: see `build_exp`."""
    return build_exp(builder, value)


@primitive(REGISTER, REGISTER)
def exp_negative(builder: ir.IRBuilder, value: Any) -> Any:
    """e to the power of each lane, none of which is above 0."""
    return build_exp(builder, value, negative=True)


@primitive(FLOAT, REGISTER)
def sum_lanes(builder: ir.IRBuilder, value: Any) -> Any:
    """The sum of the lanes, in the fixed tree of `build_sums`."""
    return builder.extract_element(build_sums(builder, [value]), INT32(0))


@primitive(FLOAT, REGISTER)
def max_lanes(builder: ir.IRBuilder, value: Any) -> Any:
    """The largest lane."""
    return call(builder, f"llvm.vector.reduce.fmax.{suffix(LANES)}", FLOAT32, [value])


@primitive(FLOAT, REGISTER)
def first_lane(builder: ir.IRBuilder, value: Any) -> Any:
    """Lane 0."""
    return builder.extract_element(value, INT32(0))


def _memory(kind: ValueType, stored: ir.Type, size: int) -> tuple[Any, Any]:
    """A getter and a setter of the scalar at an index of an array at some address."""

    @primitive(kind, INT, INT)
    def get(builder: ir.IRBuilder, address: Any, index: Any) -> Any:
        element = builder.add(address, builder.mul(index, INT64(size)))
        value = builder.load(build_pointer(builder, element, stored), align=size)
        return value if stored == kind.llvm else builder.sext(value, kind.llvm)

    @primitive(NOTHING, INT, INT, kind)
    def put(builder: ir.IRBuilder, address: Any, index: Any, value: Any) -> Any:
        element = builder.add(address, builder.mul(index, INT64(size)))
        value = value if stored == kind.llvm else builder.trunc(value, stored)
        builder.store(value, build_pointer(builder, element, stored), align=size)

    return get, put


get_float32, put_float32 = _memory(FLOAT, FLOAT32, 4)
get_int32, put_int32 = _memory(INT, INT32, 4)
get_int64, put_int64 = _memory(INT, INT64, 8)


@primitive(NOTHING, INT, INT, FLOAT)
def put_float16(builder: ir.IRBuilder, address: Any, index: Any, value: Any) -> Any:
    """Round a float32 to float16, and write it at an index of an array."""
    element = builder.add(address, builder.mul(index, INT64(2)))
    half = builder.fptrunc(value, ir.HalfType())
    builder.store(half, build_pointer(builder, element, ir.HalfType()), align=2)


@primitive(NOTHING, INT, INT, FLOAT)
def put_int8(builder: ir.IRBuilder, address: Any, index: Any, value: Any) -> Any:
    """Round a float32 to an int8 within -127 and 127, and write it. NaN becomes 127.

    -128 is not used, so that negative and positive numbers have the same range.
    """
    # Clamped before it becomes an integer: the conversion is undefined out of its range.
    value = call(builder, "llvm.rint.f32", FLOAT32, [value])
    high = builder.fcmp_ordered("<", value, FLOAT32(127.0))
    value = builder.select(high, value, FLOAT32(127.0))
    low = builder.fcmp_ordered(">", value, FLOAT32(-127.0))
    value = builder.select(low, value, FLOAT32(-127.0))
    byte = builder.trunc(builder.fptosi(value, INT32), ir.IntType(8))
    element = builder.add(address, index)
    builder.store(byte, build_pointer(builder, element, ir.IntType(8)), align=1)


@kernel
def max_magnitude(x: int, size: int) -> float:
    """The largest magnitude of `size` floats; NaN if one of them is infinite or NaN."""
    largest = 0.0
    poison = 0.0
    for i in range(size):
        value = get_float32(x, i)
        poison += value * 0.0  # 0, or NaN: `max` would lose a NaN
        largest = max(largest, abs(value))
    return largest + poison


@kernel
def inverse_scale(largest: float) -> float:
    """The factor that brings the largest magnitude to 127; 0 if all numbers are 0."""
    return 127.0 / largest if largest > 0 else 0.0


ONE_127TH = 1 / 127
NEGATIVE_INFINITY = -math.inf
