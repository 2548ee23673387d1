"""How threads inside compiled code share the tasks of a phase, without the interpreter.

A phase is over when its tasks are done, not when all threads have come: a thread that is off its
CPU holds up the others only if it sleeps in the middle of a task.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from quire.engines.native.cpu.builders import INT32, INT64, build_pointer, call
from quire.engines.native.cpu.jit import intrinsic, kernel
from quire.engines.native.cpu.layout import ASLEEP, DONE, INSIDE, LINE, OPEN

SPINS_BEFORE_YIELD = 2000
SPINS_BEFORE_SLEEP = 5000  # 50 to 200 microseconds

_I = types.int64
_PAUSES: dict[str, tuple[str, list[ir.Constant]]] = {
    "x86_64": ("llvm.x86.sse2.pause", []),
    "amd64": ("llvm.x86.sse2.pause", []),
    "aarch64": ("llvm.aarch64.hint", [INT32(1)]),
    "arm64": ("llvm.aarch64.hint", [INT32(1)]),
}


@intrinsic
def atomic_add(typingctx: Any, address: Any, amount: Any) -> Any:
    """Add to an int64 and return what it was."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = build_pointer(builder, args[0], INT64)
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return _I(_I, _I), code


@intrinsic
def atomic_load(typingctx: Any, address: Any) -> Any:
    """Read an int64, and everything written before it was stored."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(build_pointer(builder, args[0], INT64), "seq_cst", 8)

    return _I(_I), code


@intrinsic
def atomic_store(typingctx: Any, address: Any, value: Any) -> Any:
    """Write an int64 after everything that was written before."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], build_pointer(builder, args[0], INT64), "release", 8)
        return context.get_dummy_value()

    return types.none(_I, _I), code


@intrinsic
def pause(typingctx: Any) -> Any:
    """Tell the CPU that this is a spin."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        known = _PAUSES.get(platform.machine().lower())
        if known is not None:
            call(builder, known[0], ir.VoidType(), known[1])
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def give_way(typingctx: Any) -> Any:
    """Let another thread have this CPU (POSIX sched_yield)."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(INT32, [])
        function = cgutils.get_or_insert_function(builder.module, kind, "sched_yield")
        builder.call(function, [])
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def cycle_count(typingctx: Any) -> Any:
    """The CPU's clock, in ticks of its own."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return call(builder, "llvm.readcyclecounter", INT64, [])

    return _I(), code


@kernel
def take_task(counters: int) -> int:
    """The number of a task that nobody has; at or above the phase's tasks there is none left."""
    return atomic_add(counters, 1)


@kernel
def finish_task(counters: int) -> None:
    """Say that a task is done: whoever waits for the phase sees what it wrote."""
    atomic_add(counters + DONE, 1)


@kernel
def wait_for_tasks(counters: int, tasks: int) -> None:
    """Wait until all tasks of a phase are done.

    It spins, because phases are microseconds apart, and gives the CPU away now and then.
    """
    spins = 0
    while atomic_load(counters + DONE) < tasks:
        spins += 1
        if spins % SPINS_BEFORE_YIELD == 0:
            give_way()
        else:
            pause()


@kernel
def enter(sync: int) -> bool:
    """Join the step that runs, if one does; whoever joins must `leave`.

    A thread that wakes too late finds the step closed, or helps with the next one.
    """
    atomic_add(sync + INSIDE, 1)
    if atomic_load(sync + OPEN) != 0:
        return True
    atomic_add(sync + INSIDE, -1)
    return False


@kernel
def current_step(sync: int, otherwise: int) -> int:
    """The number of the step that runs, for a thread inside it; `otherwise` if it was closed."""
    number = atomic_load(sync + OPEN)
    return number if number != 0 else otherwise


@kernel
def wait_for_step(sync: int, thread: int, done: int) -> bool:
    """Wait a little for a step other than the one `done`; False: the thread should sleep.

    Between two steps of a few sequences pass some hundred microseconds, which is about what it takes
    to wake a thread that sleeps. Who opens a step wakes those whose word ASLEEP is set.
    """
    for _ in range(SPINS_BEFORE_SLEEP):
        number = atomic_load(sync + OPEN)
        if number != 0 and number != done:
            return True
        pause()
    own = sync + ASLEEP + LINE * thread
    atomic_add(own, 1)  # and nothing is read before it is written
    number = atomic_load(sync + OPEN)
    if number == 0 or number == done:
        return False
    atomic_store(own, 0)  # it was opened meanwhile
    return True


@kernel
def leave(sync: int, closes: bool) -> None:
    """Say that this thread looks at nothing of the step any more; if it `closes`, nobody may join."""
    if closes:
        atomic_store(sync + OPEN, 0)
    atomic_add(sync + INSIDE, -1)
