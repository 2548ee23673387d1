"""What layers get of each token besides the residual stream: made at the start, used after each FFN."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import INT, NOTHING, calling, kernel, pointer_to
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.activations import gate_columns, soft_cap
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES, LINE
from quire.engines.native.cpu.kernels.linear import linear_columns
from quire.engines.native.cpu.kernels.rowwise import norm_row, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_int32, put_int32
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import LayerGate, LayerInputs, Step
from quire.engines.native.cpu.program.linear_phases import (
    add_to_residual,
    quantize_phase,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_lora, layer_products
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

_read_rows = calling(NOTHING, INT, INT, pointer_to(LinearMap), INT, INT, INT)


@kernel
def _add_embedding(own: LayerInputs, token: int, layer: int, scratch: int, out: int) -> None:
    """`out` = the scaled sum of itself and a layer's part of a token's row."""
    # Tokens after those of the table have the row of the first one.
    row = (token if token < own.vocabulary else 0) * own.layers + layer
    table, source = own.table, row * own.layer_size
    if table == 0:
        table, source = scratch + LINE, 0
        put_int32(scratch, 0, row)
        _read_rows(own.reader, 0, 1, own.packed, scratch, 1, table)
    table_scale, sum_scale = simd.splat(own.table_scale), simd.splat(own.sum_scale)
    for k in range(0, own.layer_size, LANES):
        count = min(LANES, own.layer_size - k)
        if own.is_bfloat16:
            value = simd.load_bfloat16_part(table + 2 * (source + k), count)
        else:
            value = simd.load_part(table + 4 * (source + k), count)
        value = simd.add(simd.load_part(out + 4 * k, count), simd.multiply(value, table_scale))
        simd.store_part(out + 4 * k, simd.multiply(value, sum_scale), count)


@kernel
def _finish_inputs(step: Step, own: LayerInputs, scratch: int, first: int, end: int) -> None:
    """Norm what the map has made for the layers `first` to `end - 1`, and add the embeddings."""
    size, width = own.layer_size, own.layers * own.layer_size
    for row in range(step.rows):
        token = get_int32(step.token_ids, row)
        for layer in range(first, end):
            address = step.layer_inputs + 4 * (row * width + layer * size)
            soft_cap(address, size, own.scale, 0.0)
            norm_row(own.norm, 0, address, address, size)
            _add_embedding(own, token, layer, scratch, address)


@kernel
def layer_inputs(thread: int, step: Step, own: LayerInputs, first_phase: int) -> None:
    """`step.layer_inputs` = what the layers get of each token, from its embeddings."""
    x, rows, size = step.residual, step.rows, own.layer_size
    quantize_phase(step, own.linear, x, rows, first_phase + arguments.INPUTS_ROWS)
    layer_products(step, own.entry, 1, x, first_phase + arguments.INPUTS_LORA)
    phase, out, columns = (
        first_phase + arguments.INPUTS_LAYERS,
        step.layer_inputs,
        own.layers * size,
    )
    # Whole layers are the units, since each has a norm of its own.
    counters, tasks = counters_of(step, phase), num_tasks(step, own.layers)
    task = take_task(counters)
    quantized = quantized_rows(thread, step, own.linear, x, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, own.layers, 1)
        linear_columns(x, quantized, rows, own.linear, out, first * size, end * size, NO)
        add_lora(step.adapters, own.entry, 0, out, columns, first * size, end * size)
        _finish_inputs(step, own, scratch_of(thread, step), first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def layer_gate(thread: int, step: Step, own: LayerGate, first_phase: int) -> None:
    """`step.gate` = the activation of a gate of the residual stream, times the layer's inputs."""
    x, rows, out, columns = step.residual, step.rows, step.gate, own.gate.columns
    quantize_phase(step, own.gate, x, rows, first_phase + arguments.LAYER_GATE_ROWS)
    layer_products(step, own.entry, 1, x, first_phase + arguments.LAYER_GATE_LORA)
    phase = first_phase + arguments.LAYER_GATE_COLUMNS
    counters, tasks = counters_of(step, phase), num_tasks(step, columns // COLUMN_GRAIN + 1)
    task = take_task(counters)
    quantized = quantized_rows(thread, step, own.gate, x, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
        linear_columns(x, quantized, rows, own.gate, out, first, end, NO)
        add_lora(step.adapters, own.entry, 0, out, columns, first, end)
        for row in range(rows):
            inputs = step.layer_inputs + 4 * (row * own.width + own.first)
            gate_columns(own.activation, out + 4 * row * columns, inputs, 1, columns, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def layer_out(thread: int, step: Step, own: LayerGate, phase: int) -> None:
    """The map of that, added to the residual stream."""
    add_to_residual(thread, step, own.out, step.gate, phase)
