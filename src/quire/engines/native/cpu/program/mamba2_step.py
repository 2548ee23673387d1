"""Mamba-2, a layer's half in place of attention: its input map and convolution, its scan, its gate."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN
from quire.engines.native.cpu.kernels.mamba2 import gated_norm, selective_scan
from quire.engines.native.cpu.kernels.rowwise import multiply_columns, task_range
from quire.engines.native.cpu.kernels.simd import get_float32, get_int32
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import Mamba2, Output, Step
from quire.engines.native.cpu.program.linear_phases import (
    add_to_residual,
    input_phases,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.mixer_phases import (
    begins,
    convolve,
    input_columns,
    saves_of,
    sequence_rows,
)
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    take_task,
    wait_for_phase,
)


@kernel
def _project_columns(
    step: Step, own: Mamba2, normed: int, quantized: int, first: int, end: int
) -> None:
    """Some columns of z, x, b, c and dt, of which x, b and c go through the convolution."""
    stride, inner = 4 * own.input.linear.columns, own.heads * own.head_dim
    input_columns(step, own.input, normed, quantized, first, end)
    if own.multipliers:
        multiply_columns(step.gate, stride, own.multipliers, 0, step.rows, first, end, step.gate,
                         stride)  # fmt: skip
    low, high = max(first - inner, 0), min(end - inner, own.conv.channels)
    if low < high:
        convolve(step, own.conv, step.gate + 4 * inner, stride, low, high)


@kernel
def _project(thread: int, step: Step, own: Mamba2, first_phase: int) -> None:
    """Norm, the input map and the convolution. The task that computes columns also convolves them."""
    source = own.input
    normed = input_phases(thread, step, step.residual, source.norm, source.linear, source.entry, 1,
                          first_phase)  # fmt: skip
    phase = first_phase + arguments.MAMBA2_COLUMNS
    rows, linear_map = step.rows, own.input.linear
    counters = counters_of(step, phase)
    tasks = num_tasks(step, linear_map.columns // COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, step.residual, rows, own.input.norm)
    quantized = quantized_rows(thread, step, linear_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, linear_map.columns, COLUMN_GRAIN)
        _project_columns(step, own, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def _out_of(step: Step, own: Mamba2) -> int:
    """Where what is read of the states goes: (rows, heads * head_dim)."""
    return step.up if own.is_beside_attention else step.attention_out


@kernel
def _scan_head(step: Step, own: Mamba2, sequence: int, head: int) -> None:
    """All rows of one sequence, of one head."""
    row, rows = sequence_rows(step, sequence)
    head_dim, size, inner = own.head_dim, own.state_size, own.heads * own.head_dim
    stride = 4 * own.input.linear.columns
    x = step.gate + row * stride + 4 * inner
    b, shared = x + 4 * inner, 4 * own.groups * size
    group = 4 * (head * own.groups // own.heads * size)
    dt = b + 2 * shared + 4 * head
    states, out = own.states + 4 * head * head_dim * size, _out_of(step, own)
    selective_scan(x + 4 * head * head_dim, b + group, b + shared + group, dt, stride, rows,
                   head_dim, size, get_float32(own.a, head), get_float32(own.d, head),
                   get_float32(own.dt_bias, head), own.least_step, own.largest_step, states,
                   step.state_stride, get_int32(step.state_slots, sequence), saves_of(step, row),
                   begins(step, row), out + 4 * (row * inner + head * head_dim),
                   4 * inner)  # fmt: skip


@kernel
def mamba2(thread: int, step: Step, own: Mamba2, first_phase: int) -> None:
    """Norm, input map, convolution, scan and gate of a layer; its output map reads `_out_of`."""
    _project(thread, step, own, first_phase)
    counters = counters_of(step, first_phase + arguments.MAMBA2_SCAN)
    tasks = step.sequences * own.heads
    task = take_task(counters)
    while task < tasks:
        _scan_head(step, own, task // own.heads, task % own.heads)
        task = next_task(counters)
    wait_for_phase(step, first_phase + arguments.MAMBA2_SCAN, tasks)
    counters = counters_of(step, first_phase + arguments.MAMBA2_GATE)
    tasks = num_tasks(step, step.rows)
    task = take_task(counters)
    while task < tasks:
        gated_norm(task, tasks, _out_of(step, own), step.gate, 4 * own.input.linear.columns, step.rows,
                   own.heads * own.head_dim, own.norm_groups, own.gate_norm, own.eps,
                   own.gates_last, own.out_scale)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, first_phase + arguments.MAMBA2_GATE, tasks)


@kernel
def mamba2_output(thread: int, step: Step, own: Output, phase: int) -> None:
    """The output map beside that of attention, added to the residual stream."""
    add_to_residual(thread, step, own, step.up, phase)
