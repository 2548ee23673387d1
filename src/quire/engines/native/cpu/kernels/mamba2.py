"""Mamba-2's selective state space: each head has a state that decays, and takes up every token.

For a head of `head_dim` numbers, with B and C of `state_size` numbers that it shares with its group:

    step = softplus(dt + dt_bias), within its limits
    state = state * exp(step * a) + B (x * step)^T
    y = C^T state + d * x

The state is (state_size, head_dim), so that a register's lanes are dimensions of the head, and nothing is
reduced over lanes. Rows are taken one after another, of a prompt too: so a row's sums have one order however
the prompt is cut into chunks.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import FLOAT, INT, NOTHING, kernel, primitive
from quire.engines.native.cpu.kernels import builders, simd
from quire.engines.native.cpu.kernels.activations import multiply_by_silu, soft_cap, softplus
from quire.engines.native.cpu.kernels.builders import FLOAT32, INT64, VECTOR
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.kernels.rowwise import (
    clear_columns,
    copy_columns,
    normalise_row,
    task_range,
)
from quire.engines.native.cpu.kernels.tiles import build_loop


def _make_tile(vectors: int) -> Any:
    """`tile(state, stride, size, b, c, x, out, decay, step, skip)`: one row of `vectors` registers."""

    @primitive(NOTHING, *[INT] * 7, *[FLOAT] * 3)
    def tile(
        builder: ir.IRBuilder, state: Any, stride: Any, size: Any, b: Any, c: Any, x: Any, out: Any,
        decay: Any, step: Any, skip: Any,
    ) -> None:  # fmt: skip
        offsets = [INT64(4 * LANES * v) for v in range(vectors)]
        decays, steps = (builders.build_splat(builder, one) for one in (decay, step))
        inputs = [builders.build_load(builder, builder.add(x, offset)) for offset in offsets]
        taken = [builder.fmul(one, steps) for one in inputs]

        def spread(base: Any, index: Any) -> Any:
            address = builder.add(base, builder.mul(index, INT64(4)))
            pointer = builders.build_pointer(builder, address, FLOAT32)
            return builders.build_splat(builder, builder.load(pointer, align=4))

        def body(index: Any, sums: list[Any]) -> list[Any]:
            line, results = builder.add(state, builder.mul(index, stride)), list(sums)
            b_n, c_n = spread(b, index), spread(c, index)
            for v, offset in enumerate(offsets):
                address = builder.add(line, offset)
                kept = builder.fmul(builders.build_load(builder, address), decays)
                value = builders.build_fma(builder, b_n, taken[v], kept)
                pointer = builders.build_pointer(builder, address, VECTOR)
                builder.store(value, pointer, align=4)
                results[v] = builders.build_fma(builder, c_n, value, sums[v])
            return results

        sums = build_loop(builder, size, [builders.constant_vector(0.0)] * vectors, body)
        skips = builders.build_splat(builder, skip)
        for offset, one, total in zip(offsets, inputs, sums, strict=True):
            pointer = builders.build_pointer(builder, builder.add(out, offset), VECTOR)
            builder.store(builders.build_fma(builder, skips, one, total), pointer, align=4)

    return tile


WIDE = 4  # registers of the wide tile: their sums hide each other's latency
_wide, _narrow = _make_tile(WIDE), _make_tile(1)


@kernel
def _partial(
    state: int, stride: int, size: int, b: int, c: int, x: int, out: int, decay: float, step: float,
    skip: float, count: int,
) -> None:  # fmt: skip
    """The tile of fewer dimensions than a register has, with each sum in the same order."""
    value = simd.load_part(x, count)
    taken, total = simd.multiply(value, simd.splat(step)), simd.splat(0.0)
    for n in range(size):
        line = state + n * stride
        kept = simd.multiply(simd.load_part(line, count), simd.splat(decay))
        kept = simd.fma(simd.splat(simd.get_float32(b, n)), taken, kept)
        simd.store_part(line, kept, count)
        total = simd.fma(simd.splat(simd.get_float32(c, n)), kept, total)
    simd.store_part(out, simd.fma(simd.splat(skip), value, total), count)


@kernel
def _scan_row(
    state: int, size: int, head_dim: int, b: int, c: int, x: int, out: int, decay: float,
    step: float, skip: float,
) -> None:  # fmt: skip
    """One row of one head: its state moves on, and `out` gets its output."""
    stride, lane = 4 * head_dim, 0
    while lane + WIDE * LANES <= head_dim:
        at = 4 * lane
        _wide(state + at, stride, size, b, c, x + at, out + at, decay, step, skip)
        lane += WIDE * LANES
    while lane + LANES <= head_dim:
        at = 4 * lane
        _narrow(state + at, stride, size, b, c, x + at, out + at, decay, step, skip)
        lane += LANES
    if lane < head_dim:
        at = 4 * lane
        _partial(state + at, stride, size, b, c, x + at, out + at, decay, step, skip,
                 head_dim - lane)  # fmt: skip


@kernel
def selective_scan(
    x: int, b: int, c: int, dt: int, stride: int, rows: int, head_dim: int, size: int, a: float,
    d: float, dt_bias: float, dt_min: float, dt_max: float, states: int, state_stride: int, slot: int,
    saves: int, is_new: bool, out: int, out_stride: int,
) -> None:  # fmt: skip
    """All rows of one sequence, of one head: x (rows, head_dim), b and c (rows, size), dt (rows,).

    Their rows are `stride` bytes apart, those of `out` (rows, head_dim) `out_stride`. `states` is the
    address of the head's state in slot 0, of the layout above; slots, `saves` and `is_new` are as
    `causal_conv.causal_conv` has them.
    """
    state = states + slot * state_stride
    if is_new:
        clear_columns(state, size, head_dim, 0, head_dim)
    for row in range(rows):
        at = row * stride
        raw = simd.get_float32(dt + at, 0) + dt_bias
        step = min(max(simd.first_lane(softplus(simd.splat(raw))), dt_min), dt_max)
        decay = simd.first_lane(simd.exp_negative(simd.splat(step * a)))
        _scan_row(state, size, head_dim, b + at, c + at, x + at, out + row * out_stride, decay, step,
                  d)  # fmt: skip
        saved = simd.get_int32(saves, row) if saves else -1
        if saved >= 0:
            copy_columns(state, states + saved * state_stride, size, head_dim, 0, head_dim)


@kernel
def gated_norm(
    task: int, tasks: int, x: int, gate: int, gate_stride: int, rows: int, size: int, groups: int,
    weight: int, eps: float, gates_last: bool,
    scale: float,
) -> None:  # fmt: skip
    """`x = norm(x * silu(gate))` in place for (rows, size), with an RMS norm over each of `groups` parts.

    Rows of the gate are `gate_stride` bytes apart. `weight` is (size,), or 0 for no norm. With
    `gates_last` it is `norm(x) * silu(gate)`. Either is multiplied by `scale`.
    """
    first, end = task_range(task, tasks, rows, 1)
    part = size // groups
    for row in range(first, end):
        target, source = x + 4 * row * size, gate + row * gate_stride
        if not gates_last:
            multiply_by_silu(target, source, size)
        if weight:
            for group in range(groups):
                at = 4 * group * part
                normalise_row(target + at, weight + at, target + at, part, eps)
        if gates_last:
            multiply_by_silu(target, source, size)
        if scale != 1:
            soft_cap(target, size, scale, 0.0)
