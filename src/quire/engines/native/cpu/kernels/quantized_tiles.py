"""The inner loop of products with quantised weights: integers, four products a lane at a time.

Weights are unsigned (0..255, or 0..15 in half a byte) and activations signed (-127..127), as x86's
dot product instructions want them. Sums are exact, in 32 bits. Weights are stored so that a
register's lanes are columns, each of which holds four depths:

    8 bits: [block of 16 columns][depth / 4][16 columns][4 depths], one byte each
    4 bits: [block of 16 columns][depth / 8][16 columns][4 depths], two in a byte: depth 8 i + j in
            the lower half, 8 i + 4 + j in the upper

With columns as lanes a sum never has to be reduced over lanes, and each column has its scale in the
lane of its sum. After every group of depths the integer sum is scaled and added to a float, group by
group in one order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import FLOAT, INT, NOTHING, primitive
from quire.engines.native.cpu.compiler.targets import current
from quire.engines.native.cpu.kernels import builders
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT32, INT64, VECTOR
from quire.engines.native.cpu.kernels.layout import HAS_PAIRS, LANES, QUANT_BLOCK, WIDE_BYTES
from quire.engines.native.cpu.kernels.tiles import build_loop, build_offset

WORDS = ir.VectorType(INT32, LANES)
BYTES = ir.VectorType(ir.IntType(8), LANES * 4)
SHORTS = ir.VectorType(ir.IntType(16), LANES * 2)
WIDENING = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd"}
_SHORT_DEPTHS = 32  # whose products of 4 bits are summed in 16 bits; a span is one or two of them
HALVES = QUANT_BLOCK // LANES  # registers of one depth step of a block: 1, or 2 halves


def build_dot4(builder: ir.IRBuilder, total: Any, weights: Any, x: Any, bits: int) -> Any:
    """`total` plus, in each lane, the sum of four products of unsigned weights and signed x.

    VNNI does this in one instruction, and so does NEON. Elsewhere bytes are widened to 16 bits and
    multiplied as pairs of those; where pairs of bytes can be multiplied, this is not called.
    """
    features = current().features
    if "i8mm" in features:
        return _by_quarters(builder, "usdot", total, weights, x)
    if "dotprod" in features and bits == 4:
        return _by_quarters(builder, "sdot", total, weights, x)
    if "dotprod" in features:  # of signed bytes alone: w = 2 (w >> 1) + (w & 1)
        low = builder.and_(weights, builders.constant_vector(0x01010101, INT32))
        shifted = builder.lshr(weights, builders.constant_vector(1, INT32))
        half = builder.and_(shifted, builders.constant_vector(0x7F7F7F7F, INT32))
        for part in (half, half, low):
            total = _by_quarters(builder, "sdot", total, part, x)
        return total
    if LANES == 16 and "avx512vnni" in features:
        return builders.call(builder, "llvm.x86.avx512.vpdpbusd.512", WORDS, [total, weights, x])
    if LANES == 8 and "avxvnni" in features:
        return builders.call(builder, "llvm.x86.avx512.vpdpbusd.256", WORDS, [total, weights, x])
    for side in zip(spread(builder, weights), _spread_signed(builder, x), strict=True):
        total = build_dot2(builder, total, *side)
    return total


def build_dot2(builder: ir.IRBuilder, total: Any, weights: Any, x: Any) -> Any:
    """`total` plus, in each lane, the sum of two products of signed 16-bit integers."""
    features = current().features
    if (LANES == 16 and "avx512vnni" in features) or (LANES == 8 and "avxvnni" in features):
        name = f"llvm.x86.avx512.vpdpwssd.{32 * LANES}"
        return builders.call(builder, name, WORDS, [total, weights, x])
    if ("avx512bw" if LANES == 16 else "avx2") in features:
        pair = [builder.bitcast(one, SHORTS) for one in (weights, x)]
        return builder.add(total, builders.call(builder, WIDENING[LANES], WORDS, pair))
    # NEON multiplies halves of registers into words: LLVM finds that in widened products.
    wide = ir.VectorType(INT32, 2 * LANES)
    sides = [builder.sext(builder.bitcast(one, SHORTS), wide) for one in (weights, x)]
    products = builder.mul(sides[0], sides[1])
    for first in (0, 1):
        lanes = builders.constant_vector(range(first, 2 * LANES, 2), INT32)
        total = builder.add(total, builder.shuffle_vector(products, products, lanes))
    return total


def _by_quarters(builder: ir.IRBuilder, name: str, total: Any, weights: Any, x: Any) -> Any:
    """A dot product of NEON, whose registers hold four lanes."""
    words, four = ir.VectorType(INT32, 4), ir.VectorType(ir.IntType(8), 16)
    parts: list[Any] = []
    for start in range(0, LANES, 4):
        lanes = builders.constant_vector(range(start, start + 4), INT32)
        some = [builder.shuffle_vector(one, one, lanes) for one in (total, weights, x)]
        operands = [some[0], *(builder.bitcast(one, four) for one in some[1:])]
        full = f"llvm.aarch64.neon.{name}.v4i32.v16i8"
        parts.append(builders.call(builder, full, words, operands))
    while len(parts) > 1:
        width = 2 * parts[0].type.count
        lanes = builders.constant_vector(range(width), INT32)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [builder.shuffle_vector(low, high, lanes) for low, high in pairs]
    return parts[0]


def pairs_of_bytes() -> str:
    """LLVM's name of the product of pairs of bytes, where `HAS_PAIRS`.

    Its 16-bit sums saturate. Half bytes never reach that: 15 * 127 * 2. Weights above 127 may; they are
    multiplied as 16-bit integers, with the int16 of rounded rows.
    """
    return {16: "llvm.x86.avx512.pmaddubs.w.512", 8: "llvm.x86.avx2.pmadd.ub.sw"}[LANES]


def spread(builder: ir.IRBuilder, words: Any) -> tuple[Any, Any]:
    """The unsigned bytes 0 and 2 of each lane widened to two 16-bit integers, and the bytes 1 and 3."""
    shorts = builder.bitcast(words, SHORTS)
    low = builders.constant_vector(0xFF, ir.IntType(16), LANES * 2)
    eight = builders.constant_vector(8, ir.IntType(16), LANES * 2)
    sides = builder.and_(shorts, low), builder.lshr(shorts, eight)
    return builder.bitcast(sides[0], WORDS), builder.bitcast(sides[1], WORDS)


def _spread_signed(builder: ir.IRBuilder, words: Any) -> tuple[Any, Any]:
    """`spread` of signed bytes."""
    shorts = builder.bitcast(words, SHORTS)
    eight = builders.constant_vector(8, ir.IntType(16), LANES * 2)
    sides = builder.ashr(builder.shl(shorts, eight), eight), builder.ashr(shorts, eight)
    return builder.bitcast(sides[0], WORDS), builder.bitcast(sides[1], WORDS)


WIDE_ORDER = (0, 2, 1, 3)
"""Of int16, four neighbours lie in this order: a register of weights holds four depths a lane, of which
`spread` takes the even ones apart by one mask and the odd ones by a shift."""


def build_wide_order(builder: ir.IRBuilder, values: Any) -> Any:
    """Values of LANES neighbouring depths in the order of int16."""
    order = [lane // 4 * 4 + WIDE_ORDER[lane % 4] for lane in range(LANES)]
    return builder.shuffle_vector(values, values, builders.constant_vector(order, INT32))


def splat_word(builder: ir.IRBuilder, address: Any) -> Any:
    """Four bytes of memory in every lane."""
    word = builder.load(builders.build_pointer(builder, address, INT32), align=4)
    return splat_int(builder, word)


def splat_int(builder: ir.IRBuilder, word: Any) -> Any:
    """An int32 in every lane."""
    undefined = ir.Constant(WORDS, ir.Undefined)
    one = builder.insert_element(undefined, word, INT32(0))
    return builder.shuffle_vector(one, undefined, builders.constant_vector(0, INT32))


def _load_words(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES int32 from memory."""
    return builder.load(builders.build_pointer(builder, address, WORDS), align=4)


def load_halves(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES float16, widened."""
    halves = ir.VectorType(ir.HalfType(), LANES)
    loaded = builder.load(builders.build_pointer(builder, address, halves), align=2)
    return builder.fpext(loaded, VECTOR)


def _load_zeros(builder: ir.IRBuilder, address: Any) -> Any:
    """LANES unsigned bytes, widened."""
    kind = ir.VectorType(ir.IntType(8), LANES)
    loaded = builder.load(builders.build_pointer(builder, address, kind), align=1)
    return builder.zext(loaded, WORDS)


def make_quantized_tile(
    rows: int, blocks: int, bits: int, zero_points: bool, ahead: int = 0
) -> Any:
    """`tile(x, x_stride, depth, w, s, z, span, repeat, groups, out, out_stride, unit, bias,
    accumulate, first, end)`, all int64 but `unit`, strides in bytes.

    `out[r, c] (+)= bias[c] + unit * sum_g x_scale[r, g] * w_scale[g, c] * sum_k (w - zero) x` for
    the columns `first` to `end - 1` of the `blocks` blocks that begin at `out`.

    x: rows as `quantize_rows` makes them, of which the first `depth` bytes are integers, in `groups`
    groups of `span`. w, s, z: the codes, scales (float16) and zero points of the first block; one
    scale serves `repeat` groups. Without `zero_points` every zero point is the middle, 128 or 8.
    Codes that lie `ahead` bytes further on are prefetched; 0 for none.
    """
    steps_in_word = 1 if bits == 8 else 2
    # With one row there are few sums, and each addition waits for the one before it. Several
    # independent chains of sums keep the multiplier busy; integers add up to the same in any order.
    unroll = chains = 4 if rows == 1 else 1
    vectors = blocks * HALVES
    cells = [(r, v) for r in range(rows) for v in range(vectors)]  # the output of each sum
    middle = 128 if bits == 8 else 8
    in_pairs = HAS_PAIRS and bits == 4
    in_shorts = HAS_PAIRS and bits == 8
    sums_at_once = rows * vectors
    short_chains = 4 if sums_at_once <= 2 else 2 if sums_at_once <= 4 else 1

    @primitive(NOTHING, *[INT] * 11, FLOAT, *[INT] * 4)
    def quantized_tile(
        builder: ir.IRBuilder, x: Any, x_stride: Any, depth: Any, w: Any, s: Any, z: Any, span: Any,
        repeat: Any, groups: Any, out: Any, out_stride: Any, unit: Any, bias: Any, accumulate: Any,
        first: Any, end: Any,
    ) -> None:  # fmt: skip
        block_bytes = builder.mul(depth, INT64(QUANT_BLOCK * bits // 8))
        more = builder.sub(builder.add(groups, repeat), INT64(1))
        stored_groups = builder.sdiv(more, repeat)  # rounded up: the last may serve fewer groups
        xs = [build_offset(builder, x, x_stride, r) for r in range(rows)]
        ws = [build_offset(builder, w, block_bytes, b) for b in range(blocks)]
        scale_bytes = builder.mul(stored_groups, INT64(2 * QUANT_BLOCK))
        zero_bytes = builder.mul(stored_groups, INT64(QUANT_BLOCK))
        ss = [build_offset(builder, s, scale_bytes, b) for b in range(blocks)]
        zs = [build_offset(builder, z, zero_bytes, b) for b in range(blocks)]
        # `span` is 32 or 64, so that the division is a shift without a remainder.
        trips = builder.lshr(span, INT64((4 * steps_in_word * unroll).bit_length() - 1))
        sums_offset = builder.mul(groups, INT64(4))  # from a group's scale to the sum of its bytes
        wide_offset = builder.add(depth, builder.mul(groups, INT64(8)))

        def weights_at(depth: Any, v: int) -> list[Any]:
            """One register of weights of a column vector from a depth on: four depths, or twice four."""
            offset = builder.mul(depth, INT64(QUANT_BLOCK * bits // 8))
            block, half = divmod(v, HALVES)
            source = builder.add(ws[block], builder.add(offset, INT64(half * LANES * 4)))
            if ahead and half == 0:
                builders.build_prefetch(builder, builder.add(source, INT64(ahead)))
            return _unpacked(builder, _load_words(builder, source), bits)

        def value_at(depth: Any, r: int, part: int) -> Any:
            """Four activations of a row, in every lane."""
            return splat_word(builder, builder.add(xs[r], builder.add(depth, INT64(4 * part))))

        def shorts_at(depth: Any, r: int) -> list[Any]:
            """The same as int16: the even ones and the odd ones."""
            at = builder.add(builder.add(xs[r], wide_offset), builder.shl(depth, INT64(1)))
            return [splat_word(builder, at), splat_word(builder, builder.add(at, INT64(4)))]

        def short_step(start: Any, index: Any, sums: list[Any], number: int) -> list[Any]:
            """Multiply four depths of each column vector as 16-bit integers."""
            result = list(sums)
            depth_at = builder.add(start, builder.mul(index, INT64(4)))
            values = [shorts_at(depth_at, r) for r in range(rows)]
            for v in range(vectors):
                (weights,) = weights_at(depth_at, v)
                sides = spread(builder, weights)
                for r in range(rows):
                    cell = number % chains * len(cells) + r * vectors + v
                    for side, value in zip(sides, values[r], strict=True):
                        result[cell] = build_dot2(builder, result[cell], side, value)
            return result

        def step(start: Any, index: Any, sums: list[Any], number: int) -> list[Any]:
            """Multiply one register of weights of each column vector: four depths, or eight."""
            result = list(sums)
            depth_at = builder.add(start, builder.mul(index, INT64(4 * steps_in_word)))
            weights = [weights_at(depth_at, v) for v in range(vectors)]
            for r in range(rows):
                for part in range(steps_in_word):
                    value = value_at(depth_at, r, part)
                    for v in range(vectors):
                        chain = (number * steps_in_word + part) % chains
                        cell = chain * len(cells) + r * vectors + v
                        result[cell] = build_dot4(
                            builder, result[cell], weights[v][part], value, bits
                        )
            return result

        def steps(start: Any, index: Any, sums: list[Any]) -> list[Any]:
            """One trip of the loop over a group: `unroll` steps."""
            first = builder.mul(index, INT64(unroll))
            multiply = short_step if in_shorts else step
            for number in range(unroll):
                sums = multiply(start, builder.add(first, INT64(number)), sums, number)
            return sums

        def merged(sums: list[Any]) -> list[Any]:
            """The sums of all chains."""
            result = sums[: len(cells)]
            for i, value in enumerate(sums[len(cells) :]):
                result[i % len(cells)] = builder.add(result[i % len(cells)], value)
            return result

        def steps_in_pairs(start: Any, index: Any, sums: list[Any]) -> list[Any]:
            """32 depths: pairs of products with half a byte of a weight are summed in 16 bits first.

            15 * 127 * 2 is the most of a pair, and 8 of them fit.
            """
            start = builder.add(start, builder.mul(index, INT64(_SHORT_DEPTHS)))
            zero = ir.Constant(SHORTS, [0] * (2 * LANES))
            shorts: list[list[Any]] = [[zero] * short_chains for _ in cells]
            for number in range(_SHORT_DEPTHS // 8):
                depth_at = builder.add(start, INT64(8 * number))
                values = [[value_at(depth_at, r, part) for part in (0, 1)] for r in range(rows)]
                for v in range(vectors):
                    for part, weights in enumerate(weights_at(depth_at, v)):
                        chain = (2 * number + part) % short_chains
                        for r in range(rows):
                            pair = [
                                builder.bitcast(one, BYTES) for one in (weights, values[r][part])
                            ]
                            products = builders.call(builder, pairs_of_bytes(), SHORTS, pair)
                            chained = shorts[r * vectors + v]
                            chained[chain] = builder.add(chained[chain], products)
            ones = ir.Constant(SHORTS, [1] * (2 * LANES))
            result: list[Any] = []
            for total, chained in zip(sums, shorts, strict=True):
                short = chained[0]
                for other in chained[1:]:
                    short = builder.add(short, other)
                widened = builders.call(builder, WIDENING[LANES], WORDS, [short, ones])
                result.append(builder.add(total, widened))
            return result

        def group(index: Any, state: list[Any]) -> list[Any]:
            """Add one group of depths to the totals.

            `stored` is the index of the weights' scale, `served` the groups that had it so far.
            """
            stored, served, *totals = state
            start = builder.mul(index, span)
            scale_addresses = [
                builder.add(builder.add(base, depth), builder.mul(index, INT64(4))) for base in xs
            ]
            x_scales: list[Any] = []
            x_sums: list[Any] = []
            for address in scale_addresses:
                scale = builder.load(builders.build_pointer(builder, address, FLOAT32), align=4)
                x_scales.append(builders.build_splat(builder, scale))
                total = builder.add(address, sums_offset)
                loaded = builder.load(builders.build_pointer(builder, total, INT32), align=4)
                x_sums.append(loaded)
            offset = builder.mul(stored, INT64(QUANT_BLOCK))
            zeros = [
                _load_zeros(builder, builder.add(zs[b], builder.add(offset, INT64(h * LANES))))
                for b in range(blocks)
                for h in range(HALVES)
            ] if zero_points else []  # fmt: skip
            # sum (w - zero) x = sum w x - zero sum x: the second part is where the sums begin, so
            # that the inner loop multiplies weights as they are stored.
            initial: list[Any] = []
            for r, v in cells:
                if zero_points:
                    initial.append(
                        builder.mul(splat_int(builder, builder.neg(x_sums[r])), zeros[v])
                    )
                else:
                    initial.append(splat_int(builder, builder.mul(x_sums[r], INT32(-middle))))
            if in_pairs:
                parts = builder.lshr(span, INT64(_SHORT_DEPTHS.bit_length() - 1))
                sums = build_loop(builder, parts, initial, lambda i, s: steps_in_pairs(start, i, s))
            else:
                initial += [ir.Constant(WORDS, [0] * LANES)] * (len(cells) * (chains - 1))
                sums = merged(build_loop(builder, trips, initial, lambda i, s: steps(start, i, s)))
            scales = [
                load_halves(
                    builder,
                    builder.add(
                        ss[b], builder.mul(builder.add(offset, INT64(h * LANES)), INT64(2))
                    ),
                )
                for b in range(blocks)
                for h in range(HALVES)
            ]
            served = builder.add(served, INT64(1))  # counted: a division would cost more
            last = builder.icmp_signed("==", served, repeat)
            result = [
                builder.select(last, builder.add(stored, INT64(1)), stored),
                builder.select(last, INT64(0), served),
            ]
            for (r, v), integer_sum, total in zip(cells, sums, totals, strict=True):
                value = builder.fmul(builder.sitofp(integer_sum, VECTOR), x_scales[r])
                result.append(builders.build_fma(builder, value, scales[v], total))
            return result

        zero = builders.constant_vector(0.0)
        initial = [INT64(0), INT64(0), *[zero] * len(cells)]
        _, _, *totals = build_loop(builder, groups, initial, group)
        units = builders.build_splat(builder, unit)
        scaled = [builder.fmul(total, units) for total in totals]
        targets = [build_offset(builder, out, out_stride, r) for r in range(rows)]
        columns = [(targets[r], v * LANES) for r, v in cells]
        width = blocks * QUANT_BLOCK
        write_columns(builder, scaled, columns, bias, accumulate, first, end, width)

    return quantized_tile


def _unpacked(builder: ir.IRBuilder, words: Any, bits: int) -> list[Any]:
    """What is multiplied of a register of weights: itself, or its lower and its upper half bytes."""
    if bits == 8:
        return [words]
    mask = builders.constant_vector(0x0F0F0F0F, INT32)
    upper = builder.lshr(words, builders.constant_vector(4, INT32))
    return [builder.and_(words, mask), builder.and_(upper, mask)]


def write_columns(
    builder: ir.IRBuilder, totals: list[Any], places: list[tuple[Any, int]], bias: Any,
    accumulate: Any, first: Any, end: Any, width: int,
) -> None:  # fmt: skip
    """Store the totals of a tile, for its columns `first` to `end - 1` of `width`.

    `places` are the row's address and the first column of each total.
    """
    # Nearly all tiles are whole; masked stores take some processors ten times as long as plain ones.
    whole = builder.and_(
        builder.icmp_signed("<=", first, INT64(0)), builder.icmp_signed(">=", end, INT64(width))
    )
    with builder.if_else(whole) as branches:
        for branch, edges in zip(branches, (None, (first, end)), strict=True):
            with branch:
                for (row, column), total in zip(places, totals, strict=True):
                    _write(builder, total, column, row, bias, accumulate, edges)


def _write(
    builder: ir.IRBuilder, total: Any, column: int, row: Any, bias: Any, accumulate: Any,
    edges: tuple[Any, Any] | None,
) -> None:  # fmt: skip
    """Store the columns of one register, from `column` on, that lie within `edges`; None for all.

    A task's columns may begin and end within a block: the others belong to other threads.
    """
    mask = None if edges is None else _between(builder, column, *edges)
    for condition, address in ((bias, bias), (accumulate, row)):
        source = builder.add(address, INT64(4 * column))
        use = builder.icmp_signed("!=", condition, INT64(0))
        before = builder.block
        with builder.if_then(use):
            if mask is None:
                loaded = builders.build_load(builder, source)
            else:
                name = f"llvm.masked.load.{builders.suffix(LANES)}.p0"
                pointer = builders.build_pointer(builder, source, VECTOR)
                zero = builders.constant_vector(0.0)
                loaded = builders.call(builder, name, VECTOR, [pointer, INT32(4), mask, zero])
            added = builder.fadd(total, loaded)
            inside = builder.block
        phi = builder.phi(VECTOR)
        phi.add_incoming(total, before)
        phi.add_incoming(added, inside)
        total = phi
    pointer = builders.build_pointer(builder, builder.add(row, INT64(4 * column)), VECTOR)
    if mask is None:
        builder.store(total, pointer, align=4)
    else:
        name = f"llvm.masked.store.{builders.suffix(LANES)}.p0"
        builders.call(builder, name, ir.VoidType(), [total, pointer, INT32(4), mask])


def _between(builder: ir.IRBuilder, column: int, first: Any, end: Any) -> Any:
    """A mask of the lanes of a register whose columns, from `column` on, lie in `first` to `end - 1`."""
    lanes = builders.constant_vector([column + lane for lane in range(LANES)], INT32)
    low = builder.icmp_signed(">=", lanes, splat_int(builder, builder.trunc(first, INT32)))
    high = builder.icmp_signed("<", lanes, splat_int(builder, builder.trunc(end, INT32)))
    return builder.and_(low, high)


@primitive(NOTHING, *[INT] * 7)
def quantize_group(
    builder: ir.IRBuilder, x: Any, count: Any, span: Any, codes: Any, scale: Any, total: Any, wide: Any
) -> None:  # fmt: skip
    """Round `span` floats at `x` to int8 at `codes`; write their scale, and the sum of the int8.

    Where rows have them as int16 too (`WIDE_BYTES`), these are written at `wide`.

    The largest magnitude becomes 127. Only the first `count` floats exist; the others count as 0.
    A NaN or an infinity makes the scale NaN, and so all that is computed with it.
    """
    trips = builder.sdiv(span, INT64(LANES))
    narrow = ir.VectorType(ir.IntType(8), LANES)

    def read(index: Any) -> Any:
        start = builder.mul(index, INT64(LANES))
        left = builder.sub(count, start)
        left = builder.select(builder.icmp_signed("<", left, INT64(0)), INT64(0), left)
        left = builder.select(builder.icmp_signed(">", left, INT64(LANES)), INT64(LANES), left)
        return builders.build_load_part(builder, builder.add(x, builder.mul(start, INT64(4))), left)

    def measure(index: Any, state: list[Any]) -> list[Any]:
        """The largest magnitude so far, and 0 or NaN: a comparison alone would lose a NaN."""
        value = read(index)
        size = builders.call(builder, f"llvm.fabs.{builders.suffix(LANES)}", VECTOR, [value])
        largest = builder.select(builder.fcmp_ordered(">", size, state[0]), size, state[0])
        return [largest, builders.build_fma(builder, value, zero, state[1])]

    zero = builders.constant_vector(0.0)
    largest, poison = build_loop(builder, trips, [zero, zero], measure)
    most = builders.call(
        builder, f"llvm.vector.reduce.fmax.{builders.suffix(LANES)}", FLOAT32, [largest]
    )
    bad = builder.extract_element(builders.build_sums(builder, [poison]), INT32(0))
    unit = builder.fmul(most, FLOAT32(1 / 127))
    builder.store(builder.fadd(unit, bad), builders.build_pointer(builder, scale, FLOAT32), align=4)
    some = builder.fcmp_ordered(">", most, FLOAT32(0.0))
    inverse = builder.select(some, builder.fdiv(FLOAT32(127.0), most), FLOAT32(0.0))
    spread = builders.build_splat(builder, inverse)

    def round_codes(index: Any, state: list[Any]) -> list[Any]:
        """Write one register of codes, and add them to the sum."""
        value = builder.fmul(read(index), spread)
        value = builders.call(builder, f"llvm.rint.{builders.suffix(LANES)}", VECTOR, [value])
        limit = builders.constant_vector(127.0)
        value = builder.select(builder.fcmp_ordered("<", value, limit), value, limit)
        limit = builders.constant_vector(-127.0)
        value = builder.select(builder.fcmp_ordered(">", value, limit), value, limit)
        rounded = builder.fptosi(value, WORDS)
        target = builder.add(codes, builder.mul(index, INT64(LANES)))
        builder.store(
            builder.trunc(rounded, narrow),
            builders.build_pointer(builder, target, narrow),
            align=1,
        )
        if WIDE_BYTES:
            shorts = ir.VectorType(ir.IntType(16), LANES)
            target = builder.add(wide, builder.mul(index, INT64(WIDE_BYTES * LANES)))
            pointer = builders.build_pointer(builder, target, shorts)
            ordered = build_wide_order(builder, builder.trunc(rounded, shorts))
            builder.store(ordered, pointer, align=2)
        return [builder.add(state[0], rounded)]

    (sums,) = build_loop(builder, trips, [ir.Constant(WORDS, [0] * LANES)], round_codes)
    name = f"llvm.vector.reduce.add.v{LANES}i32"
    added = builders.call(builder, name, INT32, [sums])
    builder.store(added, builders.build_pointer(builder, total, INT32), align=4)
