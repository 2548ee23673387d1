"""The attention half of a layer: queries, keys and values, rotary embedding, the cache, attention."""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.activations import multiply_by_sigmoid
from quire.engines.native.cpu.kernels.arguments import LinearMap, Norm
from quire.engines.native.cpu.kernels.attention import attention, store_keys, store_values
from quire.engines.native.cpu.kernels.linear import linear_columns, quantized_map_of
from quire.engines.native.cpu.kernels.rowwise import (
    clip_columns,
    copy_row,
    norm_row,
    norm_rows,
    rotate_heads,
    scale_columns,
    task_range,
)
from quire.engines.native.cpu.kernels.simd import NO, get_int64
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import Attention, Output, Projection, Step
from quire.engines.native.cpu.program.linear_phases import (
    add_to_residual,
    input_phases,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_lora
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

_Q, _K, _V, _Z = range(4)


# ---- rotary embedding and the cache


@kernel
def _rotate(
    step: Step, own: Projection, x: int, heads: int, first: int, end: int, norm: Norm | None,
    scale: float, row: int, rows: int,
) -> None:  # fmt: skip
    """`rotate_heads` for `rows` rows from `row` on, by the angles that this layer uses."""
    size, cosines, sines = own.head_dim, 0, 0
    # Without angles, `rotate_heads` has a norm and a scale to do, at most.
    if own.angles:
        cosines, sines = own.angles.cosines, own.angles.sines
    rotate_heads(x + 4 * row * heads * size, rows, heads, size, first, end, norm,
                 own.norms_last, scale, step.rope_positions + 4 * row, cosines, sines,
                 own.rotary_dim, own.is_interleaved)  # fmt: skip


@kernel
def _finish_queries(
    step: Step, own: Projection, first: int, end: int, norm: Norm | None, row: int, rows: int
) -> None:
    """Norm, rotary embedding and scale of some heads of the queries, in `rows` rows from `row`.

    The queries are multiplied by the scale of the scores, which are more numerous.
    """
    if own.query_factors:
        for one in range(row, row + rows):
            position = simd.get_int32(step.positions, one)
            scale = own.scale * simd.get_float32(own.query_factors.factors, position)
            _rotate(step, own, step.queries, own.heads, first, end, norm, scale, one, 1)
    else:
        _rotate(step, own, step.queries, own.heads, first, end, norm, own.scale, row, rows)


@kernel
def _finish_keys(
    step: Step, own: Projection, first: int, end: int, norm: Norm | None, row: int, rows: int
) -> None:
    """Norm and rotary embedding of some heads of the keys, which are then written to the cache."""
    kv_heads, size = own.kv_heads, own.head_dim
    _rotate(step, own, step.keys, kv_heads, first, end, norm, 1.0, row, rows)
    store_keys(step.keys + 4 * row * kv_heads * size, rows, kv_heads, size, first, end,
               step.slots + 8 * row, step.block_size, step.kv_kind, own.k_cache,
               step.k_run)  # fmt: skip


@kernel
def _finish_values(step: Step, own: Projection, first: int, end: int) -> None:
    """Norm and scale of some heads of the values, if they have these; then the write to the cache."""
    rows, heads, size, values = step.rows, own.kv_heads, own.value_dim, step.values
    if own.v_norm:
        for row in range(rows):
            for head in range(first, end):
                address = values + 4 * (row * heads + head) * size
                norm_row(own.v_norm, head, address, address, size)
    if own.value_scale != 1:
        scale_columns(values, 4 * heads * size, rows, first * size, end * size, own.value_scale)
    store_values(values, rows, heads, size, first, end, step.slots, step.block_size, step.kv_kind,
                 own.v_cache, step.v_run)  # fmt: skip


@kernel
def _copy_keys_to_values(step: Step, own: Projection, first: int, end: int) -> None:
    """Values of some heads = their keys, as the map has made them."""
    size = own.head_dim
    for row in range(step.rows):
        offset = 4 * (row * own.kv_heads + first) * size
        copy_row(step.keys + offset, step.values + offset, (end - first) * size)


# ---- queries, keys and values


@kernel
def _project_columns(
    step: Step, own: Projection, linear_map: LinearMap, which: int, normed: int, quantized: int,
    out: int, size: int, first: int, end: int,
) -> None:  # fmt: skip
    """The columns of some heads of `size`, of queries, keys, values or gates; `which` is _Q to _Z."""
    first, end = first * size, end * size
    linear_columns(normed, quantized, step.rows, linear_map, out, first, end, NO)
    add_lora(step.adapters, own.entry + which, which, out, linear_map.columns, first, end)
    if own.clip != 0:
        clip_columns(out, step.rows, linear_map.columns, first, end, own.clip)


@kernel
def _project_task(
    step: Step, own: Projection, normed: int, quantized: int, first: int, end: int
) -> None:
    """Make heads `first` to `end - 1` of the queries, keys, values and gates ready for attention.

    Heads are counted over queries, keys, values and gates in this order. The task that computes a head
    also norms, rotates and stores it, while it is in the cache. Only norms over all heads have to
    wait for the other tasks: `_norm_widths` then does the rest for queries and keys.
    """
    rows, heads, kv_heads, size = step.rows, own.heads, own.kv_heads, own.head_dim
    if first < heads:
        last = min(end, heads)
        _project_columns(step, own, own.q, _Q, normed, quantized, step.queries, size, first,
                         last)  # fmt: skip
        if not own.norms_widths:  # a norm over all heads comes first
            _finish_queries(step, own, first, last, own.q_norm, 0, rows)
    first, end = max(first - heads, 0), end - heads
    if first < min(end, kv_heads):
        last = min(end, kv_heads)
        _project_columns(step, own, own.k, _K, normed, quantized, step.keys, size, first, last)
        if not own.v:
            _copy_keys_to_values(step, own, first, last)
            _finish_values(step, own, first, last)
        if not own.norms_widths:
            _finish_keys(step, own, first, last, own.k_norm, 0, rows)
    first, end = max(first - kv_heads, 0), end - kv_heads
    size = own.value_dim
    if first < min(end, kv_heads):
        last = min(end, kv_heads)
        _project_columns(step, own, own.v, _V, normed, quantized, step.values, size, first, last)
        _finish_values(step, own, first, last)
    first, end = max(first - kv_heads, 0), end - kv_heads
    if own.z and first < end:
        _project_columns(step, own, own.z, _Z, normed, quantized, step.gate, size, first, end)


@kernel
def _norm_widths(step: Step, own: Projection, phase: int) -> None:
    """Norm each row's queries over all heads, and its keys; then rotate them and store the keys."""
    rows, heads, kv_heads, size = step.rows, own.heads, own.kv_heads, own.head_dim
    queries, keys = step.queries, step.keys
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        row, end = task_range(task, tasks, rows, 1)
        norm_rows(task, tasks, own.q_norm, queries, rows, heads * size, queries)
        norm_rows(task, tasks, own.k_norm, keys, rows, kv_heads * size, keys)
        _finish_queries(step, own, 0, heads, None, row, end - row)
        _finish_keys(step, own, 0, kv_heads, None, row, end - row)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def project(thread: int, step: Step, own: Projection, first_phase: int) -> None:
    """Norm, queries, keys, values and gates, rotary embedding, and the write to the cache."""
    x, rows, quantized_map = step.residual, step.rows, own.q
    if own.k:
        quantized_map = quantized_map_of(quantized_map, own.k)
    if own.v:
        quantized_map = quantized_map_of(quantized_map, own.v)
    maps = _Z
    if own.z:
        quantized_map = quantized_map_of(quantized_map, own.z)
        maps = _Z + 1
    normed = input_phases(thread, step, x, own.norm, quantized_map, own.entry, maps, first_phase)
    phase = first_phase + arguments.PROJECT_HEADS
    # Whole heads are the units: a task that had part of one could neither norm nor rotate it.
    units = own.units
    counters, tasks = counters_of(step, phase), num_tasks(step, units)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, x, rows, own.norm)
    quantized = quantized_rows(thread, step, quantized_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, units, 1)
        _project_task(step, own, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
    if own.norms_widths:
        _norm_widths(step, own, first_phase + arguments.PROJECT_WIDTHS)


# ---- attention


@kernel
def _gate_tile(step: Step, own: Attention, task: int) -> None:
    """Multiply what a task of attention gave by the sigmoid of its gates."""
    tile, head = step.tiles + 24 * (task // own.kv_heads), task % own.kv_heads
    width, row = own.heads // own.kv_heads * own.value_dim, get_int64(tile, 1)
    for one in range(row, row + get_int64(tile, 2)):
        place = 4 * (one * own.kv_heads + head) * width
        multiply_by_sigmoid(own.out + place, step.gate + place, width)


def _make_attend(kind: int) -> Any:
    """The operation for a KV cache of this kind."""

    @kernel
    def attend(thread: int, step: Step, own: Attention, phase: int) -> None:
        """Attention, in one task for each tile of rows and each key-value head."""
        counters, tasks = counters_of(step, phase), step.tile_count * own.kv_heads
        task = take_task(counters)
        while task < tasks:
            attention(
                task,
                step.queries,
                own.heads,
                own.kv_heads,
                own.head_dim,
                own.value_dim,
                step.positions,
                step.last_seen,
                step.block_tables,
                step.table_width,
                step.block_size,
                kind,
                own.k_cache,
                own.v_cache,
                own.window,
                own.is_chunked,
                step.tiles,
                own.out,
                scratch_of(thread, step),
                own.cap,
                own.sinks,
                own.slopes,
                step.k_run,
                step.v_run,
            )
            if own.is_gated:
                _gate_tile(step, own, task)
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return attend


attend_float32 = _make_attend(layout.KV_FLOAT32)
attend_float16 = _make_attend(layout.KV_FLOAT16)
attend_int8 = _make_attend(layout.KV_INT8)


@kernel
def attention_output(thread: int, step: Step, own: Output, phase: int) -> None:
    """The linear map of attention's output, added to the residual stream."""
    add_to_residual(thread, step, own, step.attention_out, phase)
