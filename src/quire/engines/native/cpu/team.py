"""A team of threads that enter the compiled step together, and sleep if none comes for a while.

The threads are Python's, but they spend their lives inside compiled code, where they hold no lock of
the interpreter (see `program.phases`). A pool such as OpenMP's would spin beside them: two pools on
the same cores slow each other down many times over.
"""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

import numpy as np

from quire.engines.native.cpu.kernels.layout import (
    ASLEEP,
    INSIDE,
    LINE,
    OPEN,
    sync_words,
)
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.program.arguments import Step
from quire.engines.native.cpu.program.machine_code import StepFunction

_GO, _END = True, False


class Team:
    """`size` threads for one runner: the caller's own, and `size - 1` that this class keeps.

    What `struct` says of the team is written here. Only one caller at a time.
    """

    def __init__(self, size: int, step: StepFunction, struct: Step) -> None:
        self._size, self._step, self._struct = size, step, struct
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._sync = aligned_zeros((sync_words(self._size),), np.int64)
        self._sync[ASLEEP // 8 :: LINE // 8] = 1
        self._steps = 0
        self._struct.sync, self._struct.threads = self._sync.ctypes.data, self._size
        self._process = os.getpid()
        self._asleep = [(ASLEEP + LINE * number) // 8 for number in range(1, self._size)]
        # Queues rather than events: a wake-up that comes before the thread sleeps must not be lost.
        self._signals: list[SimpleQueue[bool]] = [SimpleQueue() for _ in range(self._size - 1)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(self._step, number, self._struct.address, signal),
                name=f"quire-kernels-{number}",
                daemon=True,  # a process that ends does not wait for compiled code
            )
            for number, signal in enumerate(self._signals, 1)
        ]
        for thread in self._threads:
            thread.start()

    def wait_until_idle(self) -> None:
        """Wait until no thread is inside the last step, so that the tables may change.

        Usually all left long ago. A thread that never came to the step is not waited for: it will
        find the step closed.
        """
        if os.getpid() != self._process:  # a forked child has no threads but its own
            self._start()
        while self._sync[INSIDE // 8]:
            # Give the core away: it may be the one that the awaited thread needs.
            time.sleep(0)

    def run(self) -> None:
        """Run one step; the team must be idle. Returns when the results are there."""
        self._steps += 1
        self._sync[OPEN // 8] = self._steps
        try:
            for asleep, signal in zip(self._asleep, self._signals, strict=True):
                # Waking costs a system call; a thread that still spins sees the step by itself.
                if self._sync[asleep]:
                    self._sync[asleep] = 0
                    signal.put(_GO)
            self._step(0, self._struct.address)
        except BaseException:
            # An interrupt came before this thread entered the step. The others may compute it, but
            # nobody would close it. So they finish and end, and new threads begin with new state.
            self._end()
            self._start()
            raise

    def _end(self) -> None:
        for signal in self._signals:
            signal.put(_END)
        if os.getpid() == self._process:
            for thread in self._threads:
                thread.join()

    def close(self) -> None:
        """End the threads. The second call does nothing."""
        if not self._closed:
            self._closed = True
            self._end()


def _work(step: StepFunction, number: int, struct: int, signal: SimpleQueue[bool]) -> None:
    """One thread: enter the step when woken. It returns when the thread should sleep."""
    while signal.get():
        step(number, struct)
