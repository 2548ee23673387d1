"""vLLM's processes: which they are, and how they are ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_NAMES = ("EngineCore", "VLLM", "Vllm", "DPCoordinator", "ApiServer")
"""How vLLM names the processes that it starts through `multiprocessing`."""


def engine_processes(before: Iterable[int] = ()) -> list[psutil.Process]:
    """vLLM's processes of this process and all below them, but those that were there before."""
    import psutil

    old = set(before)
    found: list[psutil.Process] = []
    for child in multiprocessing.active_children():
        if child.pid is None or child.pid in old or not child.name.startswith(_NAMES):
            continue
        try:
            root = psutil.Process(child.pid)
            found += [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            continue
    return found


def end(processes: Iterable[psutil.Process], patience: float) -> None:
    """Wait `patience` seconds for the processes to end, then kill those that have not."""
    import psutil

    listed = list(processes)
    for process in _wait(listed, patience):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    _wait(listed, 5)


def _wait(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Wait until all have ended; returns those that still run after so many seconds.

    Not psutil's own waiting: it would reap children behind the back of `multiprocessing`, which
    takes them for alive from then on, and at exit sends signals to whoever has their ids by then.
    """
    until = time.monotonic() + seconds
    while True:
        own = {child.pid for child in multiprocessing.active_children()}  # reaps those that ended
        alive = [process for process in processes if _runs(process, own)]
        if not alive or time.monotonic() >= until:
            return alive
        time.sleep(0.05)


def _runs(process: psutil.Process, own: set[int | None]) -> bool:
    """Whether a process runs; one of `own`, children not reaped yet, may only look like a zombie."""
    import psutil

    try:
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return process.is_running() and (process.pid in own or not zombie)
    except psutil.NoSuchProcess:
        return False
