"""The phases around a linear map: its input is normed and quantised, its output is added up.

The norm of many rows is a phase, in which each thread does some. Of few rows, every thread computes
all norms for itself in its own scratch memory: that is quicker than waiting for each other at the
end of a phase. The same holds for rounding rows to int8, for maps whose weights are quantised.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.linear import linear, quantize_rows
from quire.engines.native.cpu.kernels.rowwise import add_rows, rms_norm, task_range
from quire.engines.native.cpu.kernels.simd import NO, YES, get_float32, get_int64
from quire.engines.native.cpu.program.lora import add_lora
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)


@kernel
def prepared_in_phase(table: int, rows: int) -> bool:
    """Whether there are so many rows that their norms, and their rounding, are phases."""
    return rows * get_int64(table, layout.THREADS) > layout.SCRATCH_ROWS


# ---- norms


@kernel
def norm_phase(table: int, x: int, rows: int, weight: int, phase: int) -> None:
    """NORMED = the norm of x, if there is a norm and it is a phase."""
    if not weight or not prepared_in_phase(table, rows):
        return
    counters, tasks = counters_of(table, phase), num_tasks(table, rows)
    task = take_task(counters)
    while task < tasks:
        rms_norm(task, tasks, x, rows, get_int64(table, layout.HIDDEN), weight,
                 get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def phase_input(table: int, x: int, weight: int) -> int:
    """The address at which `norm_phase` leaves its result: that of x if there is no norm."""
    return get_int64(table, layout.NORMED) if weight else x


@kernel
def normed_rows(thread: int, table: int, x: int, rows: int, weight: int) -> int:
    """The address of the norm of x: made by `norm_phase`, or made now in this thread's scratch.

    Without a norm (`weight` is 0) it is x itself.
    """
    if not weight or prepared_in_phase(table, rows):
        return phase_input(table, x, weight)
    own = scratch_of(thread, table)
    rms_norm(0, 1, x, rows, get_int64(table, layout.HIDDEN), weight,
             get_float32(table, 2 * layout.EPS), own)  # fmt: skip
    return own


# ---- quantised rows


@kernel
def _is_quantized(linear_map: int) -> bool:
    """Whether the weight of a map is quantised."""
    return get_int64(linear_map, layout.KIND) >= layout.INT8


@kernel
def quantized_map_of(first: int, second: int) -> int:
    """The one of two maps that is quantised, if one is.

    Maps with one input share its quantised rows, also where a checkpoint quantises only some.
    """
    return first if _is_quantized(first) else second


@kernel
def _quantize(linear_map: int, x: int, first: int, end: int, out: int) -> None:
    """Round the rows `first` to `end - 1` of x as a quantised map takes them."""
    quantize_rows(first, end, x, get_int64(linear_map, layout.MAP_DEPTH),
                  get_int64(linear_map, layout.QUANT_DEPTH), get_int64(linear_map, layout.SPAN),
                  out)  # fmt: skip


@kernel
def quantize_phase(table: int, linear_map: int, x: int, rows: int, phase: int) -> None:
    """QUANTIZED = the rows of x as int8, if the map takes them so and that is a phase.

    x is a map's input as the phases before have left it: see `phase_input`.
    """
    if not (_is_quantized(linear_map) and prepared_in_phase(table, rows)):
        return
    counters, tasks = counters_of(table, phase), num_tasks(table, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        _quantize(linear_map, x, first, end, get_int64(table, layout.QUANTIZED))
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def quantized_rows(thread: int, table: int, linear_map: int, x: int, rows: int) -> int:
    """The address of the rows of x as int8: made by `quantize_phase`, or made now if they are few.

    It is 0 for a map that takes floats.
    """
    if not _is_quantized(linear_map):
        return 0
    if prepared_in_phase(table, rows):
        return get_int64(table, layout.QUANTIZED)
    own = scratch_of(thread, table) + get_int64(table, layout.SCRATCH_QUANTIZED)
    _quantize(linear_map, x, 0, rows, own)
    return own


# ---- the residual stream


@kernel
def _add_normed(table: int, norm: int, phase: int) -> None:
    """Add NORMED to the residual stream, after its norm if there is one, and times the scale."""
    rows, hidden = get_int64(table, layout.ROWS), get_int64(table, layout.HIDDEN)
    x = get_int64(table, layout.NORMED)
    counters, tasks = counters_of(table, phase), num_tasks(table, rows)
    task = take_task(counters)
    while task < tasks:
        if norm:
            rms_norm(task, tasks, x, rows, hidden, norm, get_float32(table, 2 * layout.EPS), x)
        add_rows(task, tasks, x, rows, hidden, get_float32(table, 2 * layout.RESIDUAL_SCALE),
                 get_int64(table, layout.RESIDUAL))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def add_to_residual(
    thread: int, table: int, linear_map: int, x: int, entry: int, norm: int, rows_phase: int,
    phase: int, sum_phase: int,
) -> None:  # fmt: skip
    """Add a linear map of x to the residual stream: at once, or after a norm or a scale.

    `entry` is the map's entry in the tables of adapters; `norm` is 0 for no norm.
    """
    # NORMED is free for the output: when x is complete, nobody reads the norm there any more.
    apart = norm != 0 or get_float32(table, 2 * layout.RESIDUAL_SCALE) != 1
    out = get_int64(table, layout.NORMED if apart else layout.RESIDUAL)
    rows = get_int64(table, layout.ROWS)
    quantize_phase(table, linear_map, x, rows, rows_phase)
    counters, columns = counters_of(table, phase), get_int64(table, layout.HIDDEN)
    tasks = num_tasks(table, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    # A thread that finds no task left does not round the rows in vain.
    quantized = quantized_rows(thread, table, linear_map, x, rows) if task < tasks else 0
    while task < tasks:
        linear(task, tasks, x, quantized, rows, linear_map, out, NO if apart else YES)
        first, end = task_range(task, tasks, columns, layout.COLUMN_GRAIN)
        add_lora(get_int64(table, layout.ADAPTERS), entry, 0, out, columns, first, end)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)
    if apart:
        _add_normed(table, norm, sum_phase)
