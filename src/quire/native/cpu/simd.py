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
from numba.core import cgutils
from numba.core.datamodel.models import PrimitiveModel
from numba.core.datamodel.registry import register_default

from quire.native.cpu.jit import intrinsic, kernel
from quire.native.cpu.layout import KV_FLOAT16, KV_FLOAT32, LANES

FLOAT = ir.FloatType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)
VECTOR = ir.VectorType(FLOAT, LANES)


class LanesType(types.Type):
    """Numba's type of one register of float32."""

    def __init__(self) -> None:
        super().__init__(name=f"float32x{LANES}")


lanes_type = LanesType()


@register_default(LanesType)
class _LanesModel(PrimitiveModel):
    def __init__(self, manager: Any, fe_type: Any) -> None:
        super().__init__(manager, fe_type, VECTOR)


# ---- building blocks of LLVM code, used by the intrinsics here and in tiles.py


def constant_vector(values: Any, element: ir.Type = FLOAT, lanes: int = LANES) -> ir.Constant:
    """A constant vector: of a list, or of one value in every lane."""
    listed = list(values) if isinstance(values, list | tuple | range) else [values] * lanes
    return ir.Constant(ir.VectorType(element, len(listed)), listed)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    """Call an LLVM function by name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


def suffix(lanes: int) -> str:
    """LLVM's mangling of a float32 vector."""
    return f"v{lanes}f32"


def build_fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return call(builder, f"llvm.fma.{suffix(LANES)}", VECTOR, [a, b, c])


def build_splat(builder: ir.IRBuilder, scalar: Any) -> Any:
    """A scalar in every lane."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, INT32(0))
    zeros = constant_vector(0, INT32)
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), zeros)


def build_pointer(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    """An int64 address as a pointer."""
    return builder.inttoptr(address, ir.PointerType(kind))


def build_load_kv(builder: ir.IRBuilder, address: Any, kind: int) -> Any:
    """LANES elements of a KV cache of some kind, widened to float32."""
    if kind == KV_FLOAT32:
        return build_load(builder, address)
    if kind == KV_FLOAT16:
        halves = ir.VectorType(ir.HalfType(), LANES)
        loaded = builder.load(build_pointer(builder, address, halves), align=2)
        return builder.fpext(loaded, VECTOR)
    narrow = ir.VectorType(ir.IntType(8), LANES)
    loaded = builder.load(build_pointer(builder, address, narrow), align=1)
    return builder.sitofp(builder.sext(loaded, ir.VectorType(INT32, LANES)), VECTOR)


def build_load(builder: ir.IRBuilder, address: Any, bfloat16: bool = False) -> Any:
    """LANES values from memory, widened where they are bfloat16."""
    if not bfloat16:
        return builder.load(build_pointer(builder, address, VECTOR), align=4)
    halves = ir.VectorType(ir.IntType(16), LANES)
    return _widen(builder, builder.load(build_pointer(builder, address, halves), align=2))


def build_load_part(builder: ir.IRBuilder, address: Any, count: Any, bfloat16: bool = False) -> Any:
    """The first `count` (int64) values; the other lanes are 0 and their memory is not touched."""
    element, size = (ir.IntType(16), 2) if bfloat16 else (FLOAT, 4)
    kind = ir.VectorType(element, LANES)
    name = f"v{LANES}i16" if bfloat16 else suffix(LANES)
    pointer = build_pointer(builder, address, kind)
    loaded = call(
        builder,
        f"llvm.masked.load.{name}.p0",
        kind,
        [pointer, INT32(size), build_mask(builder, count), ir.Constant(kind, [0] * LANES)],
    )
    return _widen(builder, loaded) if bfloat16 else loaded


def _widen(builder: ir.IRBuilder, halves: Any) -> Any:
    words = builder.zext(halves, ir.VectorType(INT32, LANES))
    return builder.bitcast(builder.shl(words, constant_vector(16, INT32)), VECTOR)


def build_prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Call the line at an address, which need not exist, into the second-level cache."""
    pointer = build_pointer(builder, address, ir.IntType(8))
    read, second_level, data = INT32(0), INT32(2), INT32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, read, second_level, data])


def build_mask(builder: ir.IRBuilder, count: Any) -> Any:
    """Lanes whose number is below `count`."""
    short = builder.trunc(count, INT32)
    undefined = ir.Constant(ir.VectorType(INT32, LANES), ir.Undefined)
    one = builder.insert_element(undefined, short, INT32(0))
    spread = builder.shuffle_vector(one, undefined, constant_vector(0, INT32))
    return builder.icmp_signed("<", constant_vector(range(LANES), INT32), spread)


def build_sums(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """The sum of each vector's lanes, as one vector of len(vectors), which is a power of 2.

    Each sum folds the upper half of the lanes onto the lower until one is left, whatever the
    number of vectors: several share a register only to save instructions.
    """
    width = LANES
    while width > 1:
        half = width // 2
        if len(vectors) > 1:
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
        else:
            pairs = ((vectors[0], ir.Constant(vectors[0].type, ir.Undefined)) for _ in range(1))
        double = len(vectors) > 1
        folded: list[Any] = []
        for first, second in pairs:
            lanes = first.type.count * (2 if double else 1)
            low = [lane for lane in range(lanes) if lane % width < half]
            lower = builder.shuffle_vector(first, second, constant_vector(low, INT32))
            high = [lane + half for lane in low]
            upper = builder.shuffle_vector(first, second, constant_vector(high, INT32))
            folded.append(builder.fadd(lower, upper))
        vectors, width = folded, half
    return vectors[0]


def build_exp(builder: ir.IRBuilder, x: Any, negative: bool = False) -> Any:
    """e to the x, within 2 units in the last place; 0 below -87.3, NaN for NaN, +inf above 88.7.

    With `negative` x must not be above 0, which saves work.
    """
    low, high = constant_vector(-87.33654), constant_vector(88.72283)
    tiny, huge = builder.fcmp_ordered("<", x, low), builder.fcmp_ordered(">", x, high)
    x = builder.select(tiny, low, x)
    if not negative:
        x = builder.select(huge, high, x)
    turns = builder.fmul(x, constant_vector(1.4426950408889634))
    power = call(builder, f"llvm.rint.{suffix(LANES)}", VECTOR, [turns])
    # ln 2 in two parts, so that the remainder keeps its last bits (Cody and Waite)
    rest = build_fma(builder, power, constant_vector(-0.693359375), x)
    rest = build_fma(builder, power, constant_vector(2.12194440e-4), rest)
    value = constant_vector(1.9875691500e-4)
    # Cephes expf: the minimax polynomial of (e^r - 1 - r) / r^2
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5):
        value = build_fma(builder, value, rest, constant_vector(term))
    value = build_fma(builder, value, builder.fmul(rest, rest), rest)
    value = builder.fadd(value, constant_vector(1.0))
    whole = builder.fptosi(power, ir.VectorType(INT32, LANES))
    parts = [whole]
    if not negative:  # 2^128 is out of range: scale in two halves
        first = builder.ashr(whole, constant_vector(1, INT32))
        parts = [first, builder.sub(whole, first)]
    for part in parts:
        bits = builder.add(part, constant_vector(127, INT32))
        bits = builder.shl(bits, constant_vector(23, INT32))
        value = builder.fmul(value, builder.bitcast(bits, VECTOR))
    value = builder.select(tiny, constant_vector(0.0), value)
    return value if negative else builder.select(huge, constant_vector(float("inf")), value)


# ---- what kernels call

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
