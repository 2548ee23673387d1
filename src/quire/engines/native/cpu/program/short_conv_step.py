"""LFM2's short convolution, a layer's half in place of attention."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN
from quire.engines.native.cpu.kernels.rowwise import multiply_columns, task_range
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import ShortConv, Step
from quire.engines.native.cpu.program.linear_phases import (
    input_phases,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.mixer_phases import convolve, input_columns
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    take_task,
    wait_for_phase,
)


@kernel
def _mix_channels(
    step: Step, own: ShortConv, normed: int, quantized: int, first: int, end: int
) -> None:
    """`c * conv(b * x)` of some channels, for all rows."""
    channels, rows = own.conv.channels, step.rows
    for part in range(3):
        start = part * channels
        input_columns(step, own.input, normed, quantized, start + first, start + end)
    b, stride = step.gate, 12 * channels
    c, x = b + 4 * channels, b + 8 * channels
    multiply_columns(b, stride, x, stride, rows, first, end, b, stride)
    convolve(step, own.conv, b, stride, first, end)
    multiply_columns(b, stride, c, stride, rows, first, end, step.attention_out, 4 * channels)


@kernel
def short_conv(thread: int, step: Step, own: ShortConv, first_phase: int) -> None:
    """Norm, the input map, and its convolution between two gates, in `step.attention_out`.

    The task that computes channels also convolves them, while they are in the cache.
    """
    source = own.input
    normed = input_phases(thread, step, step.residual, source.norm, source.linear, source.entry, 1,
                          first_phase)  # fmt: skip
    phase = first_phase + arguments.SHORT_CONV_CHANNELS
    rows, channels = step.rows, own.conv.channels
    counters, tasks = counters_of(step, phase), num_tasks(step, channels // COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, step.residual, rows, own.input.norm)
    linear_map = own.input.linear
    quantized = quantized_rows(thread, step, linear_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, channels, COLUMN_GRAIN)
        _mix_channels(step, own, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
