"""A team of threads that enter the compiled step together, and sleep when none comes for a while."""

from __future__ import annotations

import os
import threading
import time
from queue import SimpleQueue

import numpy as np

from quire.engines.native.cpu.layout import ASLEEP, INSIDE, LINE, OPEN, SYNC, THREADS, sync_words
from quire.engines.native.cpu.machine_code import StepFunction
from quire.engines.native.cpu.memory import aligned_zeros

_GO, _END = True, False


class Team:
    """`size` threads for one runner: the caller's own and `size - 1` that this class keeps.

    `table` is the runner's; its words SYNC and THREADS are written here. Not to be entered by two
    callers at once.
    """

    def __init__(self, size: int, step: StepFunction, table: np.ndarray) -> None:
        self._size, self._step, self._table = size, step, table
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._sync = aligned_zeros((sync_words(self._size),), np.int64)
        self._sync[ASLEEP // 8 :: LINE // 8] = 1
        self._steps = 0
        self._table[SYNC], self._table[THREADS] = self._sync.ctypes.data, self._size
        self._process = os.getpid()
        self._asleep = [(ASLEEP + LINE * number) // 8 for number in range(1, self._size)]
        self._signals: list[SimpleQueue[bool]] = [SimpleQueue() for _ in range(self._size - 1)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(self._step, number, self._table.ctypes.data, signal),
                name=f"quire-kernels-{number}",
                daemon=True,
            )
            for number, signal in enumerate(self._signals, 1)
        ]
        for thread in self._threads:
            thread.start()

    def settle(self) -> None:
        """Wait until no thread is inside the last step, so that the tables may change.

        Mostly they left long ago. One that never came to the step is not waited for.
        """
        if os.getpid() != self._process:  # a forked child has no threads but its own
            self._start()
        while self._sync[INSIDE // 8]:
            time.sleep(0)

    def run(self) -> None:
        """Run one step on settled tables. Returns when its results are there."""
        self._steps += 1
        self._sync[OPEN // 8] = self._steps
        try:
            for asleep, signal in zip(self._asleep, self._signals, strict=True):
                if self._sync[asleep]:
                    self._sync[asleep] = 0
                    signal.put(_GO)
            self._step(0, self._table.ctypes.data)
        except BaseException:
            # An interrupt before this thread came to the step: the others do it all, and end.
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
        """End the threads. Nothing happens the second time."""
        if not self._closed:
            self._closed = True
            self._end()


def _work(step: StepFunction, number: int, table: int, signal: SimpleQueue[bool]) -> None:
    while signal.get():
        step(number, table)
