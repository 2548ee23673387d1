"""vLLM's processes are found by their names, with those below them, and all are ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from quire.engines.vllm.launch import end, engine_processes

SPAWN = multiprocessing.get_context("spawn")


def sleep_with_a_child(told: Any) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    told.send(child.pid)
    time.sleep(60)


def sleep_deaf(told: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    told.send(os.getpid())
    time.sleep(60)


def sleep_a_little(told: Any) -> None:
    told.send(os.getpid())
    time.sleep(0.3)


@pytest.fixture
def started() -> Iterator[Any]:
    """Starts a named process, and tells what it sends first; all are killed at the end."""
    processes: list[Any] = []

    def start(name: str, target: Any) -> tuple[Any, int]:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=target, args=(theirs,), name=name)
        process.start()
        processes.append(process)
        assert ours.poll(30)
        return process, ours.recv()

    yield start
    for process in processes:
        try:
            below = psutil.Process(process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            below = []
        for one in [*below, process]:
            one.kill()
        process.join()


def pids(found: list[psutil.Process]) -> list[int]:
    return [process.pid for process in found]


@pytest.mark.parametrize(
    "name", ["EngineCore_DP0", "VllmWorker-1", "VLLM::Worker", "DPCoordinator"]
)
def test_vllms_processes_are_found_with_those_below(started: Any, name: str) -> None:
    before = pids(engine_processes())
    process, grandchild = started(name, sleep_with_a_child)
    assert pids(engine_processes(before)) == [process.pid, grandchild]
    assert engine_processes([*before, process.pid]) == []
    assert {process.pid, grandchild} <= set(pids(engine_processes()))


def test_other_processes_are_left_alone(started: Any) -> None:
    before = pids(engine_processes())
    other, _ = started("SpawnProcess-of-the-user", sleep_with_a_child)
    plain = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert engine_processes(before) == []
        end(engine_processes(before), 0)
        assert other.is_alive()
        assert plain.poll() is None
    finally:
        plain.kill()
        plain.wait()


def test_the_deaf_are_killed_in_time_and_their_children_too(started: Any) -> None:
    before = pids(engine_processes())
    deaf, _ = started("EngineCore_DP0", sleep_deaf)
    parent, grandchild = started("EngineCore_DP1", sleep_with_a_child)
    found = engine_processes(before)
    deaf.terminate()
    began = time.monotonic()
    end(found, 0.5)
    assert 0.4 < time.monotonic() - began < 10
    assert not deaf.is_alive()
    assert deaf.exitcode == -signal.SIGKILL
    assert not parent.is_alive()
    assert not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == "zombie"
    assert engine_processes(before) == []
    assert not {deaf, parent} & set(multiprocessing.active_children())


def test_those_that_end_by_themselves_are_not_killed(started: Any) -> None:
    before = pids(engine_processes())
    process, _ = started("EngineCore_DP0", sleep_a_little)
    end(engine_processes(before), 20)
    assert process.exitcode == 0


def test_processes_that_are_gone_do_no_harm(started: Any) -> None:
    process, pid = started("EngineCore_DP0", sleep_a_little)
    found = [psutil.Process(pid)]
    process.kill()
    process.join()
    end(found, 0)
    end(found, 0)
    end([], 0)
    assert pid not in pids(engine_processes())
