"""A runner's threads: their end, forks, callers in several threads, and steps that are interrupted."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quire.engines.native.cpu import loading
from quire.engines.native.cpu.loading import load_model
from quire.engines.native.cpu.program.machine_code import load_step
from quire.engines.native.cpu.runner import CpuRunner
from quire.errors import EngineClosedError
from tests.engines.native.cpu.batches import logits_of, make_batch, random_ids

Load = Callable[..., CpuRunner]


def threads_of_kernels() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("quire-kernels")]


def test_close_ends_the_threads(folders: Callable[..., Path], load: Load) -> None:
    before = len(threads_of_kernels())
    runner = load(folders("llama2"), num_threads=3)
    assert len(threads_of_kernels()) == before + 2
    runner.close()
    runner.close()
    assert len(threads_of_kernels()) == before
    with pytest.raises(EngineClosedError):
        runner.run(make_batch([([5], 0, [0])]))
    with pytest.raises(EngineClosedError):
        runner.copy_blocks([(0, 1)])


def test_a_forgotten_runner_ends_its_threads(folders: Callable[..., Path]) -> None:
    before = len(threads_of_kernels())
    runner = load_model(folders("llama2"), num_threads=2, max_batch_tokens=16, max_sequences=1)
    assert len(threads_of_kernels()) == before + 1
    del runner
    assert len(threads_of_kernels()) == before


def test_two_runners_in_threads_of_their_own(folders: Callable[..., Path], load: Load) -> None:
    ids = random_ids(60)
    runners = [load(folders(kind), num_threads=2) for kind in ("qwen2", "qwen3")]
    wanted = [logits_of(runner, ids) for runner in runners]
    found: dict[tuple[int, int], NDArray[np.float32]] = {}

    def work(number: int, caller: int) -> None:
        # callers of one runner use blocks of their own
        found[number, caller] = logits_of(runners[number], ids, [10, 20, 1, 1], 4 * caller)

    # The logits of a run are valid until the next one, so two callers of one runner take turns.
    for caller in range(2):
        threads = [threading.Thread(target=work, args=(n, caller)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for (number, _), logits in found.items():
        np.testing.assert_array_equal(logits, wanted[number])
    assert len(found) == 4


def _in_child(runner: CpuRunner, ids: list[int], pipe: Any) -> None:
    pipe.send(logits_of(runner, ids))
    runner.close()


def test_a_forked_child_has_threads_of_its_own(folders: Callable[..., Path], load: Load) -> None:
    runner, ids = load(folders("qwen2"), num_threads=2), random_ids(40)
    wanted = logits_of(runner, ids)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_in_child, args=(runner, ids, theirs))
    child.start()
    try:
        assert ours.poll(60), "the child hangs"
        np.testing.assert_array_equal(ours.recv(), wanted)
    finally:
        child.join(10)
        child.kill()
    np.testing.assert_array_equal(logits_of(runner, ids), wanted)


def test_an_interrupted_step_leaves_the_runner_usable(
    folders: Callable[..., Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is interrupted after the other threads were woken: they must not wait for ever."""
    real, interrupts = load_step(), [True, False, False]

    def step(number: int, table: int) -> None:
        if number == 0 and interrupts.pop():
            raise KeyboardInterrupt
        real(number, table)

    monkeypatch.setattr(loading, "load_step", lambda on_compile: step)
    runner, ids = load(folders("qwen2"), num_threads=3), random_ids(40)
    wanted = logits_of(runner, ids)
    before = len(threads_of_kernels())
    logits_of(runner, ids)
    with pytest.raises(KeyboardInterrupt):
        logits_of(runner, ids)
    interrupts.append(False)
    np.testing.assert_array_equal(logits_of(runner, ids), wanted)
    assert len(threads_of_kernels()) == before


def test_threads_that_come_late_or_never_are_not_waited_for(
    folders: Callable[..., Path], load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, woken = load_step(), threading.Event()

    def step(number: int, table: int) -> None:
        if number == 2:
            woken.wait(60)
        elif number == 1:
            time.sleep(0.002)
        real(number, table)

    ids = random_ids(60)
    wanted = logits_of(load(folders("qwen3")), ids)
    monkeypatch.setattr(loading, "load_step", lambda on_compile: step)
    runner = load(folders("qwen3"), num_threads=3)
    np.testing.assert_array_equal(logits_of(runner, ids, [20] + [1] * 20), wanted)
    woken.set()
    np.testing.assert_array_equal(logits_of(runner, ids, [1] * 30), wanted)


@pytest.mark.parametrize("kind", ["qwen3", "llama2"])
def test_how_far_a_step_is_grows_up_to_its_end(
    kind: str, folders: Callable[..., Path], load: Load
) -> None:
    """Another thread asks, as a terminal does."""
    runner = load(folders(kind), num_threads=2)
    assert runner.step_progress == 0
    ended, told = threading.Event(), list[float]()

    def ask() -> None:
        while not ended.is_set():
            told.append(runner.step_progress)

    thread = threading.Thread(target=ask)
    thread.start()
    logits_of(runner, random_ids(48))
    ended.set()
    thread.join()
    assert told == sorted(told)
    assert runner.step_progress == 1
