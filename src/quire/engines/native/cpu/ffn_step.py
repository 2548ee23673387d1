"""The FFN half of a layer whose FFN is dense: gate and up, then down."""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import gated_ffn
from quire.engines.native.cpu.lora_step import layer_products
from quire.engines.native.cpu.phases import (
    DOWN,
    GATE,
    ONE,
    counters_of,
    entry_of,
    next_task,
    split,
    wait_for_phase,
)
from quire.engines.native.cpu.residual import add_map
from quire.engines.native.cpu.rows import (
    norm_phase,
    normed_rows,
    quantize_phase,
    quantized_of,
    whole_rows,
)
from quire.engines.native.cpu.simd import get_int64
from quire.engines.native.cpu.sync import take_task

_MAPS_OF_GATE = np.int64(2)  # gate and up


@kernel
def _gate(thread: int, table: int, layer: int, phase: int) -> None:
    """Norm, and the gated first half of the FFN."""
    x, rows = get_int64(table, layout.RESIDUAL), get_int64(table, layout.ROWS)
    weight = get_int64(layer, layout.FFN_NORM)
    norm_phase(table, x, rows, weight, phase + layout.FFN_NORM_PHASE)
    maps = quantized_of(get_int64(layer, layout.GATE_MAP), get_int64(layer, layout.UP_MAP))
    quantize_phase(table, maps, get_int64(table, layout.NORMED), rows,
                   phase + layout.GATE_ROWS_PHASE)  # fmt: skip
    normed, adapters = 0, get_int64(table, layout.ADAPTERS)
    if adapters:
        normed = normed_rows(thread, table, x, rows, weight)
        layer_products(table, entry_of(table, layer, GATE), _MAPS_OF_GATE, normed,
                       phase + layout.LORA_GATE_PHASE)  # fmt: skip
    phase += layout.GATE_PHASE
    counters, columns = counters_of(table, phase), get_int64(table, layout.FFN)
    tasks = split(table, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, table, x, rows, weight)
    whole = whole_rows(thread, table, maps, normed, rows) if task < tasks else 0
    while task < tasks:
        gated_ffn(task, tasks, normed, whole, rows, get_int64(layer, layout.GATE_MAP),
                  get_int64(layer, layout.UP_MAP), get_int64(table, layout.GATE),
                  get_int64(table, layout.UP), get_int64(table, layout.ACTIVATION), adapters,
                  entry_of(table, layer, GATE))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def ffn_half(thread: int, table: int, layer: int, phase: int) -> None:
    """The FFN, added to the residual stream; `phase` is the number of the layer's first phase."""
    _gate(thread, table, layer, phase)
    x, entry = get_int64(table, layout.GATE), entry_of(table, layer, DOWN)
    layer_products(table, entry, ONE, x, phase + layout.LORA_DOWN_PHASE)
    add_map(thread, table, get_int64(layer, layout.DOWN_MAP), x, entry,
            get_int64(layer, layout.POST_FFN_NORM), phase + layout.DOWN_ROWS_PHASE,
            phase + layout.DOWN_PHASE, phase + layout.FFN_SUM_PHASE)  # fmt: skip
