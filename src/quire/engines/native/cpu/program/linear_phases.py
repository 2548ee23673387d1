"""The phases around a linear map: its input is normed and quantised, its output is added up.

The norm of many rows is a phase, in which each thread does some. Of few rows, every thread computes
all norms for itself in its own scratch memory: that is quicker than waiting for each other at the
end of a phase. The same holds for rounding rows to int8, for maps whose weights are quantised.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel, outlined
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap, Norm
from quire.engines.native.cpu.kernels.linear import is_quantized, linear, quantize_for
from quire.engines.native.cpu.kernels.rowwise import add_rows, norm_rows, scale_rows, task_range
from quire.engines.native.cpu.kernels.simd import NO, YES
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import Output, Step
from quire.engines.native.cpu.program.lora import add_lora, layer_products
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)


@kernel
def prepared_in_phase(step: Step, rows: int) -> bool:
    """Whether there are so many rows that their norms, and their rounding, are phases."""
    return rows * step.threads > layout.SCRATCH_ROWS


# ---- norms


@outlined
def norm_phase(step: Step, x: int, rows: int, norm: Norm | None, phase: int) -> None:
    """`step.normed` = the norm of x, if there is a norm and it is a phase."""
    if not norm or not prepared_in_phase(step, rows):
        return
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        norm_rows(task, tasks, norm, x, rows, step.hidden, step.normed)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def phase_input(step: Step, x: int, norm: Norm | None) -> int:
    """The address at which `norm_phase` leaves its result: that of x if there is no norm."""
    return step.normed if norm else x


@outlined
def normed_rows(thread: int, step: Step, x: int, rows: int, norm: Norm | None) -> int:
    """The address of the norm of x: made by `norm_phase`, or made now in this thread's scratch.

    Without a norm it is x itself.
    """
    if not norm or prepared_in_phase(step, rows):
        return phase_input(step, x, norm)
    own = scratch_of(thread, step)
    norm_rows(0, 1, norm, x, rows, step.hidden, own)
    return own


# ---- quantised rows


@outlined
def quantize_phase(step: Step, linear_map: LinearMap, x: int, rows: int, phase: int) -> None:
    """`step.quantized` = the rows of x as int8, if the map takes them so and that is a phase.

    x is a map's input as the phases before have left it: see `phase_input`.
    """
    if not (is_quantized(linear_map) and prepared_in_phase(step, rows)):
        return
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        quantize_for(linear_map, x, first, end, step.quantized)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@outlined
def quantized_rows(thread: int, step: Step, linear_map: LinearMap, x: int, rows: int) -> int:
    """The address of the rows of x as int8: made by `quantize_phase`, or made now if they are few.

    It is 0 for a map that takes floats.
    """
    if not is_quantized(linear_map):
        return 0
    if prepared_in_phase(step, rows):
        return step.quantized
    own = scratch_of(thread, step) + step.scratch_quantized
    quantize_for(linear_map, x, 0, rows, own)
    return own


@kernel
def input_phases(
    thread: int, step: Step, x: int, norm: Norm | None, linear_map: LinearMap, entry: int, maps: int,
    first_phase: int,
) -> int:  # fmt: skip
    """The phases before the columns of `maps` linear maps of x: the norm, rounded rows for the map that is
    quantised, if one is, and adapters' small products, from their entry `entry` on.

    Adapters read the norm in a phase of their own, so that it is made for them: then its address is
    returned. Else it is 0, and a thread norms few rows when it finds a task, and not in vain.
    """
    rows = step.rows
    norm_phase(step, x, rows, norm, first_phase + arguments.INPUT_NORM)
    quantize_phase(step, linear_map, phase_input(step, x, norm), rows,
                   first_phase + arguments.INPUT_ROWS)  # fmt: skip
    normed = 0
    if step.adapters:
        normed = normed_rows(thread, step, x, rows, norm)
        layer_products(step, entry, maps, normed, first_phase + arguments.INPUT_LORA)
    return normed


@kernel
def map_columns(
    thread: int, step: Step, linear_map: LinearMap, entry: int, x: int, out: int, adds: int,
    first_phase: int,
) -> None:  # fmt: skip
    """`out` = a linear map of x, or `out` += that if it `adds`; `entry` is that of adapters."""
    layer_products(step, entry, 1, x, first_phase + arguments.MAP_LORA)
    rows, columns = step.rows, linear_map.columns
    quantize_phase(step, linear_map, x, rows, first_phase + arguments.MAP_ROWS)
    phase = first_phase + arguments.MAP_COLUMNS
    counters, tasks = counters_of(step, phase), num_tasks(step, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    # A thread that finds no task left does not round the rows in vain.
    quantized = quantized_rows(thread, step, linear_map, x, rows) if task < tasks else 0
    while task < tasks:
        linear(task, tasks, x, quantized, rows, linear_map, out, adds)
        first, end = task_range(task, tasks, columns, layout.COLUMN_GRAIN)
        add_lora(step.adapters, entry, 0, out, columns, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- the residual stream


@kernel
def is_added_apart(step: Step, post_norm: Norm | None) -> bool:
    """Whether outputs get a norm or a scale before they are added to the residual stream."""
    return True if post_norm else step.residual_scale != 1


@kernel
def add_normed_rows(
    task: int, tasks: int, step: Step, norm: Norm | None, stream_scale: float
) -> None:
    """Add a task's rows of `step.normed` to the residual stream, after their norm if there is one, and
    times the scale. Then the stream is multiplied by `stream_scale`.
    """
    rows, hidden, x = step.rows, step.hidden, step.normed
    if norm:
        norm_rows(task, tasks, norm, x, rows, hidden, x)
    add_rows(task, tasks, x, rows, hidden, step.residual_scale, step.residual)
    if stream_scale != 1:
        scale_rows(task, tasks, step.residual, rows, hidden, stream_scale)


@kernel
def add_normed(step: Step, norm: Norm | None, stream_scale: float, phase: int) -> None:
    """`add_normed_rows` of all rows."""
    counters, tasks = counters_of(step, phase), num_tasks(step, step.rows)
    task = take_task(counters)
    while task < tasks:
        add_normed_rows(task, tasks, step, norm, stream_scale)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def add_to_residual(thread: int, step: Step, output: Output, x: int, first_phase: int) -> None:
    """Add a linear map of x to the residual stream: at once, or after a norm or a scale."""
    linear_map, entry = output.linear, output.entry
    if not is_added_apart(step, output.post_norm):
        map_columns(thread, step, linear_map, entry, x, step.residual, YES, first_phase)
        return
    # `normed` is free for the output: when x is complete, nobody reads the norm there any more.
    map_columns(thread, step, linear_map, entry, x, step.normed, NO, first_phase)
    add_normed(step, output.post_norm, output.stream_scale, first_phase + arguments.OUTPUT_SUM)
