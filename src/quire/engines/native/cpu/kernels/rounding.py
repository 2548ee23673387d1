"""Rounding weights to 8 or 4 bits at load: `quantization.rounding` says how, and is the same in NumPy.

A group's codes of 8 bits are equal there, bit for bit. With 4 bits, sums over a group are added in
another order here, so that of two grids that fit equally well the other may be taken.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, kernel, primitive
from quire.engines.native.cpu.kernels import builders
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT32, INT64, VECTOR
from quire.engines.native.cpu.kernels.layout import LANES
from quire.quantization.rounding import SYMMETRIC_STEPS

_WORDS = ir.VectorType(INT32, LANES)


def _make_round_group(bits: int, group: int) -> Any:
    """`round_group(x, codes, scale)`: `group` floats as unsigned codes, and their scale."""
    middle = 1 << (bits - 1)
    registers = range(group // LANES)
    suffix = builders.suffix(LANES)
    splat, constant = builders.build_splat, builders.constant_vector

    @primitive(NOTHING, INT, INT, INT)
    def round_group(builder: ir.IRBuilder, x: Any, codes: Any, scale: Any) -> None:
        def rounded(inverse: Any) -> list[Any]:
            """The integers nearest to the weights times a factor, within the range of codes."""
            found: list[Any] = []
            for value in values:
                value = builders.call(
                    builder, f"llvm.rint.{suffix}", VECTOR, [builder.fmul(value, inverse)]
                )
                most, least = constant(float(middle - 1)), constant(float(-middle))
                value = builder.select(builder.fcmp_ordered("<", value, most), value, most)
                found.append(builder.select(builder.fcmp_ordered(">", value, least), value, least))
            return found

        def total(products: list[tuple[Any, Any]]) -> Any:
            sums = constant(0.0)
            for one, other in products:
                sums = builders.build_fma(builder, one, other, sums)
            return builder.extract_element(builders.build_sums(builder, [sums]), INT32(0))

        def safe(condition: Any, value: Any) -> Any:
            return builder.select(condition, value, FLOAT32(0.0))

        def inverse_of(value: Any) -> Any:
            some = builder.fcmp_unordered("!=", value, FLOAT32(0.0))
            return safe(some, builder.fdiv(FLOAT32(1.0), value))

        values = [
            builders.build_load(builder, builder.add(x, INT64(4 * LANES * index)))
            for index in registers
        ]
        low = high = poison = constant(0.0)
        for value in values:
            low = builder.select(builder.fcmp_ordered("<", value, low), value, low)
            high = builder.select(builder.fcmp_ordered(">", value, high), value, high)
            # 0, or NaN where a weight is none or infinite: a comparison alone would lose it.
            poison = builders.build_fma(builder, value, constant(0.0), poison)
        least = builders.call(builder, f"llvm.vector.reduce.fmin.{suffix}", FLOAT32, [low])
        most = builders.call(builder, f"llvm.vector.reduce.fmax.{suffix}", FLOAT32, [high])
        bad = builder.extract_element(builders.build_sums(builder, [poison]), INT32(0))
        below = builder.fneg(least)
        is_high = builder.fcmp_ordered(">", most, below)
        if bits == 8:
            best = builder.fdiv(builder.select(is_high, most, below), FLOAT32(127.0))
        else:
            extreme = builder.select(is_high, most, least)
            best, best_gain = FLOAT32(0.0), FLOAT32(-1.0)
            for steps in SYMMETRIC_STEPS:
                tried = builder.fdiv(extreme, FLOAT32(-float(steps)))
                integers = rounded(splat(builder, inverse_of(tried)))
                dot = total(list(zip(values, integers, strict=True)))
                square = total([(one, one) for one in integers])
                some = builder.fcmp_ordered(">", square, FLOAT32(0.0))
                fitted = safe(some, builder.fdiv(dot, square))
                root = builders.call(builder, "llvm.sqrt.f32", FLOAT32, [square])
                size = builders.call(builder, "llvm.fabs.f32", FLOAT32, [fitted])
                gain = builder.fmul(size, root)
                better = builder.fcmp_ordered(">", gain, best_gain)
                best = builder.select(better, fitted, best)
                best_gain = builder.select(better, gain, best_gain)
        narrow = ir.VectorType(ir.IntType(8), LANES)
        for index, value in enumerate(rounded(splat(builder, inverse_of(best)))):
            integers = builder.add(builder.fptosi(value, _WORDS), constant(middle, INT32))
            place = builder.add(codes, INT64(LANES * index))
            pointer = builders.build_pointer(builder, place, narrow)
            builder.store(builder.trunc(integers, narrow), pointer, align=1)
        pointer = builders.build_pointer(builder, scale, FLOAT32)
        builder.store(builder.fadd(best, bad), pointer, align=4)

    return round_group


def _make_round_groups(bits: int, group: int) -> Any:
    round_group = _make_round_group(bits, group)

    @kernel
    def round_groups(x: int, count: int, codes: int, scales: int) -> None:
        """`count` groups of float32 that lie one after the other."""
        for index in range(count):
            first = index * group
            round_group(x + 4 * first, codes + first, scales + 4 * index)

    return round_groups


ROUND = {
    f"bits{bits}_{group}": _make_round_groups(bits, group)
    for bits, group in ((8, 64), (8, 32), (4, 32))
}
