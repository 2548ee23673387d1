"""The FFN half of a layer: dense, or sparse with experts, and added to the residual stream."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.activations import gate_columns
from quire.engines.native.cpu.kernels.experts import (
    choose_experts,
    experts_down,
    experts_gate,
    group_rows,
    router_scores,
)
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN
from quire.engines.native.cpu.kernels.linear import linear_columns
from quire.engines.native.cpu.kernels.rowwise import rms_norm, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_float32, get_int64
from quire.engines.native.cpu.program.linear_phases import (
    add_to_residual,
    norm_phase,
    normed_rows,
    phase_input,
    prepared_in_phase,
    quantize_phase,
    quantized_map_of,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import (
    DOWN,
    GATE,
    add_lora,
    layer_entry,
    layer_products,
)
from quire.engines.native.cpu.program.phases import (
    counters_of,
    finish_task,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

_MAPS_OF_GATE = 2  # gate and up

# ---- dense


@kernel
def gated_ffn(
    task: int, tasks: int, x: int, quantized: int, rows: int, gate_map: int, up_map: int, gate: int,
    up: int, activation: int = layout.SILU, adapters: int = 0, entry: int = 0,
) -> None:  # fmt: skip
    """`gate = act(x @ gate_w.T + gate_b) * (x @ up_w.T + up_b)`; `up` is scratch of its shape.

    x, `quantized` and the maps as in `linear`; `activation` is one of `layout`'s. Adapters add to
    both products before the gate: `entry` is their entry for the gate, followed by that for `up`
    (see `add_lora`). `reference.gated_ffn` is the same on arrays.
    """
    columns = get_int64(gate_map, layout.MAP_COLUMNS)
    first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
    linear_columns(x, quantized, rows, gate_map, gate, first, end, NO)
    linear_columns(x, quantized, rows, up_map, up, first, end, NO)
    add_lora(adapters, entry, 0, gate, columns, first, end)
    add_lora(adapters, entry + 1, 1, up, columns, first, end)
    gate_columns(activation, gate, up, rows, columns, first, end)


@kernel
def dense_gate(thread: int, table: int, layer: int, phase: int) -> None:
    """GATE = the norm of the residual stream, and the gated first half of the FFN."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.FFN_NORM)
    norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    quantized_map = quantized_map_of(get_int64(layer, layout.GATE_MAP),
                                     get_int64(layer, layout.UP_MAP))  # fmt: skip
    quantize_phase(table, quantized_map, phase_input(table, x, weight), rows,
                   phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    normed, adapters = 0, get_int64(table, layout.ADAPTERS)
    if adapters:
        normed = normed_rows(thread, table, x, rows, weight)
        layer_products(table, layer_entry(table, layer, GATE), _MAPS_OF_GATE, normed,
                       phase + layout.LORA_GATE_PHASE)  # fmt: skip
    phase += layout.GATE_PHASE
    counters, columns = counters_of(table, phase), get_int64(table, layout.FFN)
    tasks = num_tasks(table, columns // COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, table, x, rows, weight)
    quantized = quantized_rows(thread, table, quantized_map, normed, rows) if task < tasks else 0
    while task < tasks:
        gated_ffn(task, tasks, normed, quantized, rows, get_int64(layer, layout.GATE_MAP),
                  get_int64(layer, layout.UP_MAP), get_int64(table, layout.GATE),
                  get_int64(table, layout.UP), get_int64(table, layout.ACTIVATION), adapters,
                  layer_entry(table, layer, GATE))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def dense_down(thread: int, table: int, layer: int, phase: int) -> None:
    """The second half of a dense FFN, added to the residual stream."""
    x, entry = get_int64(table, layout.GATE), layer_entry(table, layer, DOWN)
    layer_products(table, entry, 1, x, phase + layout.LORA_DOWN_PHASE)
    add_to_residual(thread, table, get_int64(layer, layout.DOWN_MAP), x, entry,
                    get_int64(layer, layout.POST_FFN_NORM), phase + layout.DOWN_ROWS_PHASE,
                    phase + layout.DOWN_PHASE, phase + layout.FFN_SUM_PHASE)  # fmt: skip


# ---- sparse


@kernel
def route(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, then the experts of each row, then the rows of each expert."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight, experts = get_int64(layer, layout.FFN_NORM), get_int64(layer, layout.EXPERTS)
    norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    score = get_int64(experts, layout.SHARED_SCORE_MAP)
    quantized_map = get_int64(experts, layout.ROUTER_MAP)
    quantized_map = quantized_map_of(quantized_map, score) if score else quantized_map
    quantize_phase(table, quantized_map, phase_input(table, x, weight), rows,
                   phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    counters = counters_of(table, phase + layout.SCORE_PHASE)
    parts = num_tasks(table, get_int64(experts, layout.EXPERT_COUNT) // COLUMN_GRAIN + 1)
    task = take_task(counters)
    normed = normed_rows(thread, table, x, rows, weight) if task < parts else 0
    quantized = quantized_rows(thread, table, quantized_map, normed, rows) if task < parts else 0
    while task <= parts:  # one task more than there are parts of columns
        if task < parts:
            router_scores(task, parts, experts, normed, quantized, rows)
        elif not prepared_in_phase(table, rows):
            # The experts gather their rows from NORMED, also if each thread has normed them all.
            rms_norm(0, 1, x, rows, get_int64(table, layout.HIDDEN), weight,
                     get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.SCORE_PHASE, parts + 1)
    counters, tasks = counters_of(table, phase + layout.CHOOSE_PHASE), num_tasks(table, rows)
    task = take_task(counters)
    while task < tasks:
        choose_experts(task, tasks, experts, rows)
        task = next_task(counters)
    wait_for_phase(table, phase + layout.CHOOSE_PHASE, tasks)
    counters = counters_of(table, phase + layout.GROUP_PHASE)
    # One thread sorts, and the others wait: it is quicker than sharing so little work.
    if take_task(counters) == 0:
        group_rows(experts, rows)
        finish_task(counters)
    wait_for_phase(table, phase + layout.GROUP_PHASE, 1)


@kernel
def add_experts(thread: int, table: int, layer: int, phase: int) -> None:
    """Add the FFNs of all experts to the residual stream."""
    experts = get_int64(layer, layout.EXPERTS)
    hidden, gate = get_int64(table, layout.HIDDEN), get_int64(table, layout.GATE)
    scratch = scratch_of(thread, table)
    quantized = scratch + get_int64(table, layout.SCRATCH_QUANTIZED)
    counters = counters_of(table, phase + layout.GATE_PHASE)
    parts = num_tasks(table, get_int64(experts, layout.EXPERT_FFN) // COLUMN_GRAIN + 1)
    # Narrow experts have too few columns to share among many threads: their tasks are whole experts.
    groups = max(1, num_tasks(table, get_int64(experts, layout.ALL_EXPERTS)) // parts)
    task = take_task(counters)
    while task < parts * groups:
        experts_gate(task // groups, parts, task % groups, groups, experts,
                     get_int64(table, layout.NORMED), hidden, gate, get_int64(table, layout.UP),
                     get_int64(table, layout.ACTIVATION), scratch, quantized)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.GATE_PHASE, parts * groups)
    counters = counters_of(table, phase + layout.DOWN_PHASE)
    tasks = num_tasks(table, hidden // COLUMN_GRAIN + 1)
    task = take_task(counters)
    while task < tasks:
        experts_down(task, tasks, experts, hidden, gate, get_int64(table, layout.RESIDUAL),
                     scratch, quantized)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.DOWN_PHASE, tasks)
