"""vLLM's processes: which they are, and how they are ended."""

from __future__ import annotations

import multiprocessing
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
    _, alive = psutil.wait_procs(listed, timeout=patience)
    for process in alive:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(alive, timeout=5)
    multiprocessing.active_children()  # reaps those that have ended
