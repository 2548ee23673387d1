"""One step of a decoder as one compiled call per thread, over all layers.

A step is a row of phases; a phase is a number of tasks that the threads take one after another.
`layout` names the words of the tables that are read here.
"""

from __future__ import annotations

import numpy as np

from quire.native.cpu import layout
from quire.native.cpu.attention import attention, plan_tiles
from quire.native.cpu.experts import (
    choose_experts,
    experts_down,
    experts_gate,
    group_rows,
    router_scores,
)
from quire.native.cpu.jit import kernel
from quire.native.cpu.kernels import (
    NO,
    YES,
    add_rows,
    bend_logits,
    gated_ffn,
    gather_rows,
    linear,
    linear_columns,
    rms_norm,
    rotate_heads,
    scale_rows,
    share,
)
from quire.native.cpu.kv_cache import store_keys, store_values
from quire.native.cpu.lora import add_lora
from quire.native.cpu.lora_step import (
    adapt_embeddings,
    adapted_head,
    head_products,
    layer_products,
)
from quire.native.cpu.quantized import quantize_rows
from quire.native.cpu.simd import get_float32, get_int64, put_int64
from quire.native.cpu.sync import enter, finish_task, leave, take_task, wait_for_tasks

_WORD = 8
_ONE = YES  # typed, see kernels
_MAPS_OF_X, _MAPS_OF_GATE = np.int64(3), np.int64(2)  # q, k and v; gate and up
_Q, _K, _V, _O, _GATE, _UP, _DOWN = map(np.int64, range(len(layout.LINEARS)))


@kernel
def _split(table: int, units: int) -> int:
    """Into how many tasks to split so many columns, heads or rows."""
    threads = get_int64(table, layout.THREADS)
    return 1 if threads == 1 else min(units, threads * layout.TASKS_PER_THREAD)


@kernel
def _counters(table: int, phase: int) -> int:
    return get_int64(table, layout.COUNTERS) + phase * layout.PHASE_BYTES


@kernel
def _wait(table: int, phase: int, tasks: int) -> None:
    wait_for_tasks(_counters(table, phase), tasks)


@kernel
def _scratch(thread: int, table: int) -> int:
    return get_int64(table, layout.SCRATCH) + thread * get_int64(table, layout.SCRATCH_BYTES)


@kernel
def _entry(table: int, layer: int, linear: int) -> int:
    """The number of the entry that adapters have for one of a layer's LINEARS."""
    layers = get_int64(table, layout.LAYER_TABLE)
    number = (layer - layers) // (_WORD * layout.LAYER_WORDS)
    return layout.FIRST_LAYER_ENTRY + number * layout.LORA_MAPS + linear


# ---- norms: in a phase of their own, or, of few rows, by each thread for itself


@kernel
def _norms_apart(table: int, rows: int) -> bool:
    return rows * get_int64(table, layout.THREADS) > layout.OWN_ROWS


@kernel
def _norm_phase(table: int, x: int, rows: int, weight: int, phase: int) -> None:
    """NORMED = the norm of x, where there is one and it is a phase."""
    if not weight or not _norms_apart(table, rows):
        return
    counters, tasks = _counters(table, phase), _split(table, rows)
    task = take_task(counters)
    while task < tasks:
        rms_norm(task, tasks, x, rows, get_int64(table, layout.HIDDEN), weight,
                 get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _normed(thread: int, table: int, x: int, rows: int, weight: int) -> int:
    """Where the norm of x is: made by `_norm_phase`, or made now in this thread's scratch.

    Without a norm (`weight` is 0) it is x itself.
    """
    if not weight:
        return x
    if _norms_apart(table, rows):
        return get_int64(table, layout.NORMED)
    own = _scratch(thread, table)
    rms_norm(NO, _ONE, x, rows, get_int64(table, layout.HIDDEN), weight,
             get_float32(table, 2 * layout.EPS), own)  # fmt: skip
    return own


# ---- rows in whole numbers, for maps whose weights are: as norms, in a phase or by each thread


@kernel
def _is_quantized(linear_map: int) -> bool:
    return get_int64(linear_map, layout.KIND) >= layout.INT8


@kernel
def _quantize(linear_map: int, x: int, first: int, end: int, out: int) -> None:
    """The rows `first` to `end - 1` of x as a quantised map takes them."""
    quantize_rows(first, end, x, get_int64(linear_map, layout.MAP_DEPTH),
                  get_int64(linear_map, layout.QUANT_DEPTH), get_int64(linear_map, layout.SPAN),
                  out)  # fmt: skip


@kernel
def _quantize_phase(table: int, linear_map: int, x: int, rows: int, phase: int) -> None:
    """QUANTIZED = the rows of x, where the map wants them so and that is a phase."""
    if not (_is_quantized(linear_map) and _norms_apart(table, rows)):
        return
    counters, tasks = _counters(table, phase), _split(table, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = share(task, tasks, rows, _ONE)
        _quantize(linear_map, x, first, end, get_int64(table, layout.QUANTIZED))
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _whole(thread: int, table: int, linear_map: int, x: int, rows: int) -> int:
    """Where the rows of x are in whole numbers, made now if they are few; 0 where not wanted."""
    if not _is_quantized(linear_map):
        return 0
    if _norms_apart(table, rows):
        return get_int64(table, layout.QUANTIZED)
    own = _scratch(thread, table) + get_int64(table, layout.OWN_QUANTIZED)
    _quantize(linear_map, x, NO, rows, own)
    return own


@kernel
def _quantized_of(first: int, second: int) -> int:
    """That of two maps which is quantised, if one is."""
    return first if _is_quantized(first) else second


# ---- the phases of a layer


@kernel
def _project_heads(
    table: int, layer: int, place: int, normed: int, whole: int, out: int, first: int, end: int
) -> None:
    """The columns of some heads of queries, keys or values; `place` is _Q, _K or _V."""
    size, linear_map = get_int64(table, layout.HEAD_DIM), get_int64(layer, layout.Q_MAP + place)
    linear_columns(normed, whole, get_int64(table, layout.ROWS), linear_map, out, first * size,
                   end * size, NO)  # fmt: skip
    add_lora(get_int64(table, layout.ADAPTERS), _entry(table, layer, place), place, out,
             get_int64(linear_map, layout.MAP_COLUMNS), first * size, end * size)  # fmt: skip


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
                 get_int64(table, layout.POSITIONS) + 4 * row, cosines, sines,
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
               get_int64(table, layout.KV_KIND), get_int64(layer, layout.K_CACHE))  # fmt: skip


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
        _project_heads(table, layer, _Q, normed, whole, queries, first, last)
        if not later:
            norm = get_int64(layer, layout.Q_NORM)
            _finish_queries(table, layer, first, last, norm, NO, rows)
    first, end = max(first - heads, 0), end - heads
    if first < min(end, kv_heads):
        keys, last = get_int64(table, layout.KEYS), min(end, kv_heads)
        _project_heads(table, layer, _K, normed, whole, keys, first, last)
        if not later:
            norm = get_int64(layer, layout.K_NORM)
            _finish_keys(table, layer, first, last, norm, NO, rows)
    first, end = max(first - kv_heads, 0), end - kv_heads
    if first < end:
        values = get_int64(table, layout.VALUES)
        _project_heads(table, layer, _V, normed, whole, values, first, end)
        store_values(values, rows, kv_heads, size, first, end, slots, block_size,
                     get_int64(table, layout.KV_KIND), get_int64(layer, layout.V_CACHE))  # fmt: skip


@kernel
def _norm_widths(table: int, layer: int, phase: int) -> None:
    """Norms over all heads of each row's queries, and of its keys; then what follows norms."""
    rows, size = get_int64(table, layout.ROWS), get_int64(table, layout.HEAD_DIM)
    heads, kv_heads = get_int64(table, layout.HEADS), get_int64(table, layout.KV_HEADS)
    queries, keys = get_int64(table, layout.QUERIES), get_int64(table, layout.KEYS)
    eps = get_float32(table, 2 * layout.EPS)
    counters, tasks = _counters(table, phase), _split(table, rows)
    task = take_task(counters)
    while task < tasks:
        row, end = share(task, tasks, rows, _ONE)
        rms_norm(task, tasks, queries, rows, heads * size, get_int64(layer, layout.Q_NORM), eps,
                 queries)  # fmt: skip
        rms_norm(task, tasks, keys, rows, kv_heads * size, get_int64(layer, layout.K_NORM), eps,
                 keys)  # fmt: skip
        _finish_queries(table, layer, NO, heads, NO, row, end - row)
        _finish_keys(table, layer, NO, kv_heads, NO, row, end - row)
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _project(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, queries, keys, values, rotary embedding, the write to the cache."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.ATTENTION_NORM)
    _norm_phase(table, x, rows, weight, phase + layout.ATTENTION_NORM_PHASE)
    maps = _quantized_of(get_int64(layer, layout.K_MAP), get_int64(layer, layout.V_MAP))
    maps = _quantized_of(get_int64(layer, layout.Q_MAP), maps)
    _quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                    phase + layout.PROJECT_ROWS_PHASE)  # fmt: skip
    width_phase = phase + layout.WIDTH_NORM_PHASE
    normed = 0
    if get_int64(table, layout.ADAPTERS):
        normed = _normed(thread, table, x, rows, weight)
        layer_products(table, _entry(table, layer, _Q), _MAPS_OF_X, normed,
                       phase + layout.LORA_PROJECT_PHASE)  # fmt: skip
    phase += layout.PROJECT_PHASE
    counters = _counters(table, phase)
    units = get_int64(table, layout.HEADS) + 2 * get_int64(table, layout.KV_HEADS)
    tasks = _split(table, units)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = _normed(thread, table, x, rows, weight)
    whole = _whole(thread, table, maps, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = share(task, tasks, units, _ONE)
        _project_task(table, layer, normed, whole, first, end)
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)
    if get_int64(table, layout.WIDTH_NORMS):
        _norm_widths(table, layer, width_phase)


@kernel
def _attend(thread: int, table: int, layer: int, phase: int) -> None:
    counters, kv_heads = _counters(table, phase), get_int64(table, layout.KV_HEADS)
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
            _scratch(thread, table),
            get_float32(table, 2 * layout.ATTENTION_CAP),
        )
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _sum(table: int, norm: int, phase: int) -> None:
    """Add what is in NORMED to the residual stream: its norm, if there is one, times the scale."""
    rows, hidden = get_int64(table, layout.ROWS), get_int64(table, layout.HIDDEN)
    x = get_int64(table, layout.NORMED)
    counters, tasks = _counters(table, phase), _split(table, rows)
    task = take_task(counters)
    while task < tasks:
        if norm:
            rms_norm(task, tasks, x, rows, hidden, norm, get_float32(table, 2 * layout.EPS), x)
        add_rows(task, tasks, x, rows, hidden, get_float32(table, 2 * layout.RESIDUAL_SCALE),
                 get_int64(table, layout.RESIDUAL))  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _add_map(
    thread: int, table: int, linear_map: int, x: int, entry: int, norm: int, rows_phase: int,
    phase: int, sum_phase: int,
) -> None:  # fmt: skip
    """Add a linear map of x to the residual stream: at once, or after a norm or a scale.

    `entry` is what adapters have for it.
    """
    # NORMED is free: what was normed there has been read when x is complete.
    apart = norm != 0 or get_float32(table, 2 * layout.RESIDUAL_SCALE) != 1
    out = get_int64(table, layout.NORMED if apart else layout.RESIDUAL)
    rows = get_int64(table, layout.ROWS)
    _quantize_phase(table, linear_map, x, rows, rows_phase)
    counters, columns = _counters(table, phase), get_int64(table, layout.HIDDEN)
    tasks = _split(table, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    whole = _whole(thread, table, linear_map, x, rows) if task < tasks else 0
    while task < tasks:
        linear(task, tasks, x, whole, rows, linear_map, out, NO if apart else YES)
        first, end = share(task, tasks, columns, layout.COLUMN_GRAIN)
        add_lora(get_int64(table, layout.ADAPTERS), entry, NO, out, columns, first, end)
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)
    if apart:
        _sum(table, norm, sum_phase)


@kernel
def _gate(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, and the gated first half of the FFN."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.FFN_NORM)
    _norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    maps = _quantized_of(get_int64(layer, layout.GATE_MAP), get_int64(layer, layout.UP_MAP))
    _quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                    phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    normed, adapters = 0, get_int64(table, layout.ADAPTERS)
    if adapters:
        normed = _normed(thread, table, x, rows, weight)
        layer_products(table, _entry(table, layer, _GATE), _MAPS_OF_GATE, normed,
                       phase + layout.LORA_GATE_PHASE)  # fmt: skip
    phase += layout.GATE_PHASE
    counters, columns = _counters(table, phase), get_int64(table, layout.FFN)
    tasks = _split(table, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = _normed(thread, table, x, rows, weight)
    whole = _whole(thread, table, maps, normed, rows) if task < tasks else 0
    while task < tasks:
        gated_ffn(task, tasks, normed, whole, rows, get_int64(layer, layout.GATE_MAP),
                  get_int64(layer, layout.UP_MAP), get_int64(table, layout.GATE),
                  get_int64(table, layout.UP), get_int64(table, layout.ACTIVATION), adapters,
                  _entry(table, layer, _GATE))  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def _route(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, the experts of each row, the rows of each expert."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight, experts = get_int64(layer, layout.FFN_NORM), get_int64(layer, layout.EXPERTS)
    _norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    score = get_int64(experts, layout.SHARED_SCORE_MAP)
    maps = get_int64(experts, layout.ROUTER_MAP)
    maps = _quantized_of(maps, score) if score else maps
    _quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                    phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    counters = _counters(table, phase + layout.SCORE_PHASE)
    parts = _split(table, get_int64(experts, layout.EXPERT_COUNT) // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    normed = _normed(thread, table, x, rows, weight) if task < parts else 0
    whole = _whole(thread, table, maps, normed, rows) if task < parts else 0
    while task <= parts:
        if task < parts:
            router_scores(task, parts, experts, normed, whole, rows)
        elif not _norms_apart(table, rows):  # the experts' rows are gathered from there
            rms_norm(NO, _ONE, x, rows, get_int64(table, layout.HIDDEN), weight,
                     get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase + layout.SCORE_PHASE, parts + 1)
    counters, tasks = _counters(table, phase + layout.CHOOSE_PHASE), _split(table, rows)
    task = take_task(counters)
    while task < tasks:
        choose_experts(task, tasks, experts, rows)
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase + layout.CHOOSE_PHASE, tasks)
    counters = _counters(table, phase + layout.GROUP_PHASE)
    if take_task(counters) == 0:
        group_rows(experts, rows)
        finish_task(counters)
    _wait(table, phase + layout.GROUP_PHASE, _ONE)


@kernel
def _experts(thread: int, table: int, experts: int, phase: int) -> None:
    """The experts' FFNs, added to the residual stream."""
    hidden, gate = get_int64(table, layout.HIDDEN), get_int64(table, layout.GATE)
    scratch = _scratch(thread, table)
    whole = scratch + get_int64(table, layout.OWN_QUANTIZED)
    counters = _counters(table, phase + layout.GATE_PHASE)
    parts = _split(table, get_int64(experts, layout.EXPERT_FFN) // layout.COLUMN_GRAIN + 1)
    # Narrow experts have too few columns for many threads: then some experts are one task.
    groups = max(_ONE, _split(table, get_int64(experts, layout.ALL_EXPERTS)) // parts)
    task = take_task(counters)
    while task < parts * groups:
        experts_gate(task // groups, parts, task % groups, groups, experts,
                     get_int64(table, layout.NORMED), hidden, gate, get_int64(table, layout.UP),
                     get_int64(table, layout.ACTIVATION), scratch, whole)  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase + layout.GATE_PHASE, parts * groups)
    counters = _counters(table, phase + layout.DOWN_PHASE)
    tasks = _split(table, hidden // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    while task < tasks:
        experts_down(task, tasks, experts, hidden, gate, get_int64(table, layout.RESIDUAL),
                     scratch, whole)  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase + layout.DOWN_PHASE, tasks)


@kernel
def _layer(thread: int, table: int, layer: int, phase: int) -> None:
    """One layer; `layer` is the address of its row, `phase` the number of its first phase."""
    _project(thread, table, layer, phase)
    _attend(thread, table, layer, phase + layout.ATTEND_PHASE)
    x, entry = get_int64(table, layout.MIXED), _entry(table, layer, _O)
    layer_products(table, entry, _ONE, x, phase + layout.LORA_OUTPUT_PHASE)
    _add_map(thread, table, get_int64(layer, layout.O_MAP), x, entry,
             get_int64(layer, layout.POST_ATTENTION_NORM), phase + layout.OUTPUT_ROWS_PHASE,
             phase + layout.OUTPUT_PHASE, phase + layout.ATTENTION_SUM_PHASE)  # fmt: skip
    if get_int64(layer, layout.EXPERTS):
        _route(thread, table, layer, phase)
        _experts(thread, table, get_int64(layer, layout.EXPERTS), phase)
        return
    _gate(thread, table, layer, phase)
    x, entry = get_int64(table, layout.GATE), _entry(table, layer, _DOWN)
    layer_products(table, entry, _ONE, x, phase + layout.LORA_DOWN_PHASE)
    _add_map(thread, table, get_int64(layer, layout.DOWN_MAP), x, entry,
             get_int64(layer, layout.POST_FFN_NORM), phase + layout.DOWN_ROWS_PHASE,
             phase + layout.DOWN_PHASE, phase + layout.FFN_SUM_PHASE)  # fmt: skip


# ---- before and after the layers


@kernel
def _start(table: int) -> None:
    """The embeddings of the batch's tokens, and as the last task the tiles of attention."""
    rows, scale = get_int64(table, layout.ROWS), get_float32(table, 2 * layout.EMBEDDING_SCALE)
    counters, parts = _counters(table, 0), _split(table, rows)
    task = take_task(counters)
    while task <= parts:
        if task == parts:
            group = get_int64(table, layout.HEADS) // get_int64(table, layout.KV_HEADS)
            count = plan_tiles(get_int64(table, layout.QUERY_START),
                               get_int64(table, layout.SEQUENCES), group,
                               get_int64(table, layout.TILES))  # fmt: skip
            put_int64(table, layout.TILE_COUNT, count)
        else:
            gather_rows(task, parts, get_int64(table, layout.EMBEDDINGS),
                        get_int64(table, layout.EMBEDDINGS_NARROW),
                        get_int64(table, layout.HIDDEN), get_int64(table, layout.TOKEN_IDS),
                        rows, get_int64(table, layout.RESIDUAL))  # fmt: skip
            if get_int64(table, layout.ADAPTERS):
                adapt_embeddings(task, parts, table)
            if scale != 1:
                scale_rows(task, parts, get_int64(table, layout.RESIDUAL), rows,
                           get_int64(table, layout.HIDDEN), scale)  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, 0, parts + 1)


@kernel
def _finish(thread: int, table: int, phase: int) -> None:
    """The last norm for the rows whose logits or hidden states are wanted, the head for the former."""
    count, hidden = get_int64(table, layout.NORMED_COUNT), get_int64(table, layout.HIDDEN)
    normed, vocab = get_int64(table, layout.NORMED), get_int64(table, layout.VOCAB)
    counters = _counters(table, phase + layout.LAST_NORM_PHASE)
    tasks = _split(table, count)
    task = take_task(counters)
    while task < tasks:
        gather_rows(task, tasks, get_int64(table, layout.RESIDUAL), NO, hidden,
                    get_int64(table, layout.LOGITS_ROWS), count, normed)  # fmt: skip
        rms_norm(task, tasks, normed, count, hidden, get_int64(table, layout.FINAL_NORM),
                 get_float32(table, 2 * layout.EPS), normed)  # fmt: skip
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase + layout.LAST_NORM_PHASE, tasks)
    count = get_int64(table, layout.LOGITS_COUNT)
    if count == 0:
        return
    head = get_int64(table, layout.HEAD_MAP)
    _quantize_phase(table, head, normed, count, phase + layout.HEAD_ROWS_PHASE)
    head_products(table, normed, phase + layout.LORA_HEAD_PHASE)
    phase += layout.HEAD_PHASE
    scale = get_float32(table, 2 * layout.LOGITS_SCALE)
    cap = get_float32(table, 2 * layout.LOGITS_CAP)
    counters, tasks = _counters(table, phase), _split(table, vocab // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    whole = _whole(thread, table, head, normed, count) if task < tasks else 0
    while task < tasks:
        if get_int64(table, layout.ADAPTERS):
            adapted_head(task, tasks, table, normed, whole)
        else:
            linear(task, tasks, normed, whole, count, head, get_int64(table, layout.LOGITS),
                   NO)  # fmt: skip
        if scale != 1 or cap != 0:
            bend_logits(task, tasks, get_int64(table, layout.LOGITS), count, vocab, scale, cap)
        finish_task(counters)
        task = take_task(counters)
    _wait(table, phase, tasks)


@kernel
def step(thread: int, table: int) -> None:
    """Run the batch that `table` (the address of `layout`'s words) describes, as one of its threads.

    When thread 0 returns, the results are there. Others need not have come, and may still be on
    their way out.
    """
    sync = get_int64(table, layout.SYNC)
    if not enter(sync):
        return
    _start(table)
    layers, count = get_int64(table, layout.LAYER_TABLE), get_int64(table, layout.LAYERS)
    for number in range(count):
        _layer(thread, table, layers + _WORD * layout.LAYER_WORDS * number,
               layout.FIRST_PHASES + layout.LAYER_PHASES * number)  # fmt: skip
    _finish(thread, table, layout.FIRST_PHASES + layout.LAYER_PHASES * count)
    leave(sync, thread == 0)
