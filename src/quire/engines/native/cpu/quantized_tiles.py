"""The inner loop of products with quantised weights: whole numbers, four products a lane at a time.

Weights are unsigned (0..255, or 0..15 in half bytes), activations signed (-127..127), sums 32 bits
wide and exact. They lie so that a register's lanes are columns, and each lane holds four depths:

    8 bits: [block of 16 columns][depth / 4][16 columns][4 depths]             a byte each
    4 bits: [block of 16 columns][depth / 8][16 columns][4 depths]             two in a byte: the
            lower half is depth 8 i + j, the upper 8 i + 4 + j

After every group of depths the sum is scaled and added to a float, in the order of the groups.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types

from quire.engines.native.cpu import builders
from quire.engines.native.cpu.builders import FLOAT, INT32, INT64, VECTOR
from quire.engines.native.cpu.jit import intrinsic
from quire.engines.native.cpu.layout import LANES, QUANT_BLOCK, cpu_features
from quire.engines.native.cpu.tiles import build_loop, build_offset

_I = types.int64
_WORDS = ir.VectorType(INT32, LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES * 4)
_SHORTS = ir.VectorType(ir.IntType(16), LANES * 2)
_HALVES = QUANT_BLOCK // LANES  # registers that hold one depth step of a block


def build_dot4(builder: ir.IRBuilder, total: Any, weights: Any, x: Any) -> Any:
    """`total` plus, in each lane, the sum of four products: unsigned weights, signed x."""
    features = cpu_features()
    if LANES == 16 and "avx512vnni" in features:
        return builders.call(builder, "llvm.x86.avx512.vpdpbusd.512", _WORDS, [total, weights, x])
    if LANES == 8 and "avxvnni" in features:
        return builders.call(builder, "llvm.x86.avx512.vpdpbusd.256", _WORDS, [total, weights, x])
    name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}[LANES]
    known = ("avx512bw" if LANES == 16 else "avx2") in features
    even, odd = _spread(builder, weights, signed=False), _spread(builder, x, signed=True)
    for w, value in zip(even, odd, strict=True):
        if known:
            pair = [builder.bitcast(part, _SHORTS) for part in (w, value)]
            product = builders.call(builder, name, _WORDS, pair)
        else:
            product = _pairs(builder, w, value)
        total = builder.add(total, product)
    return total


def _spread(builder: ir.IRBuilder, words: Any, *, signed: bool) -> tuple[Any, Any]:
    """The bytes 0 and 2 of each lane as two numbers of 16 bits, and the bytes 1 and 3."""
    shorts = builder.bitcast(words, _SHORTS)
    eight = builders.constant_vector(8, ir.IntType(16), LANES * 2)
    shift = builder.ashr if signed else builder.lshr
    odd = shift(shorts, eight)
    even = shift(builder.shl(shorts, eight), eight)
    return builder.bitcast(even, _WORDS), builder.bitcast(odd, _WORDS)


def _pairs(builder: ir.IRBuilder, a: Any, b: Any) -> Any:
    """Each lane's two products of 16-bit numbers, added, where no instruction does it."""
    sixteen = builders.constant_vector(16, INT32)
    low = [builder.ashr(builder.shl(value, sixteen), sixteen) for value in (a, b)]
    high = [builder.ashr(value, sixteen) for value in (a, b)]
    lower, upper = builder.mul(low[0], low[1]), builder.mul(high[0], high[1])
    return builder.add(lower, upper)


def _splat_word(builder: ir.IRBuilder, address: Any) -> Any:
    """Four bytes of memory in every lane."""
    word = builder.load(builders.build_pointer(builder, address, INT32), align=4)
    return _splat(builder, word)


def _splat(builder: ir.IRBuilder, word: Any) -> Any:
    undefined = ir.Constant(_WORDS, ir.Undefined)
    one = builder.insert_element(undefined, word, INT32(0))
    return builder.shuffle_vector(one, undefined, builders.constant_vector(0, INT32))


def _load_words(builder: ir.IRBuilder, address: Any) -> Any:
    return builder.load(builders.build_pointer(builder, address, _WORDS), align=4)


def _load_scales(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES float16, widened."""
    halves = ir.VectorType(ir.HalfType(), LANES)
    loaded = builder.load(builders.build_pointer(builder, address, halves), align=2)
    return builder.fpext(loaded, VECTOR)


def _load_zeros(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES unsigned bytes, widened."""
    kind = ir.VectorType(ir.IntType(8), LANES)
    loaded = builder.load(builders.build_pointer(builder, address, kind), align=1)
    return builder.zext(loaded, _WORDS)


def make_quantized_tile(
    rows: int, blocks: int, bits: int, zero_points: bool, ahead: int = 0
) -> Any:
    """`tile(x, x_stride, depth, w, s, z, span, repeat, groups, out, out_stride, unit, bias,
    accumulate, first, end)`, all int64 but `unit`, strides in bytes.

    `out[r, c] (+)= bias[c] + unit * sum_g x_scale[r, g] * w_scale[g, c] * sum_k (w - zero) x` for
    the columns `first` to `end - 1` of those of `blocks` blocks, which begin at `out`.

    x: rows as `quantize_rows` makes them, `depth` their bytes of numbers, cut into `groups` groups
    of `span` depths. w, s, z: the first block's numbers, scales (float16) and zero points; a scale
    serves `repeat` groups. Without `zero_points` every zero is the middle: 128, or 8. Numbers that
    lie `ahead` bytes further on are called into the cache; 0 for none.
    """
    steps_in_word = 1 if bits == 8 else 2
    # One row has few sums, each of which waits for the one before: several chains of them do not.
    unroll = chains = 4 if rows == 1 else 1
    vectors = blocks * _HALVES
    places = [(r, v) for r in range(rows) for v in range(vectors)]
    middle = 128 if bits == 8 else 8

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        (x, x_stride, depth, w, s, z, span, repeat, groups, out, out_stride, unit, bias, accumulate,
         first, end) = args  # fmt: skip
        block_bytes = builder.mul(depth, INT64(QUANT_BLOCK * bits // 8))
        more = builder.sub(builder.add(groups, repeat), INT64(1))
        stored_groups = builder.sdiv(more, repeat)  # the last may serve fewer
        xs = [build_offset(builder, x, x_stride, r) for r in range(rows)]
        ws = [build_offset(builder, w, block_bytes, b) for b in range(blocks)]
        scale_bytes = builder.mul(stored_groups, INT64(2 * QUANT_BLOCK))
        zero_bytes = builder.mul(stored_groups, INT64(QUANT_BLOCK))
        ss = [build_offset(builder, s, scale_bytes, b) for b in range(blocks)]
        zs = [build_offset(builder, z, zero_bytes, b) for b in range(blocks)]
        # A power of two, so that these are shifts; a group is 4 steps at least.
        trips = builder.lshr(span, INT64((4 * steps_in_word * unroll).bit_length() - 1))
        sums_at = builder.mul(groups, INT64(4))

        def step(start: Any, index: Any, sums: list[Any], number: int) -> list[Any]:
            """One register of weights a column vector: four depths, or eight."""
            result = list(sums)
            at = builder.add(start, builder.mul(index, INT64(4 * steps_in_word)))
            w_at = builder.mul(at, INT64(QUANT_BLOCK * bits // 8))
            weights: list[list[Any]] = []
            for b in range(blocks):
                for half in range(_HALVES):
                    place = builder.add(ws[b], builder.add(w_at, INT64(half * LANES * 4)))
                    if ahead and half == 0:
                        builders.build_prefetch(builder, builder.add(place, INT64(ahead)))
                    weights.append(_unpacked(builder, _load_words(builder, place), bits))
            for r in range(rows):
                for part in range(steps_in_word):
                    value = _splat_word(
                        builder, builder.add(xs[r], builder.add(at, INT64(4 * part)))
                    )
                    for v in range(vectors):
                        chain = (number * steps_in_word + part) % chains
                        at_sum = chain * len(places) + r * vectors + v
                        result[at_sum] = build_dot4(
                            builder, result[at_sum], weights[v][part], value
                        )
            return result

        def steps(start: Any, index: Any, sums: list[Any]) -> list[Any]:
            first = builder.mul(index, INT64(unroll))
            for number in range(unroll):
                sums = step(start, builder.add(first, INT64(number)), sums, number)
            return sums

        def merged(sums: list[Any]) -> list[Any]:
            """The chains added: whole numbers, so that their order does not matter."""
            result = sums[: len(places)]
            for at, value in enumerate(sums[len(places) :]):
                result[at % len(places)] = builder.add(result[at % len(places)], value)
            return result

        def group(index: Any, state: list[Any]) -> list[Any]:
            stored, served, *totals = state
            start = builder.mul(index, span)
            scale_at = [
                builder.add(builder.add(base, depth), builder.mul(index, INT64(4))) for base in xs
            ]
            x_scales: list[Any] = []
            x_sums: list[Any] = []
            for place in scale_at:
                scale = builder.load(builders.build_pointer(builder, place, FLOAT), align=4)
                x_scales.append(builders.build_splat(builder, scale))
                total = builder.add(place, sums_at)
                loaded = builder.load(builders.build_pointer(builder, total, INT32), align=4)
                x_sums.append(loaded)
            offset = builder.mul(stored, INT64(QUANT_BLOCK))
            zeros = [
                _load_zeros(builder, builder.add(zs[b], builder.add(offset, INT64(h * LANES))))
                for b in range(blocks)
                for h in range(_HALVES)
            ] if zero_points else []  # fmt: skip
            begun: list[Any] = []
            for r, v in places:
                if zero_points:
                    begun.append(builder.mul(_splat(builder, builder.neg(x_sums[r])), zeros[v]))
                else:
                    begun.append(_splat(builder, builder.mul(x_sums[r], INT32(-middle))))
            begun += [ir.Constant(_WORDS, [0] * LANES)] * (len(places) * (chains - 1))
            sums = merged(build_loop(builder, trips, begun, lambda i, s: steps(start, i, s)))
            scales = [
                _load_scales(
                    builder,
                    builder.add(
                        ss[b], builder.mul(builder.add(offset, INT64(h * LANES)), INT64(2))
                    ),
                )
                for b in range(blocks)
                for h in range(_HALVES)
            ]
            served = builder.add(served, INT64(1))  # counted: a division would cost more
            last = builder.icmp_signed("==", served, repeat)
            result = [
                builder.select(last, builder.add(stored, INT64(1)), stored),
                builder.select(last, INT64(0), served),
            ]
            for (r, v), whole, total in zip(places, sums, totals, strict=True):
                value = builder.fmul(builder.sitofp(whole, VECTOR), x_scales[r])
                result.append(builders.build_fma(builder, value, scales[v], total))
            return result

        zero = builders.constant_vector(0.0)
        begun = [INT64(0), INT64(0), *[zero] * len(places)]
        _, _, *totals = build_loop(builder, groups, begun, group)
        spread = builders.build_splat(builder, unit)
        for (r, v), total in zip(places, totals, strict=True):
            column = v * LANES
            _write(builder, builder.fmul(total, spread), column,
                   build_offset(builder, out, out_stride, r), bias, accumulate, first, end)  # fmt: skip
        return context.get_dummy_value()

    @intrinsic
    def quantized_tile(
        typingctx: Any, x: Any, x_stride: Any, depth: Any, w: Any, s: Any, z: Any, span: Any,
        repeat: Any, groups: Any, out: Any, out_stride: Any, unit: Any, bias: Any, accumulate: Any,
        first: Any, end: Any,
    ) -> Any:  # fmt: skip
        return types.none(*[_I] * 11, types.float32, *[_I] * 4), code

    return quantized_tile


def _unpacked(builder: ir.IRBuilder, words: Any, bits: int) -> list[Any]:
    """The weights of one register: itself, or its lower and upper half bytes."""
    if bits == 8:
        return [words]
    mask = builders.constant_vector(0x0F0F0F0F, INT32)
    upper = builder.lshr(words, builders.constant_vector(4, INT32))
    return [builder.and_(words, mask), builder.and_(upper, mask)]


def _write(
    builder: ir.IRBuilder, total: Any, column: int, row: Any, bias: Any, accumulate: Any,
    first: Any, end: Any,
) -> None:  # fmt: skip
    """Store one register's columns, from `column` on, as far as they lie in `first` to `end - 1`."""
    lanes = builders.constant_vector([column + lane for lane in range(LANES)], INT32)
    low = builder.icmp_signed(">=", lanes, _splat(builder, builder.trunc(first, INT32)))
    high = builder.icmp_signed("<", lanes, _splat(builder, builder.trunc(end, INT32)))
    mask = builder.and_(low, high)
    for wanted, address in ((bias, bias), (accumulate, row)):
        place = builder.add(address, INT64(4 * column))
        use = builder.icmp_signed("!=", wanted, INT64(0))
        before = builder.block
        with builder.if_then(use):
            loaded = builders.call(
                builder,
                f"llvm.masked.load.{builders.suffix(LANES)}.p0",
                VECTOR,
                [builders.build_pointer(builder, place, VECTOR), INT32(4), mask,
                 builders.constant_vector(0.0)],
            )  # fmt: skip
            added = builder.fadd(total, loaded)
            inside = builder.block
        phi = builder.phi(VECTOR)
        phi.add_incoming(total, before)
        phi.add_incoming(added, inside)
        total = phi
    pointer = builders.build_pointer(builder, builder.add(row, INT64(4 * column)), VECTOR)
    builders.call(
        builder, f"llvm.masked.store.{builders.suffix(LANES)}.p0", ir.VoidType(),
        [total, pointer, INT32(4), mask],
    )  # fmt: skip


@intrinsic
def quantize_group(
    typingctx: Any, x: Any, count: Any, span: Any, codes: Any, scale: Any, total: Any
) -> Any:
    """Round `span` floats at `x` to signed bytes at `codes`, with one scale and the bytes' sum.

    The largest becomes 127 or -127. Only the first `count` floats are there, the rest counts as 0.
    NaN or infinity makes the scale NaN, and so all that is computed with it.
    """

    def code(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        x, count, span, codes, scale, total = args
        trips = builder.sdiv(span, INT64(LANES))
        narrow = ir.VectorType(ir.IntType(8), LANES)

        def read(index: Any) -> Any:
            place = builder.mul(index, INT64(LANES))
            left = builder.sub(count, place)
            left = builder.select(builder.icmp_signed("<", left, INT64(0)), INT64(0), left)
            left = builder.select(builder.icmp_signed(">", left, INT64(LANES)), INT64(LANES), left)
            return builders.build_load_part(
                builder, builder.add(x, builder.mul(place, INT64(4))), left
            )

        def measure(index: Any, state: list[Any]) -> list[Any]:
            value = read(index)
            size = builders.call(builder, f"llvm.fabs.{builders.suffix(LANES)}", VECTOR, [value])
            largest = builder.select(builder.fcmp_ordered(">", size, state[0]), size, state[0])
            return [largest, builders.build_fma(builder, value, zero, state[1])]

        zero = builders.constant_vector(0.0)
        largest, poison = build_loop(builder, trips, [zero, zero], measure)
        most = builders.call(
            builder, f"llvm.vector.reduce.fmax.{builders.suffix(LANES)}", FLOAT, [largest]
        )
        bad = builder.extract_element(builders.build_sums(builder, [poison]), INT32(0))
        unit = builder.fmul(most, FLOAT(1 / 127))
        builder.store(
            builder.fadd(unit, bad), builders.build_pointer(builder, scale, FLOAT), align=4
        )
        some = builder.fcmp_ordered(">", most, FLOAT(0.0))
        inverse = builder.select(some, builder.fdiv(FLOAT(127.0), most), FLOAT(0.0))
        spread = builders.build_splat(builder, inverse)

        def round_them(index: Any, state: list[Any]) -> list[Any]:
            value = builder.fmul(read(index), spread)
            value = builders.call(builder, f"llvm.rint.{builders.suffix(LANES)}", VECTOR, [value])
            limit = builders.constant_vector(127.0)
            value = builder.select(builder.fcmp_ordered("<", value, limit), value, limit)
            limit = builders.constant_vector(-127.0)
            value = builder.select(builder.fcmp_ordered(">", value, limit), value, limit)
            whole = builder.fptosi(value, _WORDS)
            place = builder.add(codes, builder.mul(index, INT64(LANES)))
            builder.store(
                builder.trunc(whole, narrow),
                builders.build_pointer(builder, place, narrow),
                align=1,
            )
            return [builder.add(state[0], whole)]

        (sums,) = build_loop(builder, trips, [ir.Constant(_WORDS, [0] * LANES)], round_them)
        name = f"llvm.vector.reduce.add.v{LANES}i32"
        added = builders.call(builder, name, INT32, [sums])
        builder.store(added, builders.build_pointer(builder, total, INT32), align=4)
        return context.get_dummy_value()

    return types.none(*[_I] * 6), code
