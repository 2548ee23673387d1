"""How much memory is free: the machine's, and what control groups leave of it."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or what its control groups leave."""
    found = [_machine_memory(), *group_memory()]
    return min(found)


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _physical_memory()


def _physical_memory() -> int:
    """Half of all memory, where nothing says how much of it is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


def group_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What each control group of this process leaves of its limit, versions 2 and 1."""
    left: list[int] = []
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return left
    for entry in entries:
        if len(entry) != 3:
            continue
        _, controllers, name = entry
        if controllers == "":
            left += _walk(root, name, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            left += _walk(root / "memory", name, "memory.limit_in_bytes",
                          "memory.usage_in_bytes", "total_inactive_file")  # fmt: skip
    return left


def _walk(root: Path, name: str, limit: str, usage: str, cached: str) -> list[int]:
    """The room in the group `name` and in each that holds it."""
    left: list[int] = []
    group = root / name.lstrip("/")
    for folder in (group, *group.parents):
        try:
            most, used = (folder / limit).read_text().strip(), (folder / usage).read_text()
            if most != "max":
                left.append(max(0, int(most) - int(used) + _file_cache(folder, cached)))
        except (OSError, ValueError):
            pass
        if folder == root:
            break
    return left


def _file_cache(folder: Path, field: str) -> int:
    """Bytes of file cache, which the kernel gives back when they are wanted."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == field)
    except (OSError, StopIteration, ValueError, IndexError):
        return 0
