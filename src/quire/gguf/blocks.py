"""The blocks of GGUF's tensor types, as integers with scales, or as float32.

A row of a tensor is whole blocks; a block has scales of its own and the packed codes of 32 or 256
weights. `decode` gives the codes as one byte each, with float32 scales by groups of 16 or 32 weights,
and `dequantize` gives the weights themselves: the same bits as ggml's `dequantize_row_*`.

Both work on pieces that stay in the cache, and need no more memory than their result. Codes are taken
apart eight bytes at a time, and moved in runs of 16 bytes or more: NumPy is slow on short rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.errors import UnsupportedModelError, WeightsError
from quire.gguf import codebooks
from quire.gguf.codebooks import every_byte
from quire.gguf.tensor_types import type_named
from quire.weights.safetensors import widen

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_PIECE = 1 << 18  # weights of one pass, so that its temporaries stay in the cache
_PLAIN = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}
"""Types without blocks."""
_NOT_READ = {
    "TQ1_0": "ternary weights",
    "TQ2_0": "ternary weights",
    "NVFP4": "4-bit floats whose scales are floats of 8 bits",
    "Q1_0": "weights of 1 bit",
    "Q2_0": "weights of 2 bits in blocks of 64",
}


@dataclass(frozen=True, slots=True)
class Integers:
    """Rows of a weight: `w = scales * (codes - zero) - minimums`, by groups along the row.

    Computed in float32 in this order, this is what ggml computes, bit for bit.
    """

    bits: int
    """How many a code needs: 2, 3, 4, 5, 6 or 8."""
    group: int
    """Weights that share a scale: 16 or 32."""
    codes: Bytes
    """(rows, depth)"""
    zero: int
    """Subtracted from every code; 0 where there are minimums."""
    scales: Floats
    """(rows, depth // group): the exact products of a block's scale and the group's."""
    minimums: Floats | None
    """(rows, depth // group); None for types that are symmetric."""

    def dequantized(self) -> Floats:
        """(rows, depth)"""
        codes = self.codes.reshape(-1, self.group)
        scales = self.scales.reshape(-1)
        minimums = None if self.minimums is None else self.minimums.reshape(-1)
        weights = np.empty(codes.shape, np.float32)
        for at in _pieces(len(codes), self.group):
            lowest = None if minimums is None else minimums[at]
            _write_weights(codes[at], self.zero, scales[at], lowest, weights[at])
        return weights.reshape(self.codes.shape)


def check_type(kind: str, tensor: str) -> None:
    """Refuse a type that is not read.

    Raises:
        UnsupportedModelError: it is one of these; the text names `tensor`.
    """
    if kind in _PLAIN or kind in _FORMS:
        return
    what = f"{kind}, {_NOT_READ[kind]}" if kind in _NOT_READ else f"of the unknown type {kind}"
    raise UnsupportedModelError(
        f"{tensor} is {what}: quire does not read this type. Take a file of another, such as Q4_K_M "
        "or Q8_0"
    )


def is_block_type(kind: str) -> bool:
    """Whether `decode` reads the type."""
    return kind in _FORMS


def decode(kind: str, data: Bytes) -> Integers:
    """The integers of a tensor of a type with blocks: `data` is (rows, bytes of a row), contiguous.

    Raises:
        UnsupportedModelError: the type is not read.
    """
    check_type(kind, "A tensor")
    assert is_block_type(kind), kind
    form, blocks = _FORMS[kind], _blocks(kind, data)
    count, length = len(blocks), type_named(kind).weights
    codes = np.empty((count, length), np.uint8)
    scales = np.empty((count, length // form.group), np.float32)
    minimums = np.empty_like(scales) if form.has_minimums else None
    for at in _pieces(count, length):
        codes[at], scales[at], lowest = _decode(form, blocks[at])
        if minimums is not None:
            minimums[at] = lowest
    rows = len(data)
    return Integers(
        form.bits,
        form.group,
        codes.reshape(rows, -1),
        form.zero,
        scales.reshape(rows, -1),
        None if minimums is None else minimums.reshape(rows, -1),
    )


def dequantize(kind: str, data: Bytes) -> Floats:
    """The weights of any type that is read: `data` is (rows, bytes of a row), contiguous.

    Raises:
        UnsupportedModelError: the type is not read.
    """
    check_type(kind, "A tensor")
    blocks, length = _blocks(kind, data), type_named(kind).weights
    weights = np.empty((len(blocks), length), np.float32)
    for at in _pieces(len(blocks), length):
        if kind in _PLAIN:
            with np.errstate(over="ignore"):
                weights[at] = _plain(kind, blocks[at])
            continue
        form = _FORMS[kind]
        codes, scales, minimums = _decode(form, blocks[at])
        _write_weights(codes, form.zero, scales, minimums, weights[at])
    return weights.reshape(len(data), -1)


def check_finite(kind: str, data: Bytes, tensor: str) -> None:
    """Refuse scales that are NaN or infinite; of types without blocks, weights.

    Of blocks, only the scales are read. `data` is (rows, bytes of a row), contiguous.

    Raises:
        WeightsError: there is one; the text names `tensor` and where it is.
        UnsupportedModelError: the type is not read.
    """
    check_type(kind, tensor)
    blocks, size = _blocks(kind, data), type_named(kind)
    for at in _pieces(len(blocks), size.weights):
        finite = _are_finite(kind, blocks[at])
        if finite.all():
            continue
        what = "scale" if kind in _FORMS else "weight"
        row, column = divmod(at.start + int(finite.argmin()), data.shape[1] // size.bytes)
        raise WeightsError(
            f"{tensor} ({kind}) has a {what} that is NaN or infinite, in row {row} "
            f"at weight {column * size.weights}: every answer would be nonsense. The file "
            "is damaged, or was made of a damaged model: download it again, or take another"
        )


# ---- pieces


def _blocks(kind: str, data: Bytes) -> Bytes:
    """(blocks, bytes of a block)"""
    return np.ascontiguousarray(data).reshape(-1, type_named(kind).bytes)


def _pieces(count: int, weights: int) -> Iterator[slice]:
    """Slices of so many blocks, of which each has so many weights."""
    step = _PIECE // weights
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _plain(kind: str, weights: Bytes) -> NDArray[Any]:
    """(weights, 1), from the bytes of each."""
    values: NDArray[Any] = weights.view(_PLAIN[kind])
    return widen(values) if kind == "BF16" else values


def _decode(form: _Form, blocks: Bytes) -> _Decoded:
    with np.errstate(invalid="ignore"):  # `check_finite` says it better
        return form.decode(blocks, *form.stored(blocks))


def _write_weights(
    codes: Bytes, zero: int, scales: Floats, minimums: Floats | None, weights: Floats
) -> None:
    """Fill `weights`. All are contiguous and in order; their shapes do not matter."""
    groups = weights.reshape(scales.size, -1)
    with np.errstate(over="ignore", invalid="ignore"):
        np.subtract(codes.reshape(groups.shape), np.float32(zero), out=groups)
        groups *= scales.reshape(-1, 1)
        if minimums is not None:
            groups -= minimums.reshape(-1, 1)


def _are_finite(kind: str, blocks: Bytes) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        if kind in _PLAIN:
            return np.isfinite(_plain(kind, blocks)[:, 0].astype(np.float32))
        # A finite scale of MXFP4 may have infinite weights. A float16 times its largest value has none.
        most = np.float32(max(codebooks.VALUES["MXFP4"]))
        finite = [np.isfinite(scales[:, 0] * most) for scales in _FORMS[kind].stored(blocks)]
        return np.logical_and.reduce(finite)


# ---- parts of blocks


def _part(blocks: Bytes, start: int, size: int) -> Bytes:
    """A copy of some bytes of each block, aligned and without gaps."""
    runs = blocks[:, start : start + size].view(f"V{size}")  # one thing to NumPy, so it copies fast
    return runs.copy().view(np.uint8)


def _numbers(blocks: Bytes, start: int, count: int, bits: int) -> NDArray[Any]:
    """(blocks, count): unsigned integers of 16 or 32 bits."""
    size = bits // 8
    return _part(blocks, start, count * size).view(f"<u{size}")


def _planes(packed: Bytes, bits: int, run: int) -> Bytes:
    """Codes of 1, 2 or 4 bits: a run of bytes has the lowest bits first, then the next ones.

    So the code of weight `i` of a run is in byte `i % run`.
    """
    words, mask = packed.view(np.uint64), every_byte((1 << bits) - 1)
    codes = np.empty((packed.size // run, 8 // bits), f"V{run}")
    for plane in range(8 // bits):
        shifted = words >> np.uint64(plane * bits)
        shifted &= mask
        codes[:, plane] = shifted.reshape(-1).view(codes.dtype)
    return codes.view(np.uint8).reshape(len(packed), -1)


def _neighbours(packed: Bytes, bits: int) -> Bytes:
    """Codes of 2 or 4 bits: those of one byte belong to weights beside each other."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return codes.reshape(len(packed), -1)


def _single_bits(packed: Bytes) -> Bytes:
    """The bits of bytes that lie in the order of the weights."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _joined(low: Bytes, high: Bytes, bits: int) -> Bytes:
    """`low`, which has so many bits, with `high` above them. Changes both."""
    words, above = low.view(np.uint64), high.view(np.uint64)
    above <<= np.uint64(bits)  # none crosses into the next byte
    words |= above
    return low


# ---- stored scales


def _halves(*offsets: int) -> Callable[[Bytes], tuple[Floats, ...]]:
    """Reads the float16 that lie at these bytes of a block, as (blocks, 1) each."""

    def read(blocks: Bytes) -> tuple[Floats, ...]:
        return tuple(blocks[:, at : at + 2].view("<f2").astype(np.float32) for at in offsets)

    return read


def _split_half(blocks: Bytes) -> tuple[Floats]:
    """IQ1_M's: four bits of it in the upper bits of each of the last four 16-bit words."""
    words = _numbers(blocks, 48, 4, 16) >> 12
    half = words << np.arange(0, 16, 4, dtype=np.uint16)
    return (np.bitwise_or.reduce(half, axis=1, keepdims=True).view("<f2").astype(np.float32),)


def _exponent(blocks: Bytes) -> tuple[Floats]:
    """MXFP4's: a power of two, halved as the values are doubled.

    255, which is NaN in its specification, is 2**127 in ggml, and so too large like 253 and 254.
    """
    return (np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128),)


# ---- types of 32 weights

_Decoded: TypeAlias = tuple[Bytes, Floats, Floats | None]
"""The codes (blocks, weights), and the scales and minimums (blocks, groups)."""


def _q4_0(blocks: Bytes, scale: Floats) -> _Decoded:
    return _planes(_part(blocks, 2, 16), 4, 16), scale, None


def _q4_1(blocks: Bytes, scale: Floats, minimum: Floats) -> _Decoded:
    return _planes(_part(blocks, 4, 16), 4, 16), scale, -minimum


def _q5_0(blocks: Bytes, scale: Floats) -> _Decoded:
    low, high = _planes(_part(blocks, 6, 16), 4, 16), _single_bits(_part(blocks, 2, 4))
    return _joined(low, high, 4), scale, None


def _q5_1(blocks: Bytes, scale: Floats, minimum: Floats) -> _Decoded:
    low, high = _planes(_part(blocks, 8, 16), 4, 16), _single_bits(_part(blocks, 4, 4))
    return _joined(low, high, 4), scale, -minimum


def _q8_0(blocks: Bytes, scale: Floats) -> _Decoded:
    codes = _part(blocks, 2, 32)
    codes ^= np.uint8(0x80)  # signed, so this adds 128
    return codes, scale, None


# ---- K types, of 256 weights


def _q2_k(blocks: Bytes, scale: Floats, minimum: Floats) -> _Decoded:
    packed = _part(blocks, 0, 16)
    codes = _planes(_part(blocks, 16, 64), 2, 32)
    return codes, scale * (packed & np.uint8(15)), minimum * (packed >> np.uint8(4))


def _q3_k(blocks: Bytes, scale: Floats) -> _Decoded:
    codes = _joined(_planes(_part(blocks, 32, 64), 2, 32), _planes(_part(blocks, 0, 32), 1, 32), 2)
    low, high = _planes(_part(blocks, 96, 8), 4, 8), _part(blocks, 104, 4)
    factors = _joined(low, _planes_of_4(high), 4)
    return codes, scale * (factors.astype(np.float32) - 32), None


def _planes_of_4(packed: Bytes) -> Bytes:
    """(blocks, 16): `_planes` of 2 bits and runs of 4 bytes, which are less than a word of its."""
    shifts = np.arange(0, 8, 2, dtype=np.uint32)
    words = (packed.view("<u4") >> shifts) & np.uint32(0x0303_0303)
    return words.view(np.uint8)


def _six_bits(blocks: Bytes) -> tuple[Bytes, Bytes]:
    """The 8 factors of scales, and those of minimums, of Q4_K and Q5_K.

    Twelve bytes: four have factors of the first four scales, four of the first four minimums; both
    lend their upper two bits to the last four of each, whose lower four bits are in the last bytes.
    """
    scales, minimums, last = _numbers(blocks, 4, 3, 32).T
    found = np.empty((2, len(blocks), 2), np.uint32)
    found[0, :, 0] = scales & 0x3F3F_3F3F
    found[1, :, 0] = minimums & 0x3F3F_3F3F
    found[0, :, 1] = (last & 0x0F0F_0F0F) | ((scales >> 2) & 0x3030_3030)
    found[1, :, 1] = ((last >> 4) & 0x0F0F_0F0F) | ((minimums >> 2) & 0x3030_3030)
    factors = found.view(np.uint8)
    return factors[0], factors[1]


def _q4_k(blocks: Bytes, scale: Floats, minimum: Floats) -> _Decoded:
    scales, minimums = _six_bits(blocks)
    return _planes(_part(blocks, 16, 128), 4, 32), scale * scales, minimum * minimums


def _q5_k(blocks: Bytes, scale: Floats, minimum: Floats) -> _Decoded:
    scales, minimums = _six_bits(blocks)
    low, high = _planes(_part(blocks, 48, 128), 4, 32), _planes(_part(blocks, 16, 32), 1, 32)
    return _joined(low, high, 4), scale * scales, minimum * minimums


def _q6_k(blocks: Bytes, scale: Floats) -> _Decoded:
    low, high = _planes(_part(blocks, 0, 128), 4, 64), _planes(_part(blocks, 128, 64), 2, 32)
    return _joined(low, high, 4), scale * blocks[:, 192:208].view(np.int8), None


# ---- types with codebooks


def _looked_up(packed: Bytes, values: str) -> Bytes:
    """The values of codes of 4 bits that lie in runs of 16 bytes."""
    return codebooks.looked_up(_planes(packed, 4, 16), values)


def _iq4_nl(blocks: Bytes, scale: Floats) -> _Decoded:
    return _looked_up(_part(blocks, 2, 16), "IQ4"), scale, None


def _iq4_xs(blocks: Bytes, scale: Floats) -> _Decoded:
    high = (_numbers(blocks, 2, 1, 16) >> np.arange(0, 16, 2, dtype=np.uint16)) & np.uint16(3)
    factors = _neighbours(_part(blocks, 4, 4), 4) | (high.astype(np.uint8) << np.uint8(4))
    codes = _looked_up(_part(blocks, 8, 128), "IQ4")
    return codes, scale * (factors.astype(np.float32) - 32), None


def _mxfp4(blocks: Bytes, scale: Floats) -> _Decoded:
    return _looked_up(_part(blocks, 1, 16), "MXFP4"), scale, None


def _odd(scale: Floats, factors: NDArray[Any], step: float = 1) -> Floats:
    """`scale` by odd numbers of steps: the factors are these numbers without their lowest bit."""
    odd = 2 * factors.astype(np.float32) + 1
    return scale * odd * np.float32(step)


def _iq2_xxs(blocks: Bytes, scale: Floats) -> _Decoded:
    words = _numbers(blocks, 2, 16, 32)
    packed = np.ascontiguousarray(words[:, 1::2])
    indices = np.ascontiguousarray(words[:, ::2]).view(np.uint8)
    codes = codebooks.signed(codebooks.grid("IQ2_XXS").take(indices), codebooks.even_signs(packed))
    return codes, _odd(scale, packed >> 28, 1 / 8), None


def _iq2_xs(blocks: Bytes, scale: Floats) -> _Decoded:
    words = _numbers(blocks, 2, 32, 16)
    points = codebooks.grid("IQ2_XS").take(words & 511)
    codes = codebooks.signed(points, codebooks.even_masks().take(words >> 9))
    return codes, _odd(scale, _neighbours(_part(blocks, 66, 8), 4), 1 / 8), None


def _iq2_s(blocks: Bytes, scale: Floats) -> _Decoded:
    high = _neighbours(_part(blocks, 66, 8), 2).astype(np.uint16) << np.uint16(8)
    points = codebooks.grid("IQ2_S").take(_part(blocks, 2, 32) | high)
    codes = codebooks.signed(points, codebooks.masks().take(_part(blocks, 34, 32)))
    return codes, _odd(scale, _neighbours(_part(blocks, 74, 8), 4), 1 / 8), None


def _iq3_xxs(blocks: Bytes, scale: Floats) -> _Decoded:
    packed = _numbers(blocks, 66, 8, 32)
    points = codebooks.grid("IQ3_XXS").take(_part(blocks, 2, 64))
    return (
        codebooks.signed(points, codebooks.even_signs(packed)),
        _odd(scale, packed >> 28, 1 / 4),
        None,
    )


def _iq3_s(blocks: Bytes, scale: Floats) -> _Decoded:
    high = _single_bits(_part(blocks, 66, 8)).astype(np.uint16) << np.uint16(8)
    points = codebooks.grid("IQ3_S").take(_part(blocks, 2, 64) | high)
    codes = codebooks.signed(points, codebooks.masks().take(_part(blocks, 74, 32)))
    factors = _neighbours(_part(blocks, 106, 4), 4)
    return codes, _odd(scale, factors), None


def _iq1_s(blocks: Bytes, scale: Floats) -> _Decoded:
    words = _numbers(blocks, 34, 8, 16)
    high = (words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)) & np.uint16(7)
    indices = _part(blocks, 2, 32) | (high.reshape(len(blocks), 32) << np.uint16(8))
    down = np.repeat(words >> 15, 4, axis=1)
    codes = codebooks.shifted(codebooks.grid("IQ1_S").take(indices), down)
    return codes, _odd(scale, (words >> 12) & 7, 1 / 8), None


def _iq1_m(blocks: Bytes, scale: Floats) -> _Decoded:
    high = _neighbours(_part(blocks, 32, 16), 4)
    indices = _part(blocks, 0, 32) | ((high & np.uint8(7)).astype(np.uint16) << np.uint16(8))
    codes = codebooks.shifted(codebooks.grid("IQ1_S").take(indices), high >> np.uint8(3))
    words = _numbers(blocks, 48, 4, 16)[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16)
    return codes, _odd(scale, (words & np.uint16(7)).reshape(len(blocks), 16), 1 / 8), None


# ---- the table


class _Form(NamedTuple):
    """How the blocks of a type are decoded."""

    bits: int
    group: int
    zero: int
    stored: Callable[[Bytes], tuple[Floats, ...]]
    """Reads the floats of a block, (blocks, 1) each."""
    decode: Callable[..., _Decoded]
    """Given the blocks and their floats."""

    @property
    def has_minimums(self) -> bool:
        return not self.zero


_FORMS = {
    "Q4_0": _Form(4, 32, 8, _halves(0), _q4_0),
    "Q4_1": _Form(4, 32, 0, _halves(0, 2), _q4_1),
    "Q5_0": _Form(5, 32, 16, _halves(0), _q5_0),
    "Q5_1": _Form(5, 32, 0, _halves(0, 2), _q5_1),
    "Q8_0": _Form(8, 32, 128, _halves(0), _q8_0),
    "Q2_K": _Form(2, 16, 0, _halves(80, 82), _q2_k),
    "Q3_K": _Form(3, 16, 4, _halves(108), _q3_k),
    "Q4_K": _Form(4, 32, 0, _halves(0, 2), _q4_k),
    "Q5_K": _Form(5, 32, 0, _halves(0, 2), _q5_k),
    "Q6_K": _Form(6, 16, 32, _halves(208), _q6_k),
    "IQ4_NL": _Form(8, 32, codebooks.ZERO, _halves(0), _iq4_nl),
    "IQ4_XS": _Form(8, 32, codebooks.ZERO, _halves(0), _iq4_xs),
    "MXFP4": _Form(8, 32, codebooks.ZERO, _exponent, _mxfp4),
    "IQ2_XXS": _Form(8, 32, codebooks.ZERO, _halves(0), _iq2_xxs),
    "IQ2_XS": _Form(8, 16, codebooks.ZERO, _halves(0), _iq2_xs),
    "IQ2_S": _Form(8, 16, codebooks.ZERO, _halves(0), _iq2_s),
    "IQ3_XXS": _Form(8, 32, codebooks.ZERO, _halves(0), _iq3_xxs),
    "IQ3_S": _Form(8, 32, codebooks.ZERO, _halves(0), _iq3_s),
    "IQ1_S": _Form(8, 32, codebooks.ZERO, _halves(0), _iq1_s),
    "IQ1_M": _Form(8, 16, codebooks.ZERO, _split_half, _iq1_m),
}
