"""Rounding float32 to the types of a GGUF file.

`encode` is what `blocks.dequantize` undoes. The types with blocks of 32 weights give the same bits as
ggml. Those with blocks of 256 leave a choice of scales to whoever writes them: here a few scales are
tried for each group of weights, and for each the best fit by least squares is known in closed form.

A piece of weights is turned on its side first, (weights of a group, groups): numbers that belong to
a group are then rows, which NumPy multiplies and sums quickly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.gguf.tensor_types import type_named
from quire.weights.safetensors import round_to_bfloat16

Bytes: TypeAlias = NDArray[np.uint8]
Floats: TypeAlias = NDArray[np.float32]

_PIECE = 1 << 16  # weights of one pass, so that its temporaries stay in the cache


def encode(kind: str, values: Floats, threads: int | None = None) -> Bytes:
    """The bytes of weights in another type.

    Args:
        kind: the type, one of `KINDS`.
        values: (rows, depth), finite; the depth is whole blocks.
        threads: how many work at once; None for all cores.

    Returns:
        (rows, bytes of a row)
    """
    size = type_named(kind)
    rows, depth = values.shape
    blocks = np.ascontiguousarray(values).reshape(-1, size.weights)
    result = np.empty((len(blocks), size.bytes), np.uint8)
    step = _PIECE // size.weights

    def work(start: int) -> None:
        result[start : start + step] = _ENCODERS[kind](blocks[start : start + step])

    starts = range(0, len(blocks), step)
    workers = min(threads or os.cpu_count() or 1, len(starts))
    if workers <= 1:
        for start in starts:
            work(start)
    else:
        with ThreadPoolExecutor(workers) as pool:
            for _ in pool.map(work, starts):
                pass
    return result.reshape(rows, depth // size.weights * size.bytes)


# ---- types without blocks


def _f32(blocks: Floats) -> Bytes:
    return blocks.astype("<f4", copy=False).view(np.uint8)


def _f16(blocks: Floats) -> Bytes:
    with np.errstate(over="ignore"):  # whoever asks for it checks the result
        return blocks.astype("<f2").view(np.uint8)


def _bf16(blocks: Floats) -> Bytes:
    return round_to_bfloat16(blocks).view(np.uint8)


# ---- blocks of 32 weights


def _q8_0(blocks: Floats) -> Bytes:
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    size = np.abs(scaled)
    codes = np.rint(size)
    codes += size - codes == 0.5  # ties away from zero
    signed = np.copysign(codes, scaled).astype(np.int8)
    return np.concatenate((_half(scale), signed.view(np.uint8)), axis=1)


def _symmetric(bits: int) -> Callable[[Floats], Bytes]:
    """Q4_0 and Q5_0: the weight of the largest size is the lowest code."""
    middle = 1 << (bits - 1)

    def encoded(blocks: Floats) -> Bytes:
        largest = np.abs(blocks).argmax(axis=1)[:, None]
        scale = np.take_along_axis(blocks, largest, axis=1) / np.float32(-middle)
        codes = _truncated(blocks * _inverse(scale) + np.float32(middle + 0.5), bits)
        return np.concatenate((_half(scale), *_packed_32(codes, bits)), axis=1)

    return encoded


def _with_minimum(bits: int) -> Callable[[Floats], Bytes]:
    """Q4_1 and Q5_1: codes are steps from the least weight to the greatest."""
    most = np.float32((1 << bits) - 1)

    def encoded(blocks: Floats) -> Bytes:
        least = blocks.min(axis=1, keepdims=True)
        scale = (blocks.max(axis=1, keepdims=True) - least) / most
        codes = _truncated((blocks - least) * _inverse(scale) + np.float32(0.5), bits)
        return np.concatenate((_half(scale), _half(least), *_packed_32(codes, bits)), axis=1)

    return encoded


def _inverse(scale: Floats) -> Floats:
    with np.errstate(divide="ignore", over="ignore"):
        return np.where(scale == 0, np.float32(0), 1 / scale)


def _half(values: NDArray[np.floating[Any]]) -> Bytes:
    with np.errstate(over="ignore"):  # whoever asks for it checks the result
        return values.astype("<f2").view(np.uint8)


def _truncated(values: Floats, bits: int) -> Bytes:
    return np.minimum(values.astype(np.uint8), np.uint8((1 << bits) - 1))


def _packed_32(codes: Bytes, bits: int) -> tuple[Bytes, ...]:
    """The fifth bits, if there are such, and the lower four of weights i and i + 16 in one byte."""
    low = codes & np.uint8(15)
    packed = low[:, :16] | (low[:, 16:] << np.uint8(4))
    if bits == 4:
        return (packed,)
    return np.packbits(codes >> np.uint8(4), axis=1, bitorder="little"), packed


# ---- blocks of 256 weights

_TRIED_WITH_MINIMUM: Final = {
    4: (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9),
    5: (-0.4, -0.1, 0.2, 0.5, 0.8),
}
"""By the bits of a code: scales that are tried map the widest weight to the largest code and so much."""
_TRIED_SYMMETRIC: Final = (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)


def _with_minimums(bits: int) -> Callable[[Floats], Bytes]:
    """Q4_K and Q5_K: 8 groups of 32 weights, each with a scale and a minimum of 6 bits."""

    def encoded(blocks: Floats) -> Bytes:
        turned = np.ascontiguousarray(blocks.reshape(-1, 32).T)
        scales, minimums = _fit_with_minimum(turned, bits)
        scale, scale_codes = _six_bits(scales)
        minimum, minimum_codes = _six_bits(minimums)
        exact = (scale * scale_codes).reshape(-1)
        below = (minimum * minimum_codes).reshape(-1)
        scaled = (turned + below) * _inverse(exact)
        codes = np.clip(np.rint(scaled), 0, (1 << bits) - 1).astype(np.uint8)
        groups = np.ascontiguousarray(codes.T).reshape(-1, 8, 32)
        parts = [_half(scale), _half(minimum), _packed_six_bits(scale_codes, minimum_codes)]
        if bits == 5:
            shifts = np.arange(8, dtype=np.uint8)[:, None]
            parts.append(np.bitwise_or.reduce((groups >> np.uint8(4)) << shifts, axis=1))
        low = groups & np.uint8(15)
        packed = low[:, ::2] | (low[:, 1::2] << np.uint8(4))
        return np.concatenate((*parts, packed.reshape(-1, 128)), axis=1)

    return encoded


def _fit_with_minimum(weights: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scales and minimums of groups (32, groups), by which `scale * code - minimum` fits best.

    Large weights count for more. The minimum is never below 0, as it is stored without a sign.
    """
    most = np.float32((1 << bits) - 1)
    importance = np.abs(weights)
    importance += np.sqrt(_sums(weights, weights) / 32)
    weighted = importance * weights
    total, total_x = importance.sum(axis=0), weighted.sum(axis=0)
    least = np.minimum(weights.min(axis=0), 0)
    span = weights.max(axis=0) - least
    steps = _inverse(span)
    above = weights - least
    scales, lows = np.zeros_like(span), least  # right where all weights are the same
    best = lows * (lows * total - 2 * total_x)
    codes, product = np.empty_like(weights), np.empty_like(weights)
    for more in _TRIED_WITH_MINIMUM[bits]:
        np.multiply(above, (most + np.float32(more)) * steps, out=codes)
        np.rint(codes, out=codes)
        np.minimum(codes, most, out=codes)
        np.multiply(importance, codes, out=product)
        first, second = product.sum(axis=0), _sums(product, codes)
        with_x = _sums(weighted, codes)
        scale, low = _least_squares(total, total_x, first, second, with_x)
        # The weighted sum of squared errors, without the part that is the same for all.
        error = scale * (scale * second + 2 * low * first - 2 * with_x)
        error += low * (low * total - 2 * total_x)
        better = error < best
        best = np.where(better, error, best)
        scales, lows = np.where(better, scale, scales), np.where(better, low, lows)
    return scales, -lows


def _least_squares(
    total: Floats, total_x: Floats, first: Floats, second: Floats, with_x: Floats
) -> tuple[Floats, Floats]:
    """Scale and lowest value (0 at most) that fit best, from weighted sums over each group.

    Those are the sums of 1, of weights x, of codes, of squared codes, and of x by codes.
    """
    determinant: Floats = (total * second - first * first).astype(np.float32, copy=False)
    solvable = determinant > 0
    inverse = np.where(solvable, _inverse(determinant), np.float32(0))
    scale = (total * with_x - total_x * first) * inverse
    low = (second * total_x - first * with_x) * inverse
    alone = ~solvable | (low > 0)  # the minimum cannot be used
    scale = np.where(alone, with_x * _inverse(second), scale)
    low = np.where(alone, np.float32(0), low)
    return np.maximum(scale, 0), low


def _sums(left: Floats, right: Floats) -> Floats:
    """The sums of products over each group."""
    return np.einsum("ij,ij->j", left, right)


def _six_bits(values: Floats) -> tuple[Floats, Bytes]:
    """A float16 (blocks, 1), and the codes (blocks, 8) by which it makes the values of 8 groups."""
    by_block = values.reshape(-1, 8)
    largest = by_block.max(axis=1, keepdims=True)
    codes = np.rint(by_block * (63 * _inverse(largest))).clip(0, 63).astype(np.uint8)
    with np.errstate(over="ignore"):  # whoever asks for it checks the result
        scale = (largest / np.float32(63)).astype(np.float16).astype(np.float32)
    return scale, codes


def _packed_six_bits(scales: Bytes, minimums: Bytes) -> Bytes:
    """Twelve bytes, as `blocks` reads them."""
    four, two, six = np.uint8(4), np.uint8(15), np.uint8(6)
    first = scales[:, :4] | (scales[:, 4:] >> four << six)
    second = minimums[:, :4] | (minimums[:, 4:] >> four << six)
    last = (scales[:, 4:] & two) | ((minimums[:, 4:] & two) << four)
    return np.concatenate((first, second, last), axis=1)


def _q6_k(blocks: Floats) -> Bytes:
    """16 groups of 16 weights, each with a scale of 8 bits."""
    turned = np.ascontiguousarray(blocks.reshape(-1, 16).T)
    by_block = _fit_symmetric(turned).reshape(-1, 16)
    largest = np.take_along_axis(by_block, np.abs(by_block).argmax(axis=1)[:, None], axis=1)
    with np.errstate(over="ignore"):  # whoever asks for it checks the result
        scale = (largest / np.float32(-128)).astype(np.float16).astype(np.float32)
    factors = np.rint(by_block * (-128 * _inverse(largest))).clip(-128, 127).astype(np.int8)
    scaled = turned * _inverse((scale * factors.astype(np.float32)).reshape(-1))
    codes = (np.clip(np.rint(scaled), -32, 31) + 32).astype(np.uint8)
    rows = np.ascontiguousarray(codes.T).reshape(-1, 2, 4, 32)
    low = rows & np.uint8(15)
    packed = low[:, :, :2] | (low[:, :, 2:] << np.uint8(4))
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce((rows >> np.uint8(4)) << shifts, axis=2)
    parts = (packed.reshape(-1, 128), high.reshape(-1, 64), factors.view(np.uint8), _half(scale))
    return np.concatenate(parts, axis=1)


def _fit_symmetric(weights: Floats) -> Floats:
    """Scales of groups (16, groups), by which `scale * code` fits best, with codes of -32 to 31.

    Weights count by their squares.
    """
    places = np.abs(weights).argmax(axis=0)[None]
    steps = -_inverse(np.take_along_axis(weights, places, axis=0))[0]
    cubes = weights * weights
    importance = cubes.copy()
    cubes *= weights
    scales, best = np.zeros_like(steps), np.zeros_like(steps)
    codes = np.empty_like(weights)
    for more in _TRIED_SYMMETRIC:
        np.multiply(weights, (32 + np.float32(more)) * steps, out=codes)
        np.rint(codes, out=codes)
        np.clip(codes, -32, 31, out=codes)
        with_x = _sums(cubes, codes)
        np.multiply(codes, codes, out=codes)
        scale = with_x * _inverse(_sums(importance, codes))
        gain = scale * with_x
        better = gain > best
        best, scales = np.where(better, gain, best), np.where(better, scale, scales)
    return scales


_ENCODERS: Final[dict[str, Callable[[Floats], Bytes]]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q4_0": _symmetric(4),
    "Q4_1": _with_minimum(4),
    "Q5_0": _symmetric(5),
    "Q5_1": _with_minimum(5),
    "Q8_0": _q8_0,
    "Q4_K": _with_minimums(4),
    "Q5_K": _with_minimums(5),
    "Q6_K": _q6_k,
}
KINDS: Final = tuple(_ENCODERS)
"""The types that can be written."""
