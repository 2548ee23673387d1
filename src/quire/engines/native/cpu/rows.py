"""Rows as a linear map takes them: normed, and in whole numbers where its weights are.

Either is a phase, or, of few rows, is done by each thread for itself.
"""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, rms_norm, share
from quire.engines.native.cpu.phases import (
    ONE,
    counters_of,
    next_task,
    scratch_of,
    split,
    wait_for_phase,
)
from quire.engines.native.cpu.quantized import quantize_rows
from quire.engines.native.cpu.simd import get_float32, get_int64
from quire.engines.native.cpu.sync import take_task

# ---- norms: in a phase of their own, or, of few rows, by each thread for itself


@kernel
def norms_apart(table: int, rows: int) -> bool:
    """Whether there are so many rows that norms are a phase."""
    return rows * get_int64(table, layout.THREADS) > layout.OWN_ROWS


@kernel
def norm_phase(table: int, x: int, rows: int, weight: int, phase: int) -> None:
    """NORMED = the norm of x, where there is one and it is a phase."""
    if not weight or not norms_apart(table, rows):
        return
    counters, tasks = counters_of(table, phase), split(table, rows)
    task = take_task(counters)
    while task < tasks:
        rms_norm(task, tasks, x, rows, get_int64(table, layout.HIDDEN), weight,
                 get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def normed_rows(thread: int, table: int, x: int, rows: int, weight: int) -> int:
    """Where the norm of x is: made by `norm_phase`, or made now in this thread's scratch.

    Without a norm (`weight` is 0) it is x itself.
    """
    if not weight:
        return x
    if norms_apart(table, rows):
        return get_int64(table, layout.NORMED)
    own = scratch_of(thread, table)
    rms_norm(NO, ONE, x, rows, get_int64(table, layout.HIDDEN), weight,
             get_float32(table, 2 * layout.EPS), own)  # fmt: skip
    return own


# ---- rows in whole numbers, for maps whose weights are: as norms, in a phase or by each thread


@kernel
def _is_quantized(linear_map: int) -> bool:
    return get_int64(linear_map, layout.KIND) >= layout.INT8


@kernel
def _quantize(linear_map: int, x: int, first: int, end: int, out: int) -> None:
    """The rows `first` to `end - 1` of x as a quantised map takes them."""
    quantize_rows(first, end, x, get_int64(linear_map, layout.MAP_DEPTH),
                  get_int64(linear_map, layout.QUANT_DEPTH), get_int64(linear_map, layout.SPAN),
                  out)  # fmt: skip


@kernel
def quantize_phase(table: int, linear_map: int, x: int, rows: int, phase: int) -> None:
    """QUANTIZED = the rows of x, where the map wants them so and that is a phase."""
    if not (_is_quantized(linear_map) and norms_apart(table, rows)):
        return
    counters, tasks = counters_of(table, phase), split(table, rows)
    task = take_task(counters)
    while task < tasks:
        first, end = share(task, tasks, rows, ONE)
        _quantize(linear_map, x, first, end, get_int64(table, layout.QUANTIZED))
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def whole_rows(thread: int, table: int, linear_map: int, x: int, rows: int) -> int:
    """Where the rows of x are in whole numbers, made now if they are few; 0 where not wanted."""
    if not _is_quantized(linear_map):
        return 0
    if norms_apart(table, rows):
        return get_int64(table, layout.QUANTIZED)
    own = scratch_of(thread, table) + get_int64(table, layout.OWN_QUANTIZED)
    _quantize(linear_map, x, NO, rows, own)
    return own


@kernel
def quantized_of(first: int, second: int) -> int:
    """That of two maps which is quantised, if one is."""
    return first if _is_quantized(first) else second
