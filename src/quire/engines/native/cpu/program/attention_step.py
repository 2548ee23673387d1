"""The attention half of a layer: queries, keys and values, rotary embedding, the cache, attention."""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.attention import attention, store_keys, store_values
from quire.engines.native.cpu.kernels.linear import linear_columns
from quire.engines.native.cpu.kernels.rowwise import rms_norm, rotate_heads, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_float32, get_int64
from quire.engines.native.cpu.program.linear_phases import (
    add_to_residual,
    norm_phase,
    normed_rows,
    phase_input,
    quantize_phase,
    quantized_map_of,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import (
    OUTPUT,
    K,
    Q,
    V,
    add_lora,
    layer_entry,
    layer_products,
)
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

_MAPS_OF_X = 3  # q, k and v


# ---- rotary embedding and the cache


@kernel
def _rotate(
    table: int, layer: int, x: int, heads: int, first: int, end: int, norm: int, scale: float,
    row: int, rows: int,
) -> None:  # fmt: skip
    """`rotate_heads` for `rows` rows from `row` on, by the angles that this layer uses."""
    size, rope = get_int64(table, layout.HEAD_DIM), get_int64(layer, layout.ROPE)
    cosines, sines = get_int64(table, layout.COSINES), get_int64(table, layout.SINES)
    if rope == layout.LOCAL_ROPE:
        cosines = get_int64(table, layout.LOCAL_COSINES)
        sines = get_int64(table, layout.LOCAL_SINES)
    elif rope == layout.NO_ROPE:  # `rotate_heads` then has a norm and a scale to do, at most
        cosines = 0
    rotate_heads(x + 4 * row * heads * size, rows, heads, size, first, end, norm,
                 get_float32(table, 2 * layout.EPS), scale,
                 get_int64(table, layout.ROPE_POSITIONS) + 4 * row, cosines, sines,
                 get_int64(table, layout.ROTARY_DIM),
                 get_int64(table, layout.INTERLEAVED))  # fmt: skip


@kernel
def _finish_queries(
    table: int, layer: int, first: int, end: int, norm: int, row: int, rows: int
) -> None:
    """Norm, rotary embedding and scale of some heads of the queries, in `rows` rows from `row`.

    The queries are multiplied by the scale of the scores, which are more numerous.
    """
    _rotate(table, layer, get_int64(table, layout.QUERIES), get_int64(table, layout.HEADS), first,
            end, norm, get_float32(table, 2 * layout.ATTENTION_SCALE), row, rows)  # fmt: skip


@kernel
def _finish_keys(
    table: int, layer: int, first: int, end: int, norm: int, row: int, rows: int
) -> None:
    """Norm and rotary embedding of some heads of the keys, which are then written to the cache."""
    keys, kv_heads = get_int64(table, layout.KEYS), get_int64(table, layout.KV_HEADS)
    size = get_int64(table, layout.HEAD_DIM)
    _rotate(table, layer, keys, kv_heads, first, end, norm, get_float32(table, 2 * layout.ONE_FLOAT),
            row, rows)  # fmt: skip
    store_keys(keys + 4 * row * kv_heads * size, rows, kv_heads, size, first, end,
               get_int64(table, layout.SLOTS) + 8 * row, get_int64(table, layout.BLOCK_SIZE),
               get_int64(table, layout.KV_KIND), get_int64(layer, layout.K_CACHE),
               get_int64(table, layout.NUM_BLOCKS))  # fmt: skip


# ---- queries, keys and values


@kernel
def _project_columns(
    table: int, layer: int, which: int, normed: int, quantized: int, out: int, first: int,
    end: int,
) -> None:  # fmt: skip
    """The columns of some heads of queries, keys or values; `which` is Q, K or V."""
    size, linear_map = get_int64(table, layout.HEAD_DIM), get_int64(layer, layout.Q_MAP + which)
    linear_columns(normed, quantized, get_int64(table, layout.ROWS), linear_map, out, first * size,
                   end * size, NO)  # fmt: skip
    add_lora(get_int64(table, layout.ADAPTERS), layer_entry(table, layer, which), which, out,
             get_int64(linear_map, layout.MAP_COLUMNS), first * size, end * size)  # fmt: skip


@kernel
def _project_task(
    table: int, layer: int, normed: int, quantized: int, first: int, end: int
) -> None:
    """Make heads `first` to `end - 1` of the queries, keys and values ready for attention.

    Heads are counted over queries, keys and values in this order. The task that computes a head
    also norms, rotates and stores it, while it is in the cache. Only norms over all heads have to
    wait for the other tasks: `_norm_widths` then does the rest for queries and keys.
    """
    rows, size = get_int64(table, layout.ROWS), get_int64(table, layout.HEAD_DIM)
    heads, kv_heads = get_int64(table, layout.HEADS), get_int64(table, layout.KV_HEADS)
    slots, block_size = get_int64(table, layout.SLOTS), get_int64(table, layout.BLOCK_SIZE)
    later = get_int64(table, layout.WIDTH_NORMS)  # a norm over all heads comes first
    if first < heads:
        queries, last = get_int64(table, layout.QUERIES), min(end, heads)
        _project_columns(table, layer, Q, normed, quantized, queries, first, last)
        if not later:
            norm = get_int64(layer, layout.Q_NORM)
            _finish_queries(table, layer, first, last, norm, 0, rows)
    first, end = max(first - heads, 0), end - heads
    if first < min(end, kv_heads):
        keys, last = get_int64(table, layout.KEYS), min(end, kv_heads)
        _project_columns(table, layer, K, normed, quantized, keys, first, last)
        if not later:
            norm = get_int64(layer, layout.K_NORM)
            _finish_keys(table, layer, first, last, norm, 0, rows)
    first, end = max(first - kv_heads, 0), end - kv_heads
    if first < end:
        values = get_int64(table, layout.VALUES)
        _project_columns(table, layer, V, normed, quantized, values, first, end)
        store_values(values, rows, kv_heads, size, first, end, slots, block_size,
                     get_int64(table, layout.KV_KIND), get_int64(layer, layout.V_CACHE),
                     get_int64(table, layout.NUM_BLOCKS))  # fmt: skip


@kernel
def _norm_widths(table: int, layer: int, phase: int) -> None:
    """Norm each row's queries over all heads, and its keys; then rotate them and store the keys."""
    rows, size = get_int64(table, layout.ROWS), get_int64(table, layout.HEAD_DIM)
    heads, kv_heads = get_int64(table, layout.HEADS), get_int64(table, layout.KV_HEADS)
    queries, keys = get_int64(table, layout.QUERIES), get_int64(table, layout.KEYS)
    eps = get_float32(table, 2 * layout.EPS)
    counters, tasks = counters_of(table, phase), num_tasks(table, rows)
    task = take_task(counters)
    while task < tasks:
        row, end = task_range(task, tasks, rows, 1)
        rms_norm(task, tasks, queries, rows, heads * size, get_int64(layer, layout.Q_NORM), eps,
                 queries)  # fmt: skip
        rms_norm(task, tasks, keys, rows, kv_heads * size, get_int64(layer, layout.K_NORM), eps,
                 keys)  # fmt: skip
        _finish_queries(table, layer, 0, heads, 0, row, end - row)
        _finish_keys(table, layer, 0, kv_heads, 0, row, end - row)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def project(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, queries, keys and values, rotary embedding, and the write to the cache."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.ATTENTION_NORM)
    norm_phase(table, x, rows, weight, phase + layout.ATTENTION_NORM_PHASE)
    quantized_map = quantized_map_of(get_int64(layer, layout.K_MAP),
                                     get_int64(layer, layout.V_MAP))  # fmt: skip
    quantized_map = quantized_map_of(get_int64(layer, layout.Q_MAP), quantized_map)
    quantize_phase(table, quantized_map, phase_input(table, x, weight), rows,
                   phase + layout.PROJECT_ROWS_PHASE)  # fmt: skip
    width_phase = phase + layout.WIDTH_NORM_PHASE
    # Adapters read the norm in a phase before the first task. Without them, a thread that finds no
    # task left does not compute it in vain.
    normed = 0
    if get_int64(table, layout.ADAPTERS):
        normed = normed_rows(thread, table, x, rows, weight)
        layer_products(table, layer_entry(table, layer, Q), _MAPS_OF_X, normed,
                       phase + layout.LORA_PROJECT_PHASE)  # fmt: skip
    phase += layout.PROJECT_PHASE
    counters = counters_of(table, phase)
    # Whole heads are the units: a task that had part of one could neither norm nor rotate it.
    units = get_int64(table, layout.HEADS) + 2 * get_int64(table, layout.KV_HEADS)
    tasks = num_tasks(table, units)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, table, x, rows, weight)
    quantized = quantized_rows(thread, table, quantized_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, units, 1)
        _project_task(table, layer, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)
    if get_int64(table, layout.WIDTH_NORMS):
        _norm_widths(table, layer, width_phase)


# ---- attention


def _make_attend(kind: int) -> Any:
    """The operation for a KV cache of this kind."""

    @kernel
    def attend(thread: int, table: int, layer: int, phase: int) -> None:
        """ATTENTION_OUT = attention, in one task for each tile of rows and each key-value head."""
        phase += layout.ATTEND_PHASE
        counters, kv_heads = counters_of(table, phase), get_int64(table, layout.KV_HEADS)
        tasks = get_int64(table, layout.TILE_COUNT) * kv_heads
        task = take_task(counters)
        while task < tasks:
            attention(
                task,
                get_int64(table, layout.QUERIES),
                get_int64(table, layout.HEADS),
                kv_heads,
                get_int64(table, layout.HEAD_DIM),
                get_int64(table, layout.POSITIONS),
                get_int64(table, layout.BLOCK_TABLES),
                get_int64(table, layout.TABLE_WIDTH),
                get_int64(table, layout.BLOCK_SIZE),
                kind,
                get_int64(layer, layout.K_CACHE),
                get_int64(layer, layout.V_CACHE),
                get_int64(layer, layout.WINDOW),
                get_int64(table, layout.TILES),
                get_int64(table, layout.ATTENTION_OUT),
                scratch_of(thread, table),
                get_float32(table, 2 * layout.ATTENTION_CAP),
                get_int64(table, layout.NUM_BLOCKS),
            )
            task = next_task(counters)
        wait_for_phase(table, phase, tasks)

    return attend


attend_float32 = _make_attend(layout.KV_FLOAT32)
attend_float16 = _make_attend(layout.KV_FLOAT16)
attend_int8 = _make_attend(layout.KV_INT8)


@kernel
def attention_output(thread: int, table: int, layer: int, phase: int) -> None:
    """The linear map of attention's output, added to the residual stream."""
    x, entry = get_int64(table, layout.ATTENTION_OUT), layer_entry(table, layer, OUTPUT)
    layer_products(table, entry, 1, x, phase + layout.LORA_OUTPUT_PHASE)
    add_to_residual(thread, table, get_int64(layer, layout.O_MAP), x, entry,
                    get_int64(layer, layout.POST_ATTENTION_NORM),
                    phase + layout.OUTPUT_ROWS_PHASE, phase + layout.OUTPUT_PHASE,
                    phase + layout.ATTENTION_SUM_PHASE)  # fmt: skip
