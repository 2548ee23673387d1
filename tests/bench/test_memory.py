"""Peaks of memory, read from /proc."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quire.bench.memory import peak_rss

ALLOCATE = "import sys; data = bytearray(60_000_000); print('ready', flush=True); sys.stdin.read()"


def process(root: Path, number: int, parent: int, kibibytes: int | None) -> None:
    folder = root / str(number)
    folder.mkdir()
    peak = "" if kibibytes is None else f"VmHWM:\t {kibibytes} kB\n"
    (folder / "status").write_text(f"Name:\tx\nPPid:\t{parent}\n{peak}")


def test_a_process_and_all_below_it_are_summed(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, 100)
    process(tmp_path, 11, 10, 20)
    process(tmp_path, 12, 11, 3)
    process(tmp_path, 13, 1, 4000)  # another's
    process(tmp_path, 14, 10, None)  # a zombie has no memory
    assert peak_rss(10, tmp_path) == 123 * 1024


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    assert peak_rss(10, tmp_path) is None


def test_a_real_child_counts() -> None:
    before = peak_rss()
    if before is None:
        pytest.fail("this system has no /proc")
    command = [sys.executable, "-c", ALLOCATE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        after = peak_rss()
        assert after is not None
        assert after - before > 60_000_000
        child.communicate()
