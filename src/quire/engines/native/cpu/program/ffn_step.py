"""The FFN half of a layer: dense, or sparse with experts, and added to the residual stream."""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.activations import activate_columns, gate_columns
from quire.engines.native.cpu.kernels.arguments import Experts, LinearMap, Xielu
from quire.engines.native.cpu.kernels.experts import choose_experts, group_rows
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, SILU
from quire.engines.native.cpu.kernels.linear import linear_columns, quantized_map_of
from quire.engines.native.cpu.kernels.rowwise import (
    add_rows,
    clear_columns,
    norm_rows,
    scale_columns,
    task_range,
)
from quire.engines.native.cpu.kernels.simd import NO, get_int64
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import DenseFfn, LoraBatch, Output, Step
from quire.engines.native.cpu.program.expert_ffns import (
    experts_down,
    experts_gate,
    round_gated,
    router_scores,
)
from quire.engines.native.cpu.program.linear_phases import (
    add_normed,
    add_normed_rows,
    add_to_residual,
    input_phases,
    is_added_apart,
    map_columns,
    norm_phase,
    normed_rows,
    phase_input,
    prepared_in_phase,
    quantize_phase,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_lora
from quire.engines.native.cpu.program.phases import (
    counters_of,
    finish_task,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

# ---- dense


@kernel
def gated_ffn(
    task: int, tasks: int, x: int, quantized: int, rows: int, gate_map: LinearMap, up_map: LinearMap,
    gate: int, up: int, activation: int = SILU, adapters: LoraBatch | None = None, entry: int = 0,
    gate_scale: float = 1.0, up_scale: float = 1.0,
) -> None:  # fmt: skip
    """`gate = act(x @ gate_w.T + gate_b) * (x @ up_w.T + up_b)`; `up` is scratch of its shape.

    x, `quantized` and the maps as in `linear`; `activation` is one of `layout`'s. Adapters add to
    both products before the gate: `entry` is their entry for the gate, followed by that for `up`
    (see `add_lora`). Then both are multiplied by their scales. `reference.gated_ffn` is the same on
    arrays.
    """
    columns = gate_map.columns
    first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
    linear_columns(x, quantized, rows, gate_map, gate, first, end, NO)
    linear_columns(x, quantized, rows, up_map, up, first, end, NO)
    add_lora(adapters, entry, 0, gate, columns, first, end)
    add_lora(adapters, entry + 1, 1, up, columns, first, end)
    if gate_scale != 1:
        scale_columns(gate, 4 * columns, rows, first, end, gate_scale)
    if up_scale != 1:
        scale_columns(up, 4 * columns, rows, first, end, up_scale)
    gate_columns(activation, gate, up, rows, columns, first, end)


@kernel
def plain_ffn(
    task: int, tasks: int, x: int, quantized: int, rows: int, up_map: LinearMap, up: int,
    activation: int, xielu: Xielu | None, adapters: LoraBatch | None, entry: int,
) -> None:  # fmt: skip
    """`up = act(x @ up_w.T + up_b)`, with arguments as those of `gated_ffn`."""
    columns = up_map.columns
    first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
    linear_columns(x, quantized, rows, up_map, up, first, end, NO)
    add_lora(adapters, entry, 0, up, columns, first, end)
    activate_columns(activation, xielu, up, rows, columns, first, end)


def _make_dense(is_gated: bool) -> Any:
    """The operation of the first half of an FFN with a gate, or of one without."""
    maps = 2 if is_gated else 1

    @kernel
    def dense(thread: int, step: Step, own: DenseFfn, first_phase: int) -> None:
        """`step.gate` = the norm of the residual stream, and the first half of the FFN."""
        x, rows, adapters = step.residual, step.rows, step.adapters
        quantized_map = quantized_map_of(own.gate, own.up)
        normed = input_phases(
            thread, step, x, own.norm, quantized_map, own.entry, maps, first_phase
        )
        phase = first_phase + arguments.GATE_COLUMNS
        counters = counters_of(step, phase)
        tasks = num_tasks(step, own.gate.columns // COLUMN_GRAIN + 1)
        task = take_task(counters)
        if task < tasks and not normed:
            normed = normed_rows(thread, step, x, rows, own.norm)
        quantized = quantized_rows(thread, step, quantized_map, normed, rows) if task < tasks else 0
        while task < tasks:
            if is_gated:
                gated_ffn(task, tasks, normed, quantized, rows, own.gate, own.up, step.gate, step.up,
                          own.activation, adapters, own.entry, own.gate_scale, own.up_scale)  # fmt: skip
            else:
                plain_ffn(task, tasks, normed, quantized, rows, own.up, step.gate, own.activation,
                          own.xielu, adapters, own.entry)  # fmt: skip
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return dense


dense_gate, dense_up = _make_dense(True), _make_dense(False)


@kernel
def dense_down(thread: int, step: Step, own: DenseFfn, phase: int) -> None:
    """The second half of a dense FFN, added to the residual stream."""
    add_to_residual(thread, step, own.down, step.gate, phase)


@kernel
def dense_beside(thread: int, step: Step, own: DenseFfn, phase: int) -> None:
    """The second half of a dense FFN beside experts: `add_experts` adds both."""
    down = own.down
    map_columns(thread, step, down.linear, down.entry, step.gate, step.beside, NO, phase)


# ---- sparse


@kernel
def route(thread: int, step: Step, experts: Experts, phase: int) -> None:
    """Norm, then the experts of each row, then the rows of each expert."""
    x, rows, own_norm = step.residual, step.rows, experts.router_norm
    norm = own_norm if own_norm else experts.norm
    norm_phase(step, x, rows, norm, phase + arguments.ROUTE_NORM)
    quantized_map = experts.router
    if experts.shared_score:
        quantized_map = quantized_map_of(quantized_map, experts.shared_score)
    quantize_phase(step, quantized_map, phase_input(step, x, norm), rows,
                   phase + arguments.ROUTE_ROWS)  # fmt: skip
    counters = counters_of(step, phase + arguments.ROUTE_SCORES)
    parts = num_tasks(step, experts.count // COLUMN_GRAIN + 1)
    task = take_task(counters)
    normed = normed_rows(thread, step, x, rows, norm) if task < parts else 0
    quantized = quantized_rows(thread, step, quantized_map, normed, rows) if task < parts else 0
    while task <= parts:  # one task more than there are parts of columns
        if task < parts:
            router_scores(task, parts, thread, experts, normed, quantized, rows, step.adapters)
        elif norm and not own_norm and not prepared_in_phase(step, rows):
            # The experts gather their rows from `normed`, also if each thread has normed them all.
            norm_rows(0, 1, norm, x, rows, step.hidden, step.normed)
        task = next_task(counters)
    wait_for_phase(step, phase + arguments.ROUTE_SCORES, parts + 1)
    counters, tasks = counters_of(step, phase + arguments.ROUTE_CHOICE), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        choose_experts(task, tasks, experts, rows)
        if own_norm:  # the router has read its norm, and the experts read another
            norm_rows(task, tasks, experts.norm, x, rows, step.hidden, step.normed)
        task = next_task(counters)
    wait_for_phase(step, phase + arguments.ROUTE_CHOICE, tasks)
    counters = counters_of(step, phase + arguments.ROUTE_GROUPS)
    # One thread sorts, and the others wait: it is quicker than sharing so little work.
    if take_task(counters) == 0:
        group_rows(experts, rows)
        finish_task(counters)
    wait_for_phase(step, phase + arguments.ROUTE_GROUPS, 1)


@kernel
def _add_beside(step: Step, experts: Experts, phase: int) -> None:
    """Norm the outputs of the experts and of the dense FFN beside them, and add them."""
    rows, hidden, normed, beside = step.rows, step.hidden, step.normed, step.beside
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        norm_rows(task, tasks, experts.output_norm, normed, rows, hidden, normed)
        norm_rows(task, tasks, experts.dense_norm, beside, rows, hidden, beside)
        add_rows(task, tasks, beside, rows, hidden, 1.0, normed)
        add_normed_rows(task, tasks, step, experts.post_norm, experts.stream_scale)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def _rounded_gate(step: Step, experts: Experts, phase: int) -> int:
    """The address of the gated rows of all experts as `round_gated` leaves them; 0 for few rows."""
    if not prepared_in_phase(step, step.rows):
        return 0
    counters = counters_of(step, phase)
    tasks = num_tasks(step, get_int64(experts.starts, experts.all))
    task = take_task(counters)
    while task < tasks:
        round_gated(task, tasks, experts, step.gate, step.up)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
    return step.up


@kernel
def experts_in(thread: int, step: Step, experts: Experts, phase: int) -> None:
    """`step.latents` = what the chosen experts read."""
    x, latent_in = phase_input(step, step.residual, experts.norm), experts.latent_in
    if latent_in:
        map_columns(thread, step, latent_in, experts.latent_entry, x, step.latents, NO, phase)


@kernel
def experts_out(thread: int, step: Step, own: Output, phase: int) -> None:
    """Add the map of the sum of the chosen experts to the residual stream."""
    add_to_residual(thread, step, own, step.latents, phase)


@kernel
def add_experts(thread: int, step: Step, experts: Experts, phase: int) -> None:
    """Add the FFNs of all experts to the residual stream: at once, or after a norm or a scale.

    If the chosen experts read latents, only the shared one is added, and the others' sum is left there.
    """
    hidden, scratch = step.hidden, scratch_of(thread, step)
    x = phase_input(step, step.residual, experts.norm)
    latents = step.latents if experts.latent_in else x
    quantized = scratch + step.scratch_quantized
    # Many rows are rounded once for all experts and all tasks; few cost less than a phase. Latents are
    # another input than the shared expert's.
    rounded = 0
    if experts.input_map and not experts.latent_in and prepared_in_phase(step, step.rows):
        quantize_phase(step, experts.input_map, x, step.rows, phase + arguments.EXPERTS_ROWS)
        rounded = step.quantized
    counters = counters_of(step, phase + arguments.EXPERTS_GATE)
    parts = num_tasks(step, experts.ffn // COLUMN_GRAIN + 1)
    # Narrow experts have too few columns to share among many threads: their tasks are whole experts.
    groups = max(1, num_tasks(step, experts.all) // parts)
    task = take_task(counters)
    while task < parts * groups:
        experts_gate(task // groups, parts, task % groups, groups, thread, experts, latents, x, rounded,
                     hidden, step.gate, step.up, scratch, quantized, step.adapters)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, phase + arguments.EXPERTS_GATE, parts * groups)
    rounded = _rounded_gate(step, experts, phase + arguments.EXPERTS_GATED)
    apart = is_added_apart(step, experts.post_norm)
    # `normed` and `latents` are free for sums: every expert has read its rows.
    out = step.normed if apart else step.residual
    latents = step.latents if experts.latent_in else out
    counters = counters_of(step, phase + arguments.EXPERTS_DOWN)
    tasks = num_tasks(step, hidden // COLUMN_GRAIN + 1)
    task = take_task(counters)
    while task < tasks:
        if apart:
            first, end = task_range(task, tasks, hidden, COLUMN_GRAIN)
            clear_columns(out, step.rows, hidden, first, end)
        if experts.latent_in:
            first, end = task_range(task, tasks, experts.width, COLUMN_GRAIN)
            clear_columns(latents, step.rows, experts.width, first, end)
        experts_down(task, tasks, thread, experts, hidden, step.gate, rounded, latents, out, scratch,
                     quantized, step.adapters)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, phase + arguments.EXPERTS_DOWN, tasks)
    if experts.dense_norm:
        _add_beside(step, experts, phase + arguments.EXPERTS_SUM)
    elif apart:
        add_normed(step, experts.post_norm, experts.stream_scale, phase + arguments.EXPERTS_SUM)
