"""The FFN half of a layer with experts: rows routed to experts, and what these add."""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.experts import (
    choose_experts,
    experts_down,
    experts_gate,
    group_rows,
    router_scores,
)
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, rms_norm
from quire.engines.native.cpu.phases import (
    ONE,
    counters_of,
    next_task,
    scratch_of,
    split,
    wait_for_phase,
)
from quire.engines.native.cpu.rows import (
    norm_phase,
    normed_rows,
    norms_apart,
    quantize_phase,
    quantized_of,
    whole_rows,
)
from quire.engines.native.cpu.simd import get_float32, get_int64
from quire.engines.native.cpu.sync import finish_task, take_task


@kernel
def route(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, the experts of each row, the rows of each expert."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight, experts = get_int64(layer, layout.FFN_NORM), get_int64(layer, layout.EXPERTS)
    norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    score = get_int64(experts, layout.SHARED_SCORE_MAP)
    maps = get_int64(experts, layout.ROUTER_MAP)
    maps = quantized_of(maps, score) if score else maps
    quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                   phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    counters = counters_of(table, phase + layout.SCORE_PHASE)
    parts = split(table, get_int64(experts, layout.EXPERT_COUNT) // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    normed = normed_rows(thread, table, x, rows, weight) if task < parts else 0
    whole = whole_rows(thread, table, maps, normed, rows) if task < parts else 0
    while task <= parts:
        if task < parts:
            router_scores(task, parts, experts, normed, whole, rows)
        elif not norms_apart(table, rows):  # the experts' rows are gathered from there
            rms_norm(NO, ONE, x, rows, get_int64(table, layout.HIDDEN), weight,
                     get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.SCORE_PHASE, parts + 1)
    counters, tasks = counters_of(table, phase + layout.CHOOSE_PHASE), split(table, rows)
    task = take_task(counters)
    while task < tasks:
        choose_experts(task, tasks, experts, rows)
        task = next_task(counters)
    wait_for_phase(table, phase + layout.CHOOSE_PHASE, tasks)
    counters = counters_of(table, phase + layout.GROUP_PHASE)
    if take_task(counters) == 0:
        group_rows(experts, rows)
        finish_task(counters)
    wait_for_phase(table, phase + layout.GROUP_PHASE, ONE)


@kernel
def add_experts(thread: int, table: int, layer: int, phase: int) -> None:
    """The experts' FFNs, added to the residual stream."""
    experts = get_int64(layer, layout.EXPERTS)
    hidden, gate = get_int64(table, layout.HIDDEN), get_int64(table, layout.GATE)
    scratch = scratch_of(thread, table)
    whole = scratch + get_int64(table, layout.OWN_QUANTIZED)
    counters = counters_of(table, phase + layout.GATE_PHASE)
    parts = split(table, get_int64(experts, layout.EXPERT_FFN) // layout.COLUMN_GRAIN + 1)
    # Narrow experts have too few columns for many threads: then some experts are one task.
    groups = max(ONE, split(table, get_int64(experts, layout.ALL_EXPERTS)) // parts)
    task = take_task(counters)
    while task < parts * groups:
        experts_gate(task // groups, parts, task % groups, groups, experts,
                     get_int64(table, layout.NORMED), hidden, gate, get_int64(table, layout.UP),
                     get_int64(table, layout.ACTIVATION), scratch, whole)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.GATE_PHASE, parts * groups)
    counters = counters_of(table, phase + layout.DOWN_PHASE)
    tasks = split(table, hidden // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    while task < tasks:
        experts_down(task, tasks, experts, hidden, gate, get_int64(table, layout.RESIDUAL),
                     scratch, whole)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.DOWN_PHASE, tasks)
