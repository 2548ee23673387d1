"""How both halves of a layer end: a linear map, added to the residual stream."""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, YES, add_rows, linear, rms_norm, share
from quire.engines.native.cpu.lora import add_lora
from quire.engines.native.cpu.phases import counters_of, next_task, split, wait_for_phase
from quire.engines.native.cpu.rows import quantize_phase, whole_rows
from quire.engines.native.cpu.simd import get_float32, get_int64
from quire.engines.native.cpu.sync import take_task


@kernel
def _add_normed(table: int, norm: int, phase: int) -> None:
    """Add what is in NORMED to the residual stream: its norm, if there is one, times the scale."""
    rows, hidden = get_int64(table, layout.ROWS), get_int64(table, layout.HIDDEN)
    x = get_int64(table, layout.NORMED)
    counters, tasks = counters_of(table, phase), split(table, rows)
    task = take_task(counters)
    while task < tasks:
        if norm:
            rms_norm(task, tasks, x, rows, hidden, norm, get_float32(table, 2 * layout.EPS), x)
        add_rows(task, tasks, x, rows, hidden, get_float32(table, 2 * layout.RESIDUAL_SCALE),
                 get_int64(table, layout.RESIDUAL))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def add_map(
    thread: int, table: int, linear_map: int, x: int, entry: int, norm: int, rows_phase: int,
    phase: int, sum_phase: int,
) -> None:  # fmt: skip
    """Add a linear map of x to the residual stream: at once, or after a norm or a scale.

    `entry` is what adapters have for it.
    """
    # NORMED is free: what was normed there has been read when x is complete.
    apart = norm != 0 or get_float32(table, 2 * layout.RESIDUAL_SCALE) != 1
    out = get_int64(table, layout.NORMED if apart else layout.RESIDUAL)
    rows = get_int64(table, layout.ROWS)
    quantize_phase(table, linear_map, x, rows, rows_phase)
    counters, columns = counters_of(table, phase), get_int64(table, layout.HIDDEN)
    tasks = split(table, columns // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    whole = whole_rows(thread, table, linear_map, x, rows) if task < tasks else 0
    while task < tasks:
        linear(task, tasks, x, whole, rows, linear_map, out, NO if apart else YES)
        first, end = share(task, tasks, columns, layout.COLUMN_GRAIN)
        add_lora(get_int64(table, layout.ADAPTERS), entry, NO, out, columns, first, end)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)
    if apart:
        _add_normed(table, norm, sum_phase)
