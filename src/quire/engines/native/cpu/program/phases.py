"""How the threads of a step share its work inside compiled code, without the interpreter.

A step is a row of phases, and a phase is a number of tasks. Threads take the tasks of a phase one
after another, from a counter in shared memory. A phase is over when its tasks are done, not when all
threads have come: a thread that is off its CPU holds up the others only if it is in the middle of a
task. A barrier of all threads would wait for it in every phase.

Each phase reads the same: take a task; while it is one of the phase's, do it and take the next; wait.
The loop is written out each time: the language has no kernels as arguments.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import INT, NOTHING, kernel, outlined, primitive
from quire.engines.native.cpu.compiler.targets import current
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.builders import (
    INT32,
    INT64,
    build_pointer,
    call,
)
from quire.engines.native.cpu.kernels.layout import ASLEEP, DONE, INSIDE, LINE, OPEN
from quire.engines.native.cpu.kernels.simd import put_int64
from quire.engines.native.cpu.program.arguments import Step

SPINS_BEFORE_YIELD = 2000
SPINS_BEFORE_SLEEP = 5000  # 50 to 200 microseconds

# The instruction by which a waiting loop leaves the core to its other hardware thread.
_PAUSES: dict[str, tuple[str, list[ir.Constant]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [INT32(1)]),
    "arm64": ("llvm.aarch64.hint", [INT32(1)]),
}


@primitive(INT, INT, INT)
def atomic_add(builder: ir.IRBuilder, address: Any, amount: Any) -> Any:
    """Add to an int64, and return its value before."""
    pointer = build_pointer(builder, address, INT64)
    return builder.atomic_rmw("add", pointer, amount, "seq_cst")


@primitive(INT, INT)
def atomic_load(builder: ir.IRBuilder, address: Any) -> Any:
    """Read an int64; what its writer wrote before it can then be read too."""
    return builder.load_atomic(build_pointer(builder, address, INT64), "seq_cst", 8)


@primitive(NOTHING, INT, INT)
def atomic_store(builder: ir.IRBuilder, address: Any, value: Any) -> Any:
    """Write an int64, after everything that this thread wrote before."""
    builder.store_atomic(value, build_pointer(builder, address, INT64), "release", 8)


@primitive(NOTHING)
def pause(builder: ir.IRBuilder) -> Any:
    """Tell the CPU that this thread is spinning."""
    known = _PAUSES.get(current().architecture)
    if known is not None:
        call(builder, known[0], ir.VoidType(), known[1])


@primitive(NOTHING)
def yield_cpu(builder: ir.IRBuilder) -> Any:
    """Let another thread have this CPU, by what the C library of the system has for it."""
    is_windows = "windows" in current().triple
    call(builder, "SwitchToThread" if is_windows else "sched_yield", INT32, [])


@primitive(INT)
def cycle_count(builder: ir.IRBuilder) -> Any:
    """The CPU's clock, in its own ticks."""
    return call(builder, "llvm.readcyclecounter", INT64, [])


# ---- the tasks of a phase


@kernel
def counters_of(step: Step, phase: int) -> int:
    """The address of a phase's two counters: tasks taken and, at DONE, tasks finished."""
    return step.counters + phase * layout.PHASE_BYTES


@kernel
def num_tasks(step: Step, units: int) -> int:
    """The number of tasks for so many units of work: columns, heads or rows."""
    threads = step.threads
    return 1 if threads == 1 else min(units, threads * layout.TASKS_PER_THREAD)


@kernel
def take_task(counters: int) -> int:
    """The index of a task that no thread has yet; the phase has no more if it is too high."""
    return atomic_add(counters, 1)


@kernel
def finish_task(counters: int) -> None:
    """Mark a task as done: whoever waits for the phase then sees what the task wrote."""
    atomic_add(counters + DONE, 1)


@kernel
def next_task(counters: int) -> int:
    """Finish a task, and take another."""
    finish_task(counters)
    return take_task(counters)


@kernel
def wait_for_tasks(counters: int, tasks: int) -> None:
    """Wait until all tasks of a phase are done, by whichever threads.

    Phases are microseconds apart, far less than it takes to wake a thread, so this one spins. Now
    and then it yields its CPU: there may be more threads than CPUs, and the one with the last task
    may be waiting for this very CPU.
    """
    spins = 0
    while atomic_load(counters + DONE) < tasks:
        spins += 1
        if spins % SPINS_BEFORE_YIELD == 0:
            yield_cpu()
        else:
            pause()


@outlined
def wait_for_phase(step: Step, phase: int, tasks: int) -> None:
    """Wait until all tasks of a phase are done, and note the time if the step is profiled."""
    wait_for_tasks(counters_of(step, phase), tasks)
    times = step.phase_times
    if times:
        put_int64(times, phase, cycle_count())


@kernel
def scratch_of(thread: int, step: Step) -> int:
    """The address of the memory that one thread has for itself."""
    return step.scratch + thread * step.scratch_bytes


# ---- entering and leaving a step


@kernel
def enter(sync: int) -> bool:
    """Join the step that is running, if there is one; a thread that joined must `leave`.

    The thread counts itself in before it looks whether the step is open. In the other order the
    caller could close the step in between, find nobody inside, and change the tables under the
    thread's feet. A thread that wakes too late finds the step closed, or helps with the next one.
    """
    atomic_add(sync + INSIDE, 1)
    if atomic_load(sync + OPEN) != 0:
        return True
    atomic_add(sync + INSIDE, -1)
    return False


@kernel
def current_step(sync: int, otherwise: int) -> int:
    """The number of the step that a thread is inside of; `otherwise` if it was closed meanwhile."""
    number = atomic_load(sync + OPEN)
    return number if number != 0 else otherwise


@kernel
def wait_for_step(sync: int, thread: int, done: int) -> bool:
    """Wait a while for another step than the one `done`. False: the thread should go to sleep.

    Between two steps of a few sequences, Python takes some hundred microseconds. To wake a thread
    takes about as long, so spinning that long is worth it. The thread that opens a step wakes those
    whose word ASLEEP is set.
    """
    for _ in range(SPINS_BEFORE_SLEEP):
        number = atomic_load(sync + OPEN)
        if number != 0 and number != done:
            return True
        pause()
    asleep = sync + ASLEEP + LINE * thread
    # A read-modify-write is a full barrier: OPEN is read after ASLEEP is visible. With a plain store
    # the thread could miss a step that was opened by a caller who did not see it asleep.
    atomic_add(asleep, 1)
    number = atomic_load(sync + OPEN)
    if number == 0 or number == done:
        return False
    atomic_store(asleep, 0)  # the step was opened meanwhile
    return True


@kernel
def leave(sync: int, closes: bool) -> None:
    """Say that this thread reads nothing of the step any more. If it `closes`, nobody joins now."""
    if closes:
        atomic_store(sync + OPEN, 0)
    atomic_add(sync + INSIDE, -1)
