"""Free memory as the machine and the control groups tell it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from quire.machine import memory
from quire.machine.cpus import default_threads

MIB = 2**20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_available_memory_is_some_of_the_machine() -> None:
    assert 0 < memory.available_memory() < 2**50


def test_no_thread_more_than_cores() -> None:
    import os

    assert 1 <= default_threads() <= (os.cpu_count() or 1)


def test_groups_of_version_2(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("0::/user/me\n")
    write(root)
    write(root / "user", memory__max=str(100 * MIB), memory__current=str(90 * MIB),
          memory__stat=f"anon 1\ninactive_file {30 * MIB}")  # fmt: skip
    write(root / "user" / "me", memory__max="max", memory__current="5")
    assert memory.group_memory(root, own) == [40 * MIB]


def test_groups_of_version_1(tmp_path: Path) -> None:
    root, own = tmp_path / "cgroup", tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/a\n4:memory:/a\nnonsense\n")
    write(root / "memory" / "a", memory__limit_in_bytes=str(10 * MIB),
          memory__usage_in_bytes=str(20 * MIB))  # fmt: skip
    assert memory.group_memory(root, own) == [0]


def test_no_groups(tmp_path: Path) -> None:
    assert memory.group_memory(tmp_path, tmp_path / "nothing") == []


def test_limits_of_the_process_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {resource.RLIMIT_AS: 100 * MIB, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda limit: (limits[limit], 0))
    status = tmp_path / "status"
    status.write_text(f"Name:\tpython\nVmSize:\t{40 * 1024} kB\nVmData:\t{10 * 1024} kB\n")
    assert memory.process_memory(status) == [30 * MIB]  # half of what is left for threads
    limits[resource.RLIMIT_DATA] = 15 * MIB
    assert memory.process_memory(status) == [5 * MIB, 30 * MIB]
    limits[resource.RLIMIT_AS] = MIB
    assert memory.process_memory(status) == [5 * MIB, 0]
    limits.update(dict.fromkeys(limits, resource.RLIM_INFINITY))
    assert memory.process_memory(status) == []
