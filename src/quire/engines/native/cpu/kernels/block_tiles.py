"""Products with weights in GGUF's blocks, on the blocks' own integers: see `block_forms` for their order.

The rows of x are integers in spans of 32 that share a scale, of 8 bits (`fast`) or of 16 (`exact`). The
products of a span are summed exactly, in 32 bits: 32 * 255 * 32767 fits. Then the sum is scaled and
added to a float, span by span in one order. So a row's result is the same in any batch.

A row of `depth` values is: the integers; for each span a float32 scale; for each span two int32, the sums
of the integers of its halves. Rows of 8 bits have them as int16 behind it where `layout.WIDE_BYTES` says so.
Integers of 16 bits lie in `WIDE_ORDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, primitive
from quire.engines.native.cpu.compiler.targets import current
from quire.engines.native.cpu.kernels import builders
from quire.engines.native.cpu.kernels.block_forms import COLUMNS, SPAN, SUPER_SPANS, BlockForm
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT32, INT64, VECTOR
from quire.engines.native.cpu.kernels.layout import HAS_PAIRS, LANES, WIDE_BYTES
from quire.engines.native.cpu.kernels.quantized_tiles import (
    BYTES,
    HALVES,
    SHORTS,
    WIDENING,
    WORDS,
    build_dot2,
    build_dot4,
    build_wide_order,
    load_halves,
    pairs_of_bytes,
    splat_int,
    splat_word,
    spread,
    write_columns,
)
from quire.engines.native.cpu.kernels.tiles import build_loop, build_offset

STEPS = SPAN // 4  # products of four depths in a span
_MOST_PAIR = 2 * 127  # what a pair of activations can multiply a weight by
_MOST_SHORT = 32767
_STEP_BYTES = 4 * COLUMNS
_BYTE_LANES = ir.VectorType(ir.IntType(8), LANES)
_SHORT_LANES = ir.VectorType(ir.IntType(16), LANES)


# ---- codes


def code_words(
    form: BlockForm, step: int, load: Callable[[int], Any], builder: ir.IRBuilder
) -> Any:
    """Four codes of a column in each lane (or in one int32), those of the depths from 4 * step on.

    `load(offset)` gives the words of a span's bytes from there on.
    """

    def constant(value: int, like: Any) -> Any:
        if isinstance(like.type, ir.VectorType):
            return builders.constant_vector(value, INT32)
        return INT32(value)

    def masked(words: Any, shift: int, mask: int) -> Any:
        """The bits of a mask, after a shift to the left or (negative) to the right."""
        if shift > 0:
            words = builder.shl(words, constant(shift, words))
        elif shift < 0:
            words = builder.lshr(words, constant(-shift, words))
        return builder.and_(words, constant(mask * 0x01010101, words))

    if form.bits == 8:
        return load(step * _STEP_BYTES)
    pair, upper = divmod(step, 2)
    codes = masked(load(pair * _STEP_BYTES), -4 * upper, 0x0F)
    plane = SPAN // 2 * COLUMNS
    if form.bits == 5:
        codes = builder.or_(codes, masked(load(plane), 4 - step, 0x10))
    elif form.bits == 6:
        which, place = divmod(step, 4)
        two = masked(load(plane + which * _STEP_BYTES), 4 - 2 * place, 0x30)
        codes = builder.or_(codes, two)
    return codes


def _looked_up(builder: ir.IRBuilder, codes: Any, levels: tuple[int, ...]) -> Any:
    """The level of each byte of a register of codes."""
    features = current().features
    table = [levels[i % 16] for i in range(LANES * 4)]
    byte = ir.IntType(8)
    if "avx2" in features:
        name = {16: "llvm.x86.avx512.pshuf.b.512", 8: "llvm.x86.avx2.pshuf.b"}[LANES]
        known = builders.constant_vector(table, byte)
        found = builders.call(builder, name, BYTES, [known, builder.bitcast(codes, BYTES)])
        return builder.bitcast(found, WORDS)
    return _selected(builder, codes, levels, BYTES)


def _selected(builder: ir.IRBuilder, codes: Any, levels: tuple[int, ...], kind: Any) -> Any:
    """The level of each byte, by comparisons: where no instruction looks bytes up."""
    byte, count = ir.IntType(8), kind.count
    each = builder.bitcast(codes, kind)
    result = ir.Constant(kind, [levels[0]] * count)
    for code, level in enumerate(levels[1:], 1):
        is_it = builder.icmp_signed("==", each, builders.constant_vector(code, byte, count))
        result = builder.select(is_it, builders.constant_vector(level, byte, count), result)
    return builder.bitcast(result, codes.type)


# ---- products


def reads_shorts(form: BlockForm, exact: bool) -> bool:
    """Whether rows are read as int16: all of `exact`, and those of 8 bits whose pairs of products could
    saturate."""
    return exact or (HAS_PAIRS and form.largest > 127)


class _Tile:
    """Writes the code of one tile of `rows` rows and `blocks` blocks of columns."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        form: BlockForm,
        rows: int,
        blocks: int,
        exact: bool,
        ahead: int,
    ) -> None:
        self.builder, self.form, self.ahead = builder, form, ahead
        self.in_shorts = reads_shorts(form, exact)
        self.rows, self.vectors = rows, blocks * HALVES
        self.cells = [(r, v) for r in range(rows) for v in range(self.vectors)]
        # With few sums, each addition waits for the one before it: several chains of sums keep the
        # multiplier busy. Integers add up to the same in any order.
        self.chains = 4 if len(self.cells) == 1 else 2 if len(self.cells) <= 4 else 1
        self.in_pairs = HAS_PAIRS and not self.in_shorts

    def load_words(self, address: Any) -> Any:
        pointer = builders.build_pointer(self.builder, address, WORDS)
        return self.builder.load(pointer, align=4)

    def codes_of_span(self, address: Any, v: int) -> Callable[[int], Any]:
        """A function of the step that gives a column vector's weights; each register is loaded once."""
        builder, half = self.builder, v % HALVES
        loaded: dict[int, Any] = {}

        def load(offset: int) -> Any:
            if offset not in loaded:
                at = builder.add(address, INT64(offset + half * LANES * 4))
                if self.ahead and half == 0:
                    builders.build_prefetch(builder, builder.add(at, INT64(self.ahead)))
                loaded[offset] = self.load_words(at)
            return loaded[offset]

        def at_step(step: int) -> Any:
            codes = code_words(self.form, step, load, builder)
            return _looked_up(builder, codes, self.form.levels) if self.form.levels else codes

        return at_step

    def sums_of(self, part: int, initial: list[Any], weights: Any, x: Any) -> list[Any]:
        """The integer sums of a part of a span: all of it, or a half.

        Args:
            initial: what the sum of each cell begins with.
            weights: for each column vector, its weights by step.
            x: a function of row and step that gives the address of its integers.
        """
        count = STEPS // self.form.parts
        steps = range(part * count, (part + 1) * count)
        if self.in_pairs:
            return self._sums_of_pairs(steps, initial, weights, x)
        builder, chains = self.builder, min(self.chains, count)
        zero = ir.Constant(WORDS, [0] * LANES)
        sums = [[one, *[zero] * (chains - 1)] for one in initial]
        for number, step in enumerate(steps):
            registers = [at_step(step) for at_step in weights]
            sides = [spread(builder, one) for one in registers] if self.in_shorts else []
            for r in range(self.rows):
                address = x(r, step)
                values = [splat_word(builder, address)]
                if self.in_shorts:
                    values.append(splat_word(builder, builder.add(address, INT64(4))))
                for v in range(self.vectors):
                    chained, chain = sums[r * self.vectors + v], number % chains
                    if self.in_shorts:
                        for side, value in zip(sides[v], values, strict=True):
                            chained[chain] = build_dot2(builder, chained[chain], side, value)
                    else:
                        bits = 8 if self.form.largest > 127 else 4
                        chained[chain] = build_dot4(
                            builder, chained[chain], registers[v], values[0], bits
                        )
        return [self._added(chained) for chained in sums]

    def _added(self, chained: list[Any]) -> Any:
        result = chained[0]
        for other in chained[1:]:
            result = self.builder.add(result, other)
        return result

    def _sums_of_pairs(self, steps: range, initial: list[Any], weights: Any, x: Any) -> list[Any]:
        """`sums_of` by products of pairs of bytes, of which as many as fit are summed in 16 bits."""
        builder, sums = self.builder, list(initial)
        fit = _MOST_SHORT // (_MOST_PAIR * self.form.largest)
        ones = builders.constant_vector(1, ir.IntType(16), 2 * LANES)
        shorts: list[Any] = []
        for number, step in enumerate(steps, 1):
            products: list[Any] = [None] * len(self.cells)
            for v, at_step in enumerate(weights):
                codes = builder.bitcast(at_step(step), BYTES)
                for r in range(self.rows):
                    value = builder.bitcast(splat_word(builder, x(r, step)), BYTES)
                    product = builders.call(builder, pairs_of_bytes(), SHORTS, [codes, value])
                    products[r * self.vectors + v] = product
            added = zip(shorts, products, strict=True)
            shorts = [builder.add(*both) for both in added] if shorts else products
            if number % min(fit, len(steps)) == 0 or number == len(steps):
                for cell, total in enumerate(shorts):
                    widened = builders.call(builder, WIDENING[LANES], WORDS, [total, ones])
                    sums[cell] = builder.add(sums[cell], widened)
                shorts = []
        return sums

    # ---- scales

    def factors(self, address: Any, supers: Any, kind: int, part: int) -> Any:
        """Scales (kind 0) or minimums (1) of a part of a span, of one column vector, as floats."""
        builder, form = self.builder, self.form
        size = form.scale_bytes
        at = builder.add(address, INT64((kind * form.parts + part) * COLUMNS * size))
        if form.scales == "single":
            return builders.build_load(builder, at)
        if form.scales == "half":
            return load_halves(builder, at)
        narrow = ir.VectorType(ir.IntType(8), LANES)
        loaded = builder.load(builders.build_pointer(builder, at, narrow), align=1)
        signed = form.signed and kind == 0
        words = (builder.sext if signed else builder.zext)(loaded, WORDS)
        above = load_halves(builder, builder.add(supers, INT64(kind * COLUMNS * 2)))
        return builder.fmul(builder.sitofp(words, VECTOR), above)


def make_block_tile(form: BlockForm, rows: int, blocks: int, exact: bool, ahead: int = 0) -> Any:
    """`tile(x, x_stride, spans, w, factors, supers, out, out_stride, bias, accumulate, first, end)`.

    `out[r, c] (+)= bias[c] + sum_k x[r, k] * w[c, k]` for the columns `first` to `end - 1` of the
    `blocks` blocks that begin at `out`; all int64, strides in bytes.

    x: rows as `quantize_span` makes them. w, factors, supers: codes, scales and minimums of the first
    block. Codes that lie `ahead` bytes further on are prefetched; 0 for none.
    """
    factor_bytes, super_bytes = form.factor_bytes, form.super_bytes

    @primitive(NOTHING, *[INT] * 12)
    def block_tile(
        builder: ir.IRBuilder, x: Any, x_stride: Any, spans: Any, w: Any, factors: Any, supers: Any,
        out: Any, out_stride: Any, bias: Any, accumulate: Any, first: Any, end: Any,
    ) -> None:  # fmt: skip
        tile = _Tile(builder, form, rows, blocks, exact, ahead)
        width = 2 if exact else 1
        xs = [build_offset(builder, x, x_stride, r) for r in range(rows)]
        more = builder.add(spans, INT64(SUPER_SPANS - 1))
        sizes = (
            builder.mul(spans, INT64(form.span_bytes)),
            builder.mul(spans, INT64(factor_bytes)),
            builder.mul(builder.lshr(more, INT64(3)), INT64(super_bytes)),
        )
        bases = [
            [build_offset(builder, base, size, b) for b in range(blocks)]
            for base, size in zip((w, factors, supers), sizes, strict=True)
        ]
        codes_bytes = builder.mul(spans, INT64(SPAN * width))
        sums_offset = builder.add(codes_bytes, builder.mul(spans, INT64(4)))
        behind = tile.in_shorts and not exact
        shorts_offset = builder.mul(spans, INT64(SPAN + 12)) if behind else INT64(0)
        read_width = 2 if tile.in_shorts else 1

        def column_address(kind: int, v: int, offset: Any, lane_bytes: int) -> Any:
            block, half = divmod(v, HALVES)
            at = builder.add(bases[kind][block], offset)
            return builder.add(at, INT64(half * LANES * lane_bytes)) if half else at

        def load_scalar(address: Any, kind: Any) -> Any:
            return builder.load(builders.build_pointer(builder, address, kind), align=4)

        def span(index: Any, totals: list[Any]) -> list[Any]:
            codes_at = builder.mul(index, INT64(form.span_bytes))
            factors_at = builder.mul(index, INT64(factor_bytes))
            supers_at = builder.mul(builder.lshr(index, INT64(3)), INT64(super_bytes))
            x_at = builder.add(shorts_offset, builder.mul(index, INT64(SPAN * read_width)))
            weights = [
                tile.codes_of_span(builder.add(bases[0][v // HALVES], codes_at), v)
                for v in range(tile.vectors)
            ]
            x_scales: list[Any] = []
            x_sums: list[list[Any]] = []
            for base in xs:
                at = builder.add(base, builder.add(codes_bytes, builder.mul(index, INT64(4))))
                x_scales.append(load_scalar(at, FLOAT32))
                at = builder.add(base, builder.add(sums_offset, builder.mul(index, INT64(8))))
                halves = [load_scalar(builder.add(at, INT64(4 * i)), INT32) for i in range(2)]
                x_sums.append(halves if form.halved else [builder.add(*halves)])
            spread = [builders.build_splat(builder, one) for one in x_scales]
            result = list(totals)
            for part in range(form.parts):
                initial = [ir.Constant(WORDS, [0] * LANES)] * len(tile.cells)
                if form.middle:
                    initial = [
                        splat_int(builder, builder.mul(x_sums[r][part], INT32(-form.middle)))
                        for r, _ in tile.cells
                    ]
                sums = tile.sums_of(
                    part, initial, weights,
                    lambda r, step: builder.add(xs[r], builder.add(x_at, INT64(4 * read_width * step))),
                )  # fmt: skip
                at = [
                    (
                        column_address(1, v, factors_at, form.scale_bytes),
                        column_address(2, v, supers_at, 2),
                    )
                    for v in range(tile.vectors)
                ]
                scales = [tile.factors(*one, 0, part) for one in at]
                for cell, (r, v) in enumerate(tile.cells):
                    value = builder.fmul(builder.sitofp(sums[cell], VECTOR), spread[r])
                    result[cell] = builders.build_fma(builder, value, scales[v], result[cell])
                if form.minimums:
                    lowest = [tile.factors(*one, 1, part) for one in at]
                    for r in range(rows):
                        total = builder.sitofp(x_sums[r][part], FLOAT32)
                        less = builder.fneg(builder.fmul(total, x_scales[r]))
                        splatted = builders.build_splat(builder, less)
                        for v in range(tile.vectors):
                            cell = r * tile.vectors + v
                            result[cell] = builders.build_fma(
                                builder, splatted, lowest[v], result[cell]
                            )
            return result

        zero = builders.constant_vector(0.0)
        totals = build_loop(builder, spans, [zero] * len(tile.cells), span)
        targets = [build_offset(builder, out, out_stride, r) for r in range(rows)]
        columns = [(targets[r], v * LANES) for r, v in tile.cells]
        write_columns(builder, totals, columns, bias, accumulate, first, end, blocks * COLUMNS)

    return block_tile


# ---- rows of x


def make_quantize_span(exact: bool) -> Any:
    """`quantize_span(x, codes, scale, sums, shorts)`: round 32 floats at x to integers at `codes`.

    Rows of 8 bits have them as int16 at `shorts`, too, where `WIDE_BYTES` says so.

    The largest magnitude becomes 127, or 32767. A NaN or an infinity makes the scale NaN, and so all that is computed with it.
    """
    most_code = 32767.0 if exact else 127.0
    registers = SPAN // LANES

    @primitive(NOTHING, *[INT] * 5)
    def quantize_span(
        builder: ir.IRBuilder, x: Any, codes: Any, scale: Any, sums: Any, shorts: Any
    ) -> None:
        suffix = builders.suffix(LANES)
        zero = builders.constant_vector(0.0)
        values: list[Any] = []
        largest, poison = zero, zero
        for index in range(registers):
            at = builder.add(x, INT64(4 * index * LANES))
            value = builders.build_load(builder, at)
            size = builders.call(builder, f"llvm.fabs.{suffix}", VECTOR, [value])
            largest = builder.select(builder.fcmp_ordered(">", size, largest), size, largest)
            # 0 or NaN: a comparison alone would lose a NaN.
            poison = builders.build_fma(builder, value, zero, poison)
            values.append(value)
        name = f"llvm.vector.reduce.fmax.{suffix}"
        most = builders.call(builder, name, FLOAT32, [largest])
        bad = builder.extract_element(builders.build_sums(builder, [poison]), INT32(0))
        unit = builder.fadd(builder.fmul(most, FLOAT32(1 / most_code)), bad)
        builder.store(unit, builders.build_pointer(builder, scale, FLOAT32), align=4)
        some = builder.fcmp_ordered(">", most, FLOAT32(0.0))
        inverse = builder.fdiv(FLOAT32(most_code), most)
        # A tiny largest magnitude has no finite inverse; its span counts as 0.
        finite = builder.fcmp_ordered("<", inverse, FLOAT32(3.0e38))
        inverse = builder.select(builder.and_(some, finite), inverse, FLOAT32(0.0))
        spread = builders.build_splat(builder, inverse)
        rounded: list[Any] = []
        for index, value in enumerate(values):
            value = builder.fmul(value, spread)
            value = builders.call(builder, f"llvm.rint.{suffix}", VECTOR, [value])
            limit = builders.constant_vector(most_code)
            value = builder.select(builder.fcmp_ordered("<", value, limit), value, limit)
            limit = builders.constant_vector(-most_code)
            value = builder.select(builder.fcmp_ordered(">", value, limit), value, limit)
            integers = builder.fptosi(value, WORDS)
            rounded.append(integers)
            if exact or WIDE_BYTES:
                ordered = build_wide_order(builder, builder.trunc(integers, _SHORT_LANES))
                at = builder.add(codes if exact else shorts, INT64(index * LANES * 2))
                pointer = builders.build_pointer(builder, at, _SHORT_LANES)
                builder.store(ordered, pointer, align=2)
            if not exact:
                at = builder.add(codes, INT64(index * LANES))
                pointer = builders.build_pointer(builder, at, _BYTE_LANES)
                builder.store(builder.trunc(integers, _BYTE_LANES), pointer, align=1)
        half = registers // 2
        for index in range(2):
            total = rounded[index * half]
            for other in rounded[index * half + 1 : (index + 1) * half]:
                total = builder.add(total, other)
            name = f"llvm.vector.reduce.add.v{LANES}i32"
            added = builders.call(builder, name, INT32, [total])
            at = builder.add(sums, INT64(4 * index))
            builder.store(added, builders.build_pointer(builder, at, INT32), align=4)

    return quantize_span


# ---- one column, as floats


def make_decode_span(form: BlockForm) -> Any:
    """`decode_span(codes, factors, supers, column, out)`: the 32 weights of a span of one column.

    `codes`, `factors` and `supers` are those of the span; `column` is one of its 16.
    """

    @primitive(NOTHING, *[INT] * 5)
    def decode_span(
        builder: ir.IRBuilder, codes: Any, factors: Any, supers: Any, column: Any, out: Any
    ) -> None:
        four = ir.VectorType(FLOAT32, 4)
        loaded: dict[int, Any] = {}

        def load(offset: int) -> Any:
            if offset not in loaded:
                at = builder.add(codes, builder.add(INT64(offset), builder.mul(column, INT64(4))))
                loaded[offset] = builder.load(builders.build_pointer(builder, at, INT32), align=4)
            return loaded[offset]

        def factor(kind: int, part: int) -> Any:
            size = form.scale_bytes
            at = builder.add(factors, INT64((kind * form.parts + part) * COLUMNS * size))
            at = builder.add(at, builder.mul(column, INT64(size)))
            stored = {"half": ir.HalfType(), "single": FLOAT32, "nested": ir.IntType(8)}[
                form.scales
            ]
            value = builder.load(builders.build_pointer(builder, at, stored), align=size)
            if form.scales == "single":
                return value
            if form.scales == "half":
                return builder.fpext(value, FLOAT32)
            extend = builder.sext if form.signed and kind == 0 else builder.zext
            whole = builder.sitofp(extend(value, INT32), FLOAT32)
            at = builder.add(supers, INT64(kind * COLUMNS * 2))
            at = builder.add(at, builder.mul(column, INT64(2)))
            above = builder.load(builders.build_pointer(builder, at, ir.HalfType()), align=2)
            return builder.fmul(whole, builder.fpext(above, FLOAT32))

        def spread(value: Any) -> Any:
            one = builder.insert_element(ir.Constant(four, ir.Undefined), value, INT32(0))
            zeros = builders.constant_vector(0, INT32, 4)
            return builder.shuffle_vector(one, ir.Constant(four, ir.Undefined), zeros)

        for part in range(form.parts):
            scale = spread(factor(0, part))
            lowest = spread(factor(1, part)) if form.minimums else None
            count = STEPS // form.parts
            for step in range(part * count, (part + 1) * count):
                word = code_words(form, step, load, builder)
                bytes_of = ir.VectorType(ir.IntType(8), 4)
                if form.levels:
                    word = _selected(builder, word, form.levels, bytes_of)
                each = builder.zext(builder.bitcast(word, bytes_of), ir.VectorType(INT32, 4))
                if form.middle:
                    middle = builders.constant_vector(form.middle, INT32, 4)
                    each = builder.sub(each, middle)
                value = builder.fmul(builder.sitofp(each, four), scale)
                if lowest is not None:
                    value = builder.fsub(value, lowest)
                at = builder.add(out, INT64(16 * step))
                builder.store(value, builders.build_pointer(builder, at, four), align=4)

    return decode_span
