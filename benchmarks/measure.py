"""What the benchmarks share: runs in turns, medians, tables, the machine's description."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def memory(field: str, process: int | str = "self") -> int:
    """Bytes of a process, as Linux tells: `VmRSS` now, `VmHWM` at most; 0 of one that has died."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    rows = (line for line in status.splitlines() if line.startswith(field))
    return int(next(rows, f"{field}: 0").split()[1]) * 1024


def seconds(work: Callable[[], object]) -> float:
    """Seconds that one run takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turns(
    runs: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: int = 0
) -> dict[str, float]:
    """The median of each measurement, taken in turns, so that a slow minute hits all alike."""
    found = rounds(runs, repeats, warm_up=warm_up)
    return {name: statistics.median(values) for name, values in found.items()}


def rounds(
    runs: Mapping[str, Callable[[], float]], repeats: int, *, warm_up: int = 0
) -> dict[str, list[float]]:
    """Every measurement of `in_turns`: entry i of each list is of the same round."""
    for _ in range(warm_up):
        for run in runs.values():
            run()
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            found[name].append(run())
    return found


def paired(
    one: Callable[[], T], other: Callable[[], T], repeats: int, *, warm_up: int = 0
) -> list[tuple[T, T]]:
    """Both, right after each other, `repeats` times; every other time `other` is the first."""
    for _ in range(warm_up):
        one()
        other()
    pairs: list[tuple[T, T]] = []
    for number in range(repeats):
        if number % 2:
            second = other()
            pairs.append((one(), second))
        else:
            pairs.append((one(), other()))
    return pairs


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def report(name: str, title: str, text: str, figures: Mapping[str, Any]) -> None:
    """Print a section, and keep its figures as JSON under `benchmarks/results/`."""
    print(f"\n## {title}\n\n{text}\n", flush=True)
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "figures": dict(figures)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """The processor, the cores that may be used, and Python's version, in one line."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"
