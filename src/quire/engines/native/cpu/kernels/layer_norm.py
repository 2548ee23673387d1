"""Layer norms, which are compiled by themselves: see `rowwise.norm_row`."""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.arguments import Norm
from quire.engines.native.cpu.kernels.layout import LANES


def _make_layer_norm_row(has_weight: bool, has_bias: bool) -> Any:
    """Layer norm of `size` floats at address `x`, which may be `out`: with weight and bias, or without."""

    @kernel
    def layer_norm_row(x: int, weight: int, bias: int, out: int, size: int, eps: float) -> None:
        full = size // LANES * LANES
        rest = size - full
        total = simd.splat(0.0)
        for k in range(0, full, LANES):
            total = simd.add(simd.load(x + 4 * k), total)
        if rest:
            total = simd.add(simd.load_part(x + 4 * full, rest), total)
        mean = simd.splat(simd.sum_lanes(total) / float(size))
        # A second pass over the row, which is in the cache: the mean of squares minus the square of the
        # mean would cancel where the mean is large.
        total = simd.splat(0.0)
        for k in range(0, full, LANES):
            value = simd.subtract(simd.load(x + 4 * k), mean)
            total = simd.fma(value, value, total)
        if rest:
            value = simd.subtract(simd.load_part(x + 4 * full, rest), mean)
            value = simd.keep_range(value, 0, rest, 0.0)
            total = simd.fma(value, value, total)
        variance = simd.sum_lanes(total) / float(size)
        scale = simd.divide(simd.splat(1.0), simd.sqrt(simd.splat(variance + eps)))
        for k in range(0, full, LANES):
            value = simd.multiply(simd.subtract(simd.load(x + 4 * k), mean), scale)
            if has_weight:
                value = simd.multiply(simd.load(weight + 4 * k), value)
            if has_bias:
                value = simd.add(value, simd.load(bias + 4 * k))
            simd.store(out + 4 * k, value)
        if rest:
            value = simd.multiply(simd.subtract(simd.load_part(x + 4 * full, rest), mean), scale)
            if has_weight:
                value = simd.multiply(simd.load_part(weight + 4 * full, rest), value)
            if has_bias:
                value = simd.add(value, simd.load_part(bias + 4 * full, rest))
            simd.store_part(out + 4 * full, value, rest)

    return layer_norm_row


_layer_norm_bare, _layer_norm_weighted, _layer_norm_full = (
    _make_layer_norm_row(*parts) for parts in ((False, False), (True, False), (True, True))
)


@kernel
def layer_norm(norm: Norm, offset: int, x: int, out: int, size: int) -> None:
    """The layer norm of `size` floats at address `x`, which may be `out`.

    Weights and biases begin `offset` bytes after the norm's.
    """
    if norm.bias:
        _layer_norm_full(x, norm.weight + offset, norm.bias + offset, out, size, norm.eps)
    elif norm.weight:
        _layer_norm_weighted(x, norm.weight + offset, 0, out, size, norm.eps)
    else:
        _layer_norm_bare(x, 0, 0, out, size, norm.eps)
