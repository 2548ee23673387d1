"""What the phases of a step share: their counters, how they are split, where scratch is.

A phase reads the same everywhere: take a task; while it is one of the phase's, do it and take the
next; wait. The loop is written out each time: a kernel that is given what to do would be compiled
anew for each phase, which takes Numba a fifth of a second.
"""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import YES
from quire.engines.native.cpu.simd import get_int64, put_int64
from quire.engines.native.cpu.sync import cycle_count, finish_task, take_task, wait_for_tasks

WORD = 8  # bytes
ONE = YES  # typed, see kernels
Q, K, V, OUTPUT, GATE, UP, DOWN = map(np.int64, range(len(layout.LINEARS)))  # see `entry_of`


@kernel
def split(table: int, units: int) -> int:
    """Into how many tasks to split so many columns, heads or rows."""
    threads = get_int64(table, layout.THREADS)
    return 1 if threads == 1 else min(units, threads * layout.TASKS_PER_THREAD)


@kernel
def counters_of(table: int, phase: int) -> int:
    """The address of the counters of a phase: see `sync`."""
    return get_int64(table, layout.COUNTERS) + phase * layout.PHASE_BYTES


@kernel
def next_task(counters: int) -> int:
    """Say that a task is done, and take another."""
    finish_task(counters)
    return take_task(counters)


@kernel
def wait_for_phase(table: int, phase: int, tasks: int) -> None:
    """Wait until all tasks of a phase are done, by whichever thread."""
    wait_for_tasks(counters_of(table, phase), tasks)
    times = get_int64(table, layout.TIMES)
    if times:
        put_int64(times, phase, cycle_count())


@kernel
def scratch_of(thread: int, table: int) -> int:
    """The address of the memory that one thread has for itself."""
    return get_int64(table, layout.SCRATCH) + thread * get_int64(table, layout.SCRATCH_BYTES)


@kernel
def entry_of(table: int, layer: int, linear: int) -> int:
    """The number of the entry that adapters have for one of a layer's LINEARS."""
    layers = get_int64(table, layout.LAYER_TABLE)
    number = (layer - layers) // (WORD * layout.LAYER_WORDS)
    return layout.FIRST_LAYER_ENTRY + number * layout.LORA_MAPS + linear
