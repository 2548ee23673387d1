"""Causal depthwise convolution: each channel is summed over its own last few inputs.

A sequence's state is its last `width - 1` inputs, (width - 1, channels), the oldest first. Rows are taken
one after another, of a prompt too: so a row's sum has one order however the prompt is cut into chunks.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.activations import silu
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.kernels.rowwise import clear_columns, copy_columns


@kernel
def causal_conv(
    x: int, x_stride: int, rows: int, channels: int, first: int, end: int, weight: int, width: int,
    bias: int, is_silu: bool, states: int, state_stride: int, slot: int, saves: int, is_new: bool,
    out: int, out_stride: int,
) -> None:  # fmt: skip
    """`out[t, c] = sum_k weight[k, c] * x[t + 1 - width + k, c] + bias[c]`, for one sequence's rows.

    Only the channels `first` to `end - 1` are computed. x and `out` are (rows, channels) and may be the
    same; rows are so many bytes apart. `weight` is (width, channels), `bias` (channels,) or 0, and
    `is_silu` applies SiLU to the sum. `states` is the address of slot 0's state, and slots are
    `state_stride` bytes apart. What came before the first row is the state in `slot`, zeros if the
    sequence `is_new`; the state after the last row is left there. `saves` (rows,) int32, or 0, has
    for each row a slot that gets a copy of the state after it, -1 for none.
    """
    state = states + slot * state_stride
    if is_new:
        clear_columns(state, width - 1, channels, first, end)
    for row in range(rows):
        source, target = x + row * x_stride, out + row * out_stride
        for channel in range(first, end, LANES):
            count, offset = min(LANES, end - channel), 4 * channel
            _convolve(source + offset, channels, count, weight + offset, width,
                      bias + offset if bias else 0, is_silu, state + offset, target + offset)  # fmt: skip
        saved = simd.get_int32(saves, row) if saves else -1
        if saved >= 0:
            copy_columns(state, states + saved * state_stride, width - 1, channels, first, end)


@kernel
def _convolve(
    x: int, channels: int, count: int, weight: int, width: int, bias: int, is_silu: bool, state: int,
    out: int,
) -> None:  # fmt: skip
    """One row of `count` channels, at most LANES. The state moves on by this row."""
    total = simd.load_part(bias, count) if bias else simd.splat(0.0)
    older = state
    for tap in range(width - 1):
        value = simd.load_part(state + 4 * tap * channels, count)
        total = simd.fma(simd.load_part(weight + 4 * tap * channels, count), value, total)
        if tap > 0:
            simd.store_part(older, value, count)
            older += 4 * channels
    value = simd.load_part(x, count)
    total = simd.fma(simd.load_part(weight + 4 * (width - 1) * channels, count), value, total)
    if width > 1:
        simd.store_part(older, value, count)
    if is_silu:
        total = silu(total, simd.splat(1.0))
    simd.store_part(out, total, count)
