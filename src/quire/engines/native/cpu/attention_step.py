"""The attention half of a layer: heads projected and turned, keys and values stored, attention."""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.attention import attention
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, linear_columns, rms_norm, rotate_heads, share
from quire.engines.native.cpu.kv_cache import store_keys, store_values
from quire.engines.native.cpu.lora import add_lora
from quire.engines.native.cpu.lora_step import layer_products
from quire.engines.native.cpu.phases import (
    ONE,
    OUTPUT,
    K,
    Q,
    V,
    counters_of,
    entry_of,
    next_task,
    scratch_of,
    split,
    wait_for_phase,
)
from quire.engines.native.cpu.residual import add_map
from quire.engines.native.cpu.rows import (
    norm_phase,
    normed_rows,
    quantize_phase,
    quantized_of,
    whole_rows,
)
from quire.engines.native.cpu.simd import get_float32, get_int64
from quire.engines.native.cpu.sync import take_task

_MAPS_OF_X = np.int64(3)  # q, k and v


# ---- rotary embedding and the cache


@kernel
def _rotate(
    table: int, layer: int, x: int, heads: int, first: int, end: int, norm: int, scale: float,
    row: int, rows: int,
) -> None:  # fmt: skip
    """`rotate_heads` for `rows` rows from `row` on, by the layer's own angles."""
    size, rope = get_int64(table, layout.HEAD_DIM), get_int64(layer, layout.ROPE)
    cosines, sines = get_int64(table, layout.COSINES), get_int64(table, layout.SINES)
    if rope == layout.LOCAL_ROPE:
        cosines = get_int64(table, layout.LOCAL_COSINES)
        sines = get_int64(table, layout.LOCAL_SINES)
    elif rope == layout.NO_ROPE:
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
    """Norm, rotary embedding and scale of some heads of the queries, in `rows` rows from `row`."""
    _rotate(table, layer, get_int64(table, layout.QUERIES), get_int64(table, layout.HEADS), first,
            end, norm, get_float32(table, 2 * layout.SCALE), row, rows)  # fmt: skip


@kernel
def _finish_keys(
    table: int, layer: int, first: int, end: int, norm: int, row: int, rows: int
) -> None:
    """Norm and rotary embedding of some heads of the keys, and their way into the cache."""
    keys, kv_heads = get_int64(table, layout.KEYS), get_int64(table, layout.KV_HEADS)
    size = get_int64(table, layout.HEAD_DIM)
    _rotate(table, layer, keys, kv_heads, first, end, norm, get_float32(table, 2 * layout.UNIT),
            row, rows)  # fmt: skip
    store_keys(keys + 4 * row * kv_heads * size, rows, kv_heads, size, first, end,
               get_int64(table, layout.SLOTS) + 8 * row, get_int64(table, layout.BLOCK_SIZE),
               get_int64(table, layout.KV_KIND), get_int64(layer, layout.K_CACHE),
               get_int64(table, layout.NUM_BLOCKS))  # fmt: skip


# ---- queries, keys and values


@kernel
def _project_columns(
    table: int, layer: int, place: int, normed: int, whole: int, out: int, first: int, end: int
) -> None:
    """The columns of some heads of queries, keys or values; `place` is Q, K or V."""
    size, linear_map = get_int64(table, layout.HEAD_DIM), get_int64(layer, layout.Q_MAP + place)
    linear_columns(normed, whole, get_int64(table, layout.ROWS), linear_map, out, first * size,
                   end * size, NO)  # fmt: skip
    add_lora(get_int64(table, layout.ADAPTERS), entry_of(table, layer, place), place, out,
             get_int64(linear_map, layout.MAP_COLUMNS), first * size, end * size)  # fmt: skip


@kernel
def _project_task(table: int, layer: int, normed: int, whole: int, first: int, end: int) -> None:
    """Heads `first` to `end - 1` of the queries, keys and values in a row, ready for attention.

    Where norms go over all heads, queries and keys get theirs in `_norm_widths`.
    """
    rows, size = get_int64(table, layout.ROWS), get_int64(table, layout.HEAD_DIM)
    heads, kv_heads = get_int64(table, layout.HEADS), get_int64(table, layout.KV_HEADS)
    slots, block_size = get_int64(table, layout.SLOTS), get_int64(table, layout.BLOCK_SIZE)
    later = get_int64(table, layout.WIDTH_NORMS)
    if first < heads:
        queries, last = get_int64(table, layout.QUERIES), min(end, heads)
        _project_columns(table, layer, Q, normed, whole, queries, first, last)
        if not later:
            norm = get_int64(layer, layout.Q_NORM)
            _finish_queries(table, layer, first, last, norm, NO, rows)
    first, end = max(first - heads, 0), end - heads
    if first < min(end, kv_heads):
        keys, last = get_int64(table, layout.KEYS), min(end, kv_heads)
        _project_columns(table, layer, K, normed, whole, keys, first, last)
        if not later:
            norm = get_int64(layer, layout.K_NORM)
            _finish_keys(table, layer, first, last, norm, NO, rows)
    first, end = max(first - kv_heads, 0), end - kv_heads
    if first < end:
        values = get_int64(table, layout.VALUES)
        _project_columns(table, layer, V, normed, whole, values, first, end)
        store_values(values, rows, kv_heads, size, first, end, slots, block_size,
                     get_int64(table, layout.KV_KIND), get_int64(layer, layout.V_CACHE),
                     get_int64(table, layout.NUM_BLOCKS))  # fmt: skip


@kernel
def _norm_widths(table: int, layer: int, phase: int) -> None:
    """Norms over all heads of each row's queries, and of its keys; then what follows norms."""
    rows, size = get_int64(table, layout.ROWS), get_int64(table, layout.HEAD_DIM)
    heads, kv_heads = get_int64(table, layout.HEADS), get_int64(table, layout.KV_HEADS)
    queries, keys = get_int64(table, layout.QUERIES), get_int64(table, layout.KEYS)
    eps = get_float32(table, 2 * layout.EPS)
    counters, tasks = counters_of(table, phase), split(table, rows)
    task = take_task(counters)
    while task < tasks:
        row, end = share(task, tasks, rows, ONE)
        rms_norm(task, tasks, queries, rows, heads * size, get_int64(layer, layout.Q_NORM), eps,
                 queries)  # fmt: skip
        rms_norm(task, tasks, keys, rows, kv_heads * size, get_int64(layer, layout.K_NORM), eps,
                 keys)  # fmt: skip
        _finish_queries(table, layer, NO, heads, NO, row, end - row)
        _finish_keys(table, layer, NO, kv_heads, NO, row, end - row)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def _project(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, queries, keys, values, rotary embedding, the write to the cache."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.ATTENTION_NORM)
    norm_phase(table, x, rows, weight, phase + layout.ATTENTION_NORM_PHASE)
    maps = quantized_of(get_int64(layer, layout.K_MAP), get_int64(layer, layout.V_MAP))
    maps = quantized_of(get_int64(layer, layout.Q_MAP), maps)
    quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                   phase + layout.PROJECT_ROWS_PHASE)  # fmt: skip
    width_phase = phase + layout.WIDTH_NORM_PHASE
    normed = 0
    if get_int64(table, layout.ADAPTERS):
        normed = normed_rows(thread, table, x, rows, weight)
        layer_products(table, entry_of(table, layer, Q), _MAPS_OF_X, normed,
                       phase + layout.LORA_PROJECT_PHASE)  # fmt: skip
    phase += layout.PROJECT_PHASE
    counters = counters_of(table, phase)
    units = get_int64(table, layout.HEADS) + 2 * get_int64(table, layout.KV_HEADS)
    tasks = split(table, units)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, table, x, rows, weight)
    whole = whole_rows(thread, table, maps, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = share(task, tasks, units, ONE)
        _project_task(table, layer, normed, whole, first, end)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)
    if get_int64(table, layout.WIDTH_NORMS):
        _norm_widths(table, layer, width_phase)


# ---- attention


@kernel
def _attend(thread: int, table: int, layer: int, phase: int) -> None:
    """MIXED = attention, in one task for each tile of rows and each head of the keys."""
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
            get_int64(table, layout.KV_KIND),
            get_int64(layer, layout.K_CACHE),
            get_int64(layer, layout.V_CACHE),
            get_int64(layer, layout.WINDOW),
            get_int64(table, layout.TILES),
            get_int64(table, layout.MIXED),
            scratch_of(thread, table),
            get_float32(table, 2 * layout.ATTENTION_CAP),
            get_int64(table, layout.NUM_BLOCKS),
        )
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def attention_half(thread: int, table: int, layer: int, phase: int) -> None:
    """Attention, added to the residual stream; `phase` is the number of the layer's first phase."""
    _project(thread, table, layer, phase)
    _attend(thread, table, layer, phase + layout.ATTEND_PHASE)
    x, entry = get_int64(table, layout.MIXED), entry_of(table, layer, OUTPUT)
    layer_products(table, entry, ONE, x, phase + layout.LORA_OUTPUT_PHASE)
    add_map(thread, table, get_int64(layer, layout.O_MAP), x, entry,
            get_int64(layer, layout.POST_ATTENTION_NORM), phase + layout.OUTPUT_ROWS_PHASE,
            phase + layout.OUTPUT_PHASE, phase + layout.ATTENTION_SUM_PHASE)  # fmt: skip
