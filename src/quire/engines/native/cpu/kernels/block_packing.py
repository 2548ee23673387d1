"""Codes of GGUF's blocks, one byte each, in the order of `block_forms`.

A kernel each for the four numbers of bits: they move four neighbouring depths of a column at a time.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.block_forms import COLUMNS, SPAN
from quire.engines.native.cpu.kernels.simd import get_int32, put_int32

_STEPS = SPAN // 4
_LOW, _ONE, _TWO = 0x0F0F0F0F, 0x01010101, 0x03030303  # of each byte


def _make_interleave(bits: int) -> Any:
    span_words = COLUMNS * SPAN * bits // 32

    @kernel
    def interleave(codes: int, blocks: int, depth: int, out: int) -> None:
        """codes (16 * blocks, depth) to out (blocks, spans, words of a span)."""
        spans = depth // SPAN
        for block in range(blocks):
            for span in range(spans):
                target = out + 4 * span_words * (block * spans + span)
                source = codes + block * COLUMNS * depth + span * SPAN
                for column in range(COLUMNS):
                    row = source + column * depth
                    if bits == 8:
                        for step in range(_STEPS):
                            put_int32(target, step * COLUMNS + column, get_int32(row, step))
                    else:
                        first = 0
                        second = 0
                        for pair in range(_STEPS // 2):
                            low, high = get_int32(row, 2 * pair), get_int32(row, 2 * pair + 1)
                            both = (low & _LOW) | ((high & _LOW) << 4)
                            put_int32(target, pair * COLUMNS + column, both)
                            if bits == 5:
                                place = 2 * pair
                                first = first | (((low >> 4) & _ONE) << place)
                                first = first | (((high >> 4) & _ONE) << (place + 1))
                            elif bits == 6 and pair < 2:
                                place = 4 * pair
                                first = first | (((low >> 4) & _TWO) << place)
                                first = first | (((high >> 4) & _TWO) << (place + 2))
                            elif bits == 6:
                                place = 4 * pair - 8
                                second = second | (((low >> 4) & _TWO) << place)
                                second = second | (((high >> 4) & _TWO) << (place + 2))
                        plane = _STEPS // 2 * COLUMNS + column
                        if bits > 4:
                            put_int32(target, plane, first)
                        if bits == 6:
                            put_int32(target, plane + COLUMNS, second)

    return interleave


INTERLEAVE = {f"bits{bits}": _make_interleave(bits) for bits in (4, 5, 6, 8)}
