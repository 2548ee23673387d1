"""How much memory is free, on the machine and within limits; how the C library allocates."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from pathlib import Path
from typing import Any

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 4 * 2**20


def available_memory() -> int:
    """Bytes that this process may still take: what is free, or less if there is a limit.

    A control group may have one, and the process itself (`ulimit -v`, `ulimit -d`).
    """
    return min([_machine_memory(), *group_memory(), *process_memory()])


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(sizes["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _windows_memory() or _physical_memory()


def _physical_memory() -> int:
    """Half of all memory, for systems that do not say how much of it is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 4 * 2**30


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows' sysinfoapi.h."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        *(
            (name, ctypes.c_uint64)
            for name in (
                "total",
                "free",
                "total_page",
                "free_page",
                "all_virtual",
                "virtual",
                "more",
            )
        ),
    )


def _windows_memory() -> int:
    """What Windows says is free; 0 elsewhere."""
    kernel: Any = getattr(ctypes, "windll", None)
    if kernel is None:
        return 0
    status = _MemoryStatus()
    status.length = ctypes.sizeof(status)
    return status.free if kernel.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)) else 0


def group_memory(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> list[int]:
    """What each control group of this process has left of its limit; versions 2 and 1."""
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
    """What is left in the group `name` and in each of its parents: the tightest limit counts."""
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
    """Bytes of file cache, which count as used but which the kernel frees on demand."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.split()[0] == field)
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


def process_memory(status: Path = Path("/proc/self/status")) -> list[int]:
    """What this process has left of its own limits, on data and on address space.

    Of the second, half: each thread takes more of it than it uses, for its stack and its allocator.
    """
    try:
        import resource
    except ImportError:  # not a POSIX system
        return []
    left: list[int] = []
    for limit, field, share in (
        (resource.RLIMIT_DATA, "VmData", 1),
        (resource.RLIMIT_AS, "VmSize", 2),
    ):
        most, _ = resource.getrlimit(limit)
        if most != resource.RLIM_INFINITY:
            left.append(max(0, most - _kib(status, field)) // share)
    return left


def _kib(status: Path, field: str) -> int:
    """The bytes of a field that is written in KiB; 0 if there is none."""
    try:
        lines = status.read_text().splitlines()
        return next(int(one.split()[1]) * 1024 for one in lines if one.startswith(f"{field}:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return 0


@functools.cache
def map_large_blocks() -> None:
    """Make glibc allocate blocks of 4 MiB and more from the system, always. Elsewhere it does nothing.

    By default glibc raises that threshold once such a block was freed, and reuses the block. Before
    it can hand it out as zeros, it must clear it. Pillow allocates a picture's memory in this way
    with the interpreter's lock held: 30 ms for 12 megapixels, in which no other thread runs. Memory
    that is fresh from the system is zero already.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
