"""The building blocks of LLVM code that the kernels' operations are made of.

`simd`, `activations`, `phases` and the tiles share these `build_` functions. Addresses are int64, in bytes.

Every operation acts on each lane by itself, and `build_sums` adds lanes in one fixed tree. So a
result never depends on how the work was divided.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.kernels.layout import KV_FLOAT16, KV_FLOAT32, LANES

FLOAT32 = ir.FloatType()
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)
VECTOR = ir.VectorType(FLOAT32, LANES)


def constant_vector(values: Any, element: ir.Type = FLOAT32, lanes: int = LANES) -> ir.Constant:
    """A constant vector: of a list, or of one value in every lane."""
    listed = list(values) if isinstance(values, list | tuple | range) else [values] * lanes
    return ir.Constant(ir.VectorType(element, len(listed)), listed)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, arguments: list[Any]) -> Any:
    """Call an LLVM function by name."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def suffix(lanes: int) -> str:
    """How LLVM spells a float32 vector in the names of its intrinsics."""
    return f"v{lanes}f32"


def build_fma(builder: ir.IRBuilder, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, rounded once."""
    return call(builder, f"llvm.fma.{suffix(LANES)}", VECTOR, [a, b, c])


def build_splat(builder: ir.IRBuilder, scalar: Any) -> Any:
    """A scalar in every lane."""
    # LLVM has no broadcast: it recognises this pair of instructions as one.
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, INT32(0))
    zeros = constant_vector(0, INT32)
    return builder.shuffle_vector(one, ir.Constant(VECTOR, ir.Undefined), zeros)


def build_pointer(builder: ir.IRBuilder, address: Any, kind: ir.Type) -> Any:
    """An int64 address as a pointer."""
    return builder.inttoptr(address, ir.PointerType(kind))


def build_load_kv(builder: ir.IRBuilder, address: Any, kind: int) -> Any:
    """LANES elements of a KV cache of this kind, widened to float32."""
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
    """LANES values from memory, widened if they are bfloat16.

    The alignment given is that of one element: weights are mapped from files, where they begin at
    any multiple of it.
    """
    if not bfloat16:
        return builder.load(build_pointer(builder, address, VECTOR), align=4)
    halves = ir.VectorType(ir.IntType(16), LANES)
    return _widen(builder, builder.load(build_pointer(builder, address, halves), align=2))


def build_load_part(builder: ir.IRBuilder, address: Any, count: Any, bfloat16: bool = False) -> Any:
    """The first `count` (int64) values. The other lanes are 0, and their memory is not touched.

    The memory after the last value may not be mapped, so that a plain load could fault.
    """
    element, size = (ir.IntType(16), 2) if bfloat16 else (FLOAT32, 4)
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


def build_load_some(builder: ir.IRBuilder, address: Any, count: Any, bfloat16: bool = False) -> Any:
    """A whole register, or the first `count` values if that is not None."""
    if count is None:
        return build_load(builder, address, bfloat16)
    return build_load_part(builder, address, count, bfloat16)


def _widen(builder: ir.IRBuilder, halves: Any) -> Any:
    """Bfloat16 to float32: a bfloat16 is the upper half of a float32's bits."""
    words = builder.zext(halves, ir.VectorType(INT32, LANES))
    return builder.bitcast(builder.shl(words, constant_vector(16, INT32)), VECTOR)


def build_float8(builder: ir.IRBuilder, address: Any, count: Any = None) -> Any:
    """LANES 8-bit floats (E4M3), each times 2 ** -8; the first `count` of them, and zeros, if that is given.

    Their exponents and fractions are put into those of float16, which has the same numbers less 8 powers of
    two, the subnormal ones included. The codes of NaN are taken for 480.
    """
    kind = ir.VectorType(ir.IntType(8), LANES)
    pointer = build_pointer(builder, address, kind)
    if count is None:
        codes = builder.load(pointer, align=1)
    else:
        zero = ir.Constant(kind, [0] * LANES)
        arguments = [pointer, INT32(1), build_mask(builder, count), zero]
        codes = call(builder, f"llvm.masked.load.v{LANES}i8.p0", kind, arguments)
    short = ir.IntType(16)
    # Bit 7, the sign, is in bits 14 and 15 then; it stays in 15 alone.
    halves = builder.shl(
        builder.sext(codes, ir.VectorType(short, LANES)), constant_vector(7, short)
    )
    halves = builder.and_(halves, constant_vector(0xBFFF, short))
    return builder.fpext(builder.bitcast(halves, ir.VectorType(ir.HalfType(), LANES)), VECTOR)


def build_prefetch(builder: ir.IRBuilder, address: Any) -> None:
    """Fetch the cache line at an address into the second-level cache.

    The address need not exist: a prefetch never faults. The first level is too small to hold lines
    that are needed only later; they would evict what is in use.
    """
    pointer = build_pointer(builder, address, ir.IntType(8))
    read, second_level, data = INT32(0), INT32(2), INT32(1)
    call(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer, read, second_level, data])


def build_mask(builder: ir.IRBuilder, count: Any) -> Any:
    """A mask of the lanes whose index is below `count`."""
    short = builder.trunc(count, INT32)
    undefined = ir.Constant(ir.VectorType(INT32, LANES), ir.Undefined)
    one = builder.insert_element(undefined, short, INT32(0))
    spread = builder.shuffle_vector(one, undefined, constant_vector(0, INT32))
    return builder.icmp_signed("<", constant_vector(range(LANES), INT32), spread)


def build_sums(builder: ir.IRBuilder, vectors: list[Any]) -> Any:
    """The sum of each vector's lanes, as one vector of len(vectors), which is a power of 2.

    Each sum folds the upper half of the lanes onto the lower until one is left. That order is the
    same for any number of vectors: several share a register only to save instructions. LLVM's own
    reduction would leave the order to the compiler, and a row's result to its tile's size.
    """
    width = LANES
    while width > 1:
        half = width // 2
        if len(vectors) > 1:  # two vectors are folded into one register
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

    `negative` promises that x is not above 0, which saves work. The C library's expf works on one
    number at a time, and its results differ between systems.
    """
    # Beyond these limits the exponent would not fit into its bits. So x is clamped here, and 0 or
    # infinity is selected at the end.
    low, high = constant_vector(-87.33654), constant_vector(88.72283)
    tiny, huge = builder.fcmp_ordered("<", x, low), builder.fcmp_ordered(">", x, high)
    x = builder.select(tiny, low, x)
    if not negative:
        x = builder.select(huge, high, x)
    log2 = builder.fmul(x, constant_vector(1.4426950408889634))
    power = call(builder, f"llvm.rint.{suffix(LANES)}", VECTOR, [log2])
    # ln 2 in two parts, so that the remainder keeps its last bits (Cody and Waite)
    rest = build_fma(builder, power, constant_vector(-0.693359375), x)
    rest = build_fma(builder, power, constant_vector(2.12194440e-4), rest)
    value = builder.fadd(_build_small_expm1(builder, rest), constant_vector(1.0))
    exponent = builder.fptosi(power, ir.VectorType(INT32, LANES))
    parts = [exponent]
    if not negative:  # the exponent 128 has no float of its own: multiply by two smaller powers
        first = builder.ashr(exponent, constant_vector(1, INT32))
        parts = [first, builder.sub(exponent, first)]
    for part in parts:  # 2^part, by writing part into the exponent's bits
        bits = builder.add(part, constant_vector(127, INT32))
        bits = builder.shl(bits, constant_vector(23, INT32))
        value = builder.fmul(value, builder.bitcast(bits, VECTOR))
    value = builder.select(tiny, constant_vector(0.0), value)
    return value if negative else builder.select(huge, constant_vector(float("inf")), value)


def _build_small_expm1(builder: ir.IRBuilder, x: Any) -> Any:
    """e to the x minus 1, for x within plus and minus ln(2) / 2."""
    value = constant_vector(1.9875691500e-4)
    # Cephes expf: the minimax polynomial of (e^x - 1 - x) / x^2
    for term in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5):
        value = build_fma(builder, value, x, constant_vector(term))
    return build_fma(builder, value, builder.fmul(x, x), x)


def build_expm1(builder: ir.IRBuilder, x: Any) -> Any:
    """e to the x minus 1, which keeps its last bits near 0 too; x is not above 0."""
    near = builder.fcmp_ordered(">", x, constant_vector(-0.34))
    far = builder.fsub(build_exp(builder, x, negative=True), constant_vector(1.0))
    return builder.select(near, _build_small_expm1(builder, x), far)


def build_erfc(builder: ir.IRBuilder, x: Any) -> Any:
    """The complementary error function of x, which is not below 0."""
    # Numerical Recipes' erfcc: t * exp(-x^2 + P(t)) with t = 1 / (1 + x / 2), within 1.2e-7 of its size.
    one = constant_vector(1.0)
    t = builder.fdiv(one, build_fma(builder, x, constant_vector(0.5), one))
    power = constant_vector(0.17087277)
    for term in (
        -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
        1.00002368, -1.26551223,
    ):  # fmt: skip
        power = build_fma(builder, power, t, constant_vector(term))
    zero = constant_vector(0.0)
    power = build_fma(builder, builder.fsub(zero, x), x, power)
    return builder.fmul(t, build_exp(builder, power))
