"""Several residual streams, of which each layer computes with one: AltUp. And LAuReL, beside attention.

`step.residual` is the active stream while a layer computes. All are in `step.streams`, one after the
other, as the layer predicts them.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.activations import gate_columns, soft_cap
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES
from quire.engines.native.cpu.kernels.linear import linear_columns
from quire.engines.native.cpu.kernels.rowwise import (
    add_rows,
    copy_row,
    multiply_columns,
    norm_row,
    norm_rows,
    scale_rows,
    task_range,
)
from quire.engines.native.cpu.kernels.simd import NO, get_float32
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import (
    AltUp,
    AltUpEnds,
    DenseFfn,
    Laurel,
    LayerGate,
    Step,
)
from quire.engines.native.cpu.program.linear_phases import (
    input_phases,
    map_columns,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_lora
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

LEAST_SQUARE = 1e-5  # of a stream that is made as large as the first one
HALF_ROOT = 0.7071067811865476  # 1 / sqrt(2)


@kernel
def _stream(step: Step, stream: int, row: int) -> int:
    """The address of a row of a stream."""
    return step.streams + 4 * (stream * step.rows + row) * step.hidden


@kernel
def _mean_square(x: int, size: int) -> float:
    total = simd.splat(0.0)
    for k in range(0, size, LANES):
        value = simd.load_part(x + 4 * k, min(LANES, size - k))
        total = simd.fma(value, value, total)
    return simd.sum_lanes(total) / float(size)


@kernel
def _add_scaled(x: int, scale: float, out: int, size: int) -> None:
    """`out += scale * x` for `size` floats."""
    factor = simd.splat(scale)
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        value = simd.fma(
            simd.load_part(x + 4 * k, count), factor, simd.load_part(out + 4 * k, count)
        )
        simd.store_part(out + 4 * k, value, count)


# ---- before the first layer, and after the last


@kernel
def _ratio(target: float, square: float) -> float:
    """What a row of this mean square is multiplied by, so that its root is that of `target`."""
    ratio = simd.divide(simd.splat(target), simd.splat(max(square, LEAST_SQUARE)))
    return simd.first_lane(simd.sqrt(ratio))


@kernel
def _project_streams(step: Step, own: AltUpEnds, x: int, stride: int, out: int, phase: int) -> None:
    """The phase of all maps: `out`, a stream after the other, from x, or from streams `stride` apart."""
    rows, hidden = step.rows, step.hidden
    size, parts = 4 * rows * hidden, num_tasks(step, hidden // COLUMN_GRAIN + 1)
    counters, tasks = counters_of(step, phase), (own.streams - 1) * parts
    task = take_task(counters)
    while task < tasks:
        index = task // parts
        first, end = task_range(task % parts, parts, hidden, COLUMN_GRAIN)
        linear_columns(x + index * stride, 0, rows, own.maps[index], out + index * size, first, end,
                       NO)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def altup_start(thread: int, step: Step, own: AltUpEnds, first_phase: int) -> None:
    """All streams: the embeddings, and maps of them that are made as large."""
    rows, hidden = step.rows, step.hidden
    _project_streams(step, own, step.residual, 0, _stream(step, 1, 0),
                     first_phase + arguments.ALTUP_MAPS)  # fmt: skip
    phase = first_phase + arguments.ALTUP_ROWS
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        for row in range(first, end):
            source = step.residual + 4 * row * hidden
            copy_row(source, _stream(step, 0, row), hidden)
            target = _mean_square(source, hidden)
            for stream in range(1, own.streams):
                made = _stream(step, stream, row)
                soft_cap(made, hidden, _ratio(target, _mean_square(made, hidden)), 0.0)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def altup_end(thread: int, step: Step, own: AltUpEnds, first_phase: int) -> None:
    """The residual stream = the mean of the first stream and of maps of the others, as large."""
    rows, hidden = step.rows, step.hidden
    size, made = 4 * rows * hidden, step.gate
    _project_streams(step, own, _stream(step, 1, 0), size, made, first_phase + arguments.ALTUP_MAPS)
    phase = first_phase + arguments.ALTUP_ROWS
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        for row in range(first, end):
            out = step.residual + 4 * row * hidden
            copy_row(_stream(step, 0, row), out, hidden)
            target = _mean_square(out, hidden)
            for index in range(own.streams - 1):
                x = made + index * size + 4 * row * hidden
                _add_scaled(x, _ratio(target, _mean_square(x, hidden)), out, hidden)
            soft_cap(out, hidden, 1.0 / float(own.streams), 0.0)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- around a layer


@kernel
def _route(step: Step, own: AltUp, x: int, scratch: int) -> None:
    """`scratch` = the numbers, one of each stream, that coefficients are made of, from a row x."""
    row = scratch + 4 * own.streams
    norm_row(own.router_norm, 0, x, row, step.hidden)
    linear_columns(row, 0, 1, own.router, scratch, 0, own.streams, NO)
    soft_cap(scratch, own.streams, 1.0, 1.0)


@kernel
def _predict_row(step: Step, own: AltUp, row: int, scratch: int) -> None:
    """Each stream = itself and the streams weighted by its coefficients; the active one is to be computed
    with."""
    count, hidden = own.streams, step.hidden
    _route(step, own, _stream(step, own.active, row), scratch)
    coefficients = scratch + 4 * count
    linear_columns(scratch, 0, 1, own.prediction, coefficients, 0, count * count, NO)
    made = coefficients + 4 * count * count
    for stream in range(count):
        out = made + 4 * stream * hidden
        copy_row(_stream(step, stream, row), out, hidden)
        for other in range(count):
            weight = get_float32(coefficients, stream * count + other)
            _add_scaled(_stream(step, other, row), weight, out, hidden)
    for stream in range(count):
        copy_row(made + 4 * stream * hidden, _stream(step, stream, row), hidden)
    copy_row(_stream(step, own.active, row), step.residual + 4 * row * hidden, hidden)


@kernel
def _correct_row(step: Step, own: AltUp, row: int, scratch: int) -> None:
    """Add to each stream its share of what the layer has made other than was predicted."""
    count, hidden, x = own.streams, step.hidden, step.residual + 4 * row * step.hidden
    _route(step, own, x, scratch)
    coefficients = scratch + 4 * count
    linear_columns(scratch, 0, 1, own.correction, coefficients, 0, count, NO)
    news, active = coefficients + 4 * count, _stream(step, own.active, row)
    copy_row(x, news, hidden)
    _add_scaled(active, -1.0, news, hidden)
    for stream in range(count):
        weight = get_float32(coefficients, stream) + 1.0
        _add_scaled(news, weight, _stream(step, stream, row), hidden)
    copy_row(active, x, hidden)
    if own.output_scale:
        multiply_columns(x, 0, own.output_scale, 0, 1, 0, hidden, x, 0)


def _make_altup(of_row: Any) -> Any:
    """The operation of `of_row(step, own, row, scratch)` for all rows."""

    @kernel
    def altup(thread: int, step: Step, own: AltUp, phase: int) -> None:
        counters, tasks = counters_of(step, phase), num_tasks(step, step.rows)
        task = take_task(counters)
        while task < tasks:
            first, end = task_range(task, tasks, step.rows, 1)
            for row in range(first, end):
                of_row(step, own, row, scratch_of(thread, step))
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return altup


altup_predict = _make_altup(_predict_row)
"""Predict all streams. The residual stream = the active one."""
altup_correct = _make_altup(_correct_row)
"""Correct all streams. The residual stream = the active one, scaled for `layer_gate`."""


@kernel
def altup_out(thread: int, step: Step, own: LayerGate, first_phase: int) -> None:
    """The map of the layer's inputs, added to all streams but the first."""
    rows, hidden, x = step.rows, step.hidden, step.normed
    map_columns(thread, step, own.out.linear, own.out.entry, step.gate, x, NO, first_phase)
    phase = first_phase + arguments.OUTPUT_SUM
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        norm_rows(task, tasks, own.out.post_norm, x, rows, hidden, x)
        for stream in range(1, own.streams):
            add_rows(task, tasks, x, rows, hidden, 1.0, _stream(step, stream, 0))
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- LAuReL


@kernel
def laurel(thread: int, step: Step, own: Laurel, first_phase: int) -> None:
    """Add to the residual stream the norm of what attention has read, and the map of it; then scale the sum."""
    rows, hidden, x, beside = step.rows, step.hidden, _stream(step, own.active, 0), step.beside
    normed = input_phases(thread, step, x, own.norm, own.left, own.entry, 1, first_phase)
    rank = own.left.columns
    phase = first_phase + arguments.LAUREL_COLUMNS
    counters, tasks = counters_of(step, phase), num_tasks(step, rank // COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, x, rows, own.norm)
    quantized = quantized_rows(thread, step, own.left, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, rank, COLUMN_GRAIN)
        linear_columns(normed, quantized, rows, own.left, step.gate, first, end, NO)
        add_lora(step.adapters, own.entry, 0, step.gate, rank, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
    phase = first_phase + arguments.LAUREL_RIGHT
    map_columns(thread, step, own.right.linear, own.right.entry, step.gate, beside, NO, phase)
    phase += arguments.OUTPUT_SUM
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        norm_rows(task, tasks, own.right.post_norm, beside, rows, hidden, beside)
        norm_rows(task, tasks, own.norm, x, rows, hidden, step.normed)
        add_rows(task, tasks, step.normed, rows, hidden, 1.0, beside)
        add_rows(task, tasks, beside, rows, hidden, 1.0, step.residual)
        scale_rows(task, tasks, step.residual, rows, hidden, HALF_ROOT)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- gates that are mostly 0


@kernel
def _cut_row(x: int, size: int, deviations: float) -> None:
    """`x = max(x - cutoff, 0)`; the cutoff is so many standard deviations above the mean."""
    total = simd.splat(0.0)
    for k in range(0, size, LANES):
        total = simd.add(total, simd.load_part(x + 4 * k, min(LANES, size - k)))
    mean = simd.sum_lanes(total) / float(size)
    center, squares = simd.splat(mean), simd.splat(0.0)
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        value = simd.subtract(simd.load_part(x + 4 * k, count), center)
        value = simd.keep_range(value, 0, count, 0.0)
        squares = simd.fma(value, value, squares)
    variance = simd.splat(simd.sum_lanes(squares) / float(size))
    cutoff = simd.fma(simd.sqrt(variance), simd.splat(deviations), center)
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        value = simd.subtract(simd.load_part(x + 4 * k, count), cutoff)
        simd.store_part(x + 4 * k, simd.maximum(value, simd.splat(0.0)), count)


@kernel
def cut_gate(thread: int, step: Step, own: DenseFfn, phase: int) -> None:
    """`step.gate` = the activation of the gate values above a row's cutoff, times `step.up`."""
    rows, columns = step.rows, own.gate.columns
    counters, tasks = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, rows, 1)
        for row in range(first, end):
            offset = 4 * row * columns
            _cut_row(step.gate + offset, columns, own.cutoff)
            gate_columns(own.cut_activation, step.gate + offset, step.up + offset, 1, columns, 0,
                         columns)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
