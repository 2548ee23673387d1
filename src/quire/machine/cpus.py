"""How many compute threads this process should have, and what the processor is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

_CPUS = Path("/sys/devices/system/cpu")
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """The number of cores that this process may use.

    Hardware threads of one core are not counted twice: they share its arithmetic units.
    """
    try:
        allowed = os.sched_getaffinity(0)
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1
    cores = {_core(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _core(cpu: int) -> str:
    """The CPUs that share a core with `cpu`, in the words of the system: a name for the core."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int:
    """How many CPUs the quota of the control group amounts to."""
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return os.cpu_count() or 1


def describe(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and how many CPUs this process may use, for people."""
    name = platform.processor() or platform.machine()
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        name = next(v.strip() for k, _, v in (x.partition(":") for x in lines) if "model name" in k)
    except (OSError, StopIteration):
        pass
    return f"{name}, {len(_allowed())} CPUs"


def _allowed() -> set[int]:
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not on this platform
        return set(range(os.cpu_count() or 1))


def instruction_sets(info: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The instruction sets of this CPU by Linux's names, such as `avx2`, `avx512_bf16`."""
    try:
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
