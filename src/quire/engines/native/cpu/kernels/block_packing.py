"""Rows of a GGUF file's blocks in the order of `block_forms`: codes, scales and minimums, unchanged.

The types that most files consist of have a kernel each, which reads a file's blocks once. The others are
taken apart in NumPy (`quire.gguf.blocks.decode`), and `INTERLEAVE` orders their codes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, kernel, primitive
from quire.engines.native.cpu.kernels.block_forms import COLUMNS, FORMS, SPAN, SUPER_SPANS
from quire.engines.native.cpu.kernels.builders import INT32, build_pointer

_STEPS = SPAN // 4
_LOW, _ONE, _TWO = 0x0F0F0F0F, 0x01010101, 0x03030303  # of each byte
_TOP = 0x80808080
_TO_BYTES = 0x00204081  # times four bits, these are the lowest bits of four bytes


def _memory(bits: int, *, signed: bool = False) -> tuple[Any, Any]:
    """A getter and a setter of integers at any address: blocks have any size."""
    stored = ir.IntType(bits)

    @primitive(INT, INT)
    def get(builder: ir.IRBuilder, address: Any) -> Any:
        value = builder.load(build_pointer(builder, address, stored), align=1)
        return (builder.sext if signed else builder.zext)(value, INT.llvm)

    @primitive(NOTHING, INT, INT)
    def put(builder: ir.IRBuilder, address: Any, value: Any) -> None:
        builder.store(
            builder.trunc(value, stored), build_pointer(builder, address, stored), align=1
        )

    return get, put


get_byte, put_byte = _memory(8)
get_half, put_half = _memory(16)
get_word, put_word = _memory(INT32.width)


# ---- four codes of a block


@kernel
def _q4_0(block: int, span: int, step: int) -> int:
    return (get_word(block + 2 + step % 4 * 4) >> step // 4 * 4) & _LOW


@kernel
def _q4_1(block: int, span: int, step: int) -> int:
    return (get_word(block + 4 + step % 4 * 4) >> step // 4 * 4) & _LOW


@kernel
def _fifth(bits: int, step: int) -> int:
    return ((((bits >> 4 * step) & 15) * _TO_BYTES) & _ONE) << 4


@kernel
def _q5_0(block: int, span: int, step: int) -> int:
    low = (get_word(block + 6 + step % 4 * 4) >> step // 4 * 4) & _LOW
    return low | _fifth(get_word(block + 2), step)


@kernel
def _q5_1(block: int, span: int, step: int) -> int:
    low = (get_word(block + 8 + step % 4 * 4) >> step // 4 * 4) & _LOW
    return low | _fifth(get_word(block + 4), step)


@kernel
def _q8_0(block: int, span: int, step: int) -> int:
    return get_word(block + 2 + 4 * step) ^ _TOP


@kernel
def _q4_k(block: int, span: int, step: int) -> int:
    return (get_word(block + 16 + span // 2 * 32 + 4 * step) >> span % 2 * 4) & _LOW


@kernel
def _q5_k(block: int, span: int, step: int) -> int:
    low = (get_word(block + 48 + span // 2 * 32 + 4 * step) >> span % 2 * 4) & _LOW
    return low | (((get_word(block + 16 + 4 * step) >> span) & _ONE) << 4)


@kernel
def _q6_k(block: int, span: int, step: int) -> int:
    half, quarter = span // 4, span % 4
    low = get_word(block + 64 * half + quarter % 2 * 32 + 4 * step) >> quarter // 2 * 4
    high = get_word(block + 128 + 32 * half + 4 * step) >> 2 * quarter
    return (low & _LOW) | ((high & _TWO) << 4)


@kernel
def _mxfp4(block: int, span: int, step: int) -> int:
    return (get_word(block + 1 + step % 4 * 4) >> step // 4 * 4) & _LOW


# ---- codes in order


def _make_put_span(bits: int) -> Any:
    """`put_span` of codes that a kernel `word` gives."""

    def make(word: Any) -> Any:
        @kernel
        def put_span(block: int, span: int, target: int) -> None:
            """The codes of one span of one column; `target` is the column's first word."""
            first = 0
            second = 0
            if bits == 8:
                for step in range(_STEPS):
                    put_word(target + step * 4 * COLUMNS, word(block, span, step))
            else:
                for pair in range(_STEPS // 2):
                    low, high = word(block, span, 2 * pair), word(block, span, 2 * pair + 1)
                    both = (low & _LOW) | ((high & _LOW) << 4)
                    put_word(target + pair * 4 * COLUMNS, both)
                    if bits == 5:
                        first = first | (((low >> 4) & _ONE) << 2 * pair)
                        first = first | (((high >> 4) & _ONE) << (2 * pair + 1))
                    elif bits == 6 and pair < 2:
                        first = first | (((low >> 4) & _TWO) << 4 * pair)
                        first = first | (((high >> 4) & _TWO) << (4 * pair + 2))
                    elif bits == 6:
                        second = second | (((low >> 4) & _TWO) << (4 * pair - 8))
                        second = second | (((high >> 4) & _TWO) << (4 * pair - 6))
                plane = target + _STEPS // 2 * 4 * COLUMNS
                if bits > 4:
                    put_word(plane, first)
                if bits == 6:
                    put_word(plane + 4 * COLUMNS, second)

        return put_span

    return make


@kernel
def _byte_codes(block: int, span: int, step: int) -> int:
    """Of codes that have a byte each; `block` is the first of the span."""
    return get_word(block + 4 * step)


def _make_interleave(bits: int) -> Any:
    put_span = _make_put_span(bits)(_byte_codes)
    span_bytes = COLUMNS * SPAN * bits // 8

    @kernel
    def interleave(codes: int, blocks: int, depth: int, out: int) -> None:
        """codes (16 * blocks, depth), a byte each, to out (blocks, spans, bytes of a span)."""
        spans = depth // SPAN
        for block in range(blocks):
            for span in range(spans):
                target = out + span_bytes * (block * spans + span)
                source = codes + block * COLUMNS * depth + span * SPAN
                for column in range(COLUMNS):
                    put_span(source + column * depth, 0, target + 4 * column)

    return interleave


# ---- scales


@kernel
def _negated(half: int) -> int:
    return half ^ 0x8000  # the sign of a float16


@kernel
def _power_of_two(exponent: int) -> int:
    """The float32 of MXFP4's scale, 2 ** (exponent - 128), as its bits; the least two are subnormal."""
    return (exponent - 1) << 23 if exponent > 1 else 1 << (21 + exponent)


@kernel
def _put_k_scales(block: int, span: int, target: int) -> None:
    """The scale and the minimum of a span of Q4_K or Q5_K, of six bits each."""
    scales = block + 4
    if span < 4:
        put_byte(target, get_byte(scales + span) & 63)
        put_byte(target + COLUMNS, get_byte(scales + span + 4) & 63)
    else:
        both = get_byte(scales + span + 4)
        put_byte(target, (both & 15) | (get_byte(scales + span - 4) >> 6 << 4))
        put_byte(target + COLUMNS, (both >> 4) | (get_byte(scales + span) >> 6 << 4))


def _make_pack(form_name: str, word: Any, block_bytes: int, super_at: int = -1) -> Any:
    """A kernel that packs rows of one type.

    `super_at` is where a block of 256 has its float16; -1 for blocks of 32, which begin with theirs.
    """
    form = FORMS[form_name]
    put_span = _make_put_span(form.bits)(word)
    span_bytes, minimums = form.span_bytes, form.minimums
    factor_bytes, super_bytes = form.factor_bytes, form.super_bytes
    block_spans = 1 if super_at < 0 else SUPER_SPANS
    is_q6, is_single = form_name == "q6_k", form.scales == "single"

    @kernel
    def pack(
        rows: int, row_bytes: int, columns: int, spans: int, codes: int, factors: int, supers: int
    ) -> None:
        """`columns` rows of the file; codes, factors and supers are those of the first block."""
        above = (spans + SUPER_SPANS - 1) // SUPER_SPANS
        for column in range(columns):
            block, lane = column // COLUMNS, column % COLUMNS
            for span in range(spans):
                source = rows + column * row_bytes + span // block_spans * block_bytes
                place = block * spans + span
                put_span(source, span % block_spans, codes + place * span_bytes + 4 * lane)
                target = factors + place * factor_bytes
                if is_single:
                    put_word(target + 4 * lane, _power_of_two(get_byte(source)))
                elif super_at < 0:
                    put_half(target + 2 * lane, get_half(source))
                    if minimums:
                        lowest = _negated(get_half(source + 2))
                        put_half(target + 2 * (COLUMNS + lane), lowest)
                elif is_q6:
                    scales = source + 192 + 2 * (span % block_spans)
                    put_byte(target + lane, get_byte(scales))
                    put_byte(target + COLUMNS + lane, get_byte(scales + 1))
                else:
                    _put_k_scales(source, span % block_spans, target + lane)
                if super_at >= 0 and span % block_spans == 0:
                    wide = supers + (block * above + span // block_spans) * super_bytes
                    put_half(wide + 2 * lane, get_half(source + super_at))
                    if minimums:
                        put_half(wide + 2 * (COLUMNS + lane), get_half(source + super_at + 2))

    return pack


INTERLEAVE = {f"bits{bits}": _make_interleave(bits) for bits in (4, 5, 6, 8)}
PACK = {
    "q4_0": _make_pack("q4_0", _q4_0, 18),
    "q4_1": _make_pack("q4_1", _q4_1, 20),
    "q5_0": _make_pack("q5_0", _q5_0, 22),
    "q5_1": _make_pack("q5_1", _q5_1, 24),
    "q8_0": _make_pack("q8_0", _q8_0, 34),
    "q4_k": _make_pack("q4_k", _q4_k, 144, 0),
    "q5_k": _make_pack("q5_k", _q5_k, 176, 0),
    "q6_k": _make_pack("q6_k", _q6_k, 210, 208),
    "mxfp4": _make_pack("mxfp4", _mxfp4, 17),
}
