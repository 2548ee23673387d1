"""How much memory a process and its children have held."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_PROCESSES = Path("/proc")


def peak_rss(pid: int | None = None, root: Path = _PROCESSES) -> int | None:
    """Bytes: the sum of each process's own peak, of `pid` (this one) and all that it started.

    None where the system does not tell (it is read from Linux's /proc).
    """
    first = os.getpid() if pid is None else pid
    found = [_peak(root / str(number)) for number in (first, *_descendants(first, root))]
    known = [size for size in found if size is not None]
    return sum(known) if known else None


def _descendants(pid: int, root: Path) -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for folder in root.glob("[0-9]*"):
        parent = _field(folder, "PPid:")
        if parent is not None:
            children.setdefault(parent, []).append(int(folder.name))
    waiting = list(children.get(pid, ()))
    while waiting:
        number = waiting.pop()
        yield number
        waiting += children.get(number, ())


def _peak(folder: Path) -> int | None:
    kibibytes = _field(folder, "VmHWM:")
    return None if kibibytes is None else kibibytes * 1024


def _field(folder: Path, name: str) -> int | None:
    """A number of a process's status; None for a process that has ended meanwhile."""
    try:
        for line in (folder / "status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    return None
