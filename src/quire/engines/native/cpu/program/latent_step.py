"""Latent attention: what comes before attention over the latents in the cache, that itself, and what follows.

See `LatentAttentionSpec`. A key is the rotated part that all heads share, then the latent.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.latent_attention import (
    attend_latents,
    parts_of,
    store_latent,
)
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, SCRATCH_ROWS
from quire.engines.native.cpu.kernels.linear import (
    is_quantized,
    linear_columns,
    quantize_for,
    quantized_map_of,
)
from quire.engines.native.cpu.kernels.rowwise import (
    copy_row,
    normalise_row,
    rotate_heads,
    task_range,
)
from quire.engines.native.cpu.kernels.simd import NO, get_int64
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import Attention, LatentAttention, Step
from quire.engines.native.cpu.program.linear_phases import (
    input_phases,
    map_columns,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_inner_lora, add_lora
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

# ---- the layer's input to small vectors


@kernel
def _first_columns(
    step: Step, own: LatentAttention, normed: int, quantized: int, first: int, end: int
) -> None:
    """Columns of `q_a` and, after them, of `kv_a`; each map begins at a whole grain."""
    rows, columns = step.rows, own.q_a.columns
    out = step.gate if own.q_rank else step.up
    last = min(end, columns)
    linear_columns(normed, quantized, rows, own.q_a, out, first, last, NO)
    add_lora(step.adapters, own.entry, 0, out, columns, first, last)
    before = (columns + COLUMN_GRAIN - 1) // COLUMN_GRAIN * COLUMN_GRAIN
    first, end = max(first - before, 0), end - before
    if first < end:
        linear_columns(normed, quantized, rows, own.kv_a, step.keys, first, end, NO)
        add_lora(step.adapters, own.entry + 1, 1, step.keys, own.kv_a.columns, first, end)


@kernel
def _rotate(own: LatentAttention, x: int, positions: int, rows: int, heads: int, first: int,
            end: int, scale: float) -> None:  # fmt: skip
    """Rotate the first part of some heads of x (rows, heads, rope_dim + kv_rank), and scale them."""
    cosines, sines = 0, 0
    if own.angles:
        cosines, sines = own.angles.cosines, own.angles.sines
    rotate_heads(x, rows, heads, own.rope_dim + own.kv_rank, first, end, None, NO, scale, positions,
                 cosines, sines, own.rope_dim, own.is_interleaved)  # fmt: skip


@kernel
def _store(step: Step, own: LatentAttention, row: int) -> None:
    """Norm a row's small vectors, rotate its key, and write key and latent to the cache."""
    rope, size = own.rope_dim, own.kv_rank
    if own.q_rank:
        small = step.gate + 4 * row * own.q_rank
        normalise_row(small, own.q_a_norm, small, own.q_rank, own.eps)
    key = step.keys + 4 * row * (rope + size)
    latent = key + 4 * rope
    normalise_row(latent, own.kv_a_norm, latent, size, own.eps)
    _rotate(own, key, step.rope_positions + 4 * row, 1, 1, 0, 1, 1.0)
    slot = get_int64(step.slots, row)
    store_latent(key, rope, size, slot, step.block_size, step.kv_kind, own.cache, step.k_run)


@kernel
def latent_project(thread: int, step: Step, own: LatentAttention, first_phase: int) -> None:
    """Norm, the small vectors that queries, keys and values are made of, and the write to the cache."""
    x, rows = step.residual, step.rows
    quantized_map = quantized_map_of(own.q_a, own.kv_a)
    normed = input_phases(thread, step, x, own.norm, quantized_map, own.entry, 2, first_phase)
    phase = first_phase + arguments.LATENT_MAPS
    before = (own.q_a.columns + COLUMN_GRAIN - 1) // COLUMN_GRAIN * COLUMN_GRAIN
    columns = before + own.kv_a.columns
    counters, tasks = counters_of(step, phase), num_tasks(step, columns // COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, x, rows, own.norm)
    quantized = quantized_rows(thread, step, quantized_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
        _first_columns(step, own, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
    phase = first_phase + arguments.LATENT_STORE
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        for row in range(first, end):
            _store(step, own, row)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- heads


@kernel
def _map_of_head(
    thread: int, step: Step, linear_map: LinearMap, x: int, rows: int, out: int
) -> None:
    """All columns of a head's map for at most SCRATCH_ROWS rows x, rounded if the map takes them so."""
    rounded = 0
    if is_quantized(linear_map):
        rounded = scratch_of(thread, step) + step.scratch_quantized
        quantize_for(linear_map, x, 0, rows, rounded)
    linear_columns(x, rounded, rows, linear_map, out, 0, linear_map.columns, NO)


def _make_heads(of_head: Any) -> Any:
    """The phase of `of_head(thread, step, own, head, row, rows)` for all heads, in pieces of few rows."""

    @kernel
    def heads(thread: int, step: Step, own: LatentAttention, phase: int) -> None:
        pieces = (step.rows + SCRATCH_ROWS - 1) // SCRATCH_ROWS
        counters, tasks = counters_of(step, phase), own.heads * pieces
        task = take_task(counters)
        while task < tasks:
            row = task // own.heads * SCRATCH_ROWS
            rows = min(SCRATCH_ROWS, step.rows - row)
            of_head(thread, step, own, task % own.heads, row, rows)
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return heads


# ---- queries


@kernel
def _query_of_head(
    thread: int, step: Step, own: LatentAttention, head: int, row: int, rows: int
) -> None:
    """One head's queries in `rows` rows from `row` on: rotated, and multiplied into latents."""
    nope, rope, rank = own.nope_dim, own.rope_dim, own.kv_rank
    scratch = scratch_of(thread, step)
    made = scratch + 4 * rows * nope
    for i in range(rows):
        source = step.up + 4 * ((row + i) * own.heads + head) * (nope + rope)
        copy_row(source, scratch + 4 * i * nope, nope)
        target = step.queries + 4 * ((row + i) * own.heads + head) * (rope + rank)
        copy_row(source + 4 * nope, target, rope)
    _map_of_head(thread, step, own.keys[head], scratch, rows, made)
    add_inner_lora(step.adapters, thread, own.heads_entry + head, scratch, 0, row, rows, made, rank,
                   0, rank)  # fmt: skip
    for i in range(rows):
        target = step.queries + 4 * ((row + i) * own.heads + head) * (rope + rank)
        copy_row(made + 4 * i * rank, target + 4 * rope, rank)
    _rotate(own, step.queries + 4 * row * own.heads * (rope + rank), step.rope_positions + 4 * row,
            rows, own.heads, head, head + 1, own.scale)  # fmt: skip


_queries_of_heads = _make_heads(_query_of_head)


@kernel
def latent_queries(thread: int, step: Step, own: LatentAttention, first_phase: int) -> None:
    """`step.queries` = queries (rows, heads, rope_dim + kv_rank) of the keys in the cache."""
    q_b = own.q_b
    if q_b:  # else `latent_project` has made them as they are projected
        map_columns(thread, step, q_b, own.q_b_entry, step.gate, step.up, NO, first_phase)
    _queries_of_heads(thread, step, own, first_phase + arguments.QUERY_HEADS)


# ---- attention


def _make_attend(kind: int) -> Any:
    """The operation for a KV cache of this kind."""

    @kernel
    def attend(thread: int, step: Step, own: Attention, phase: int) -> None:
        """Attention, in one task for each tile of rows and each part of the heads."""
        rank = own.value_dim
        counters, tasks = counters_of(step, phase), step.tile_count * parts_of(own.heads)
        task = take_task(counters)
        while task < tasks:
            attend_latents(task, step.queries, own.heads, rank, own.head_dim - rank,
                           step.positions, step.block_tables, step.table_width, step.block_size,
                           kind, own.k_cache, step.k_run, step.tiles, own.out,
                           scratch_of(thread, step))  # fmt: skip
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return attend


attend_latents_float32 = _make_attend(layout.KV_FLOAT32)
attend_latents_float16 = _make_attend(layout.KV_FLOAT16)
attend_latents_int8 = _make_attend(layout.KV_INT8)


# ---- values


@kernel
def _value_of_head(
    thread: int, step: Step, own: LatentAttention, head: int, row: int, rows: int
) -> None:
    """One head's values in some rows, from what attention gives of the latents."""
    rank, size, scratch = own.kv_rank, own.value_dim, scratch_of(thread, step)
    made = scratch + 4 * rows * rank
    for i in range(rows):
        source = step.up + 4 * ((row + i) * own.heads + head) * rank
        copy_row(source, scratch + 4 * i * rank, rank)
    _map_of_head(thread, step, own.values[head], scratch, rows, made)
    entry = own.heads_entry + own.heads + head
    add_inner_lora(step.adapters, thread, entry, scratch, 0, row, rows, made, size, 0, size)
    for i in range(rows):
        target = step.attention_out + 4 * ((row + i) * own.heads + head) * size
        copy_row(made + 4 * i * size, target, size)


_values_of_heads = _make_heads(_value_of_head)


@kernel
def latent_values(thread: int, step: Step, own: LatentAttention, phase: int) -> None:
    """`step.attention_out` = values (rows, heads, value_dim) of what attention gives of the latents."""
    _values_of_heads(thread, step, own, phase)
