"""Slow work of one client does not keep others from theirs, and what cannot wait is told so."""

from __future__ import annotations

import asyncio
import threading

import pytest

from quire.constraints.fair_pool import FairPool
from quire.errors import EngineBusyError, EngineClosedError
from quire.server.errors import problem_of
from tests.polling import eventually


class Blocked:
    """Work that says that it has begun, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, given_up: threading.Event) -> str:
        self.begun.set()
        while not (self.go.wait(0.01) or given_up.is_set()):
            pass
        return "given up" if given_up.is_set() else "done"


async def test_keys_are_served_in_turn() -> None:
    pool, first, done = FairPool(1, "test", 60), Blocked(), list[str]()
    running = asyncio.ensure_future(pool.run("much", first))
    await eventually(first.begun.is_set)
    tasks = [
        asyncio.ensure_future(pool.run(key, lambda _, name=name: done.append(name)))
        for key, name in [*(("much", f"much {n}") for n in range(5)), ("little", "little")]
    ]
    await asyncio.sleep(0)  # all wait
    first.go.set()
    await asyncio.gather(running, *tasks)
    assert done == ["much 0", "little", *(f"much {n}" for n in range(1, 5))]
    pool.close()


async def test_who_waits_too_long_may_try_again() -> None:
    pool, first = FairPool(1, "test", 0.02), Blocked()
    running = asyncio.ensure_future(pool.run("a", first))
    await eventually(first.begun.is_set)
    with pytest.raises(EngineBusyError) as busy:
        await pool.run("b", lambda _: None)
    problem = problem_of(busy.value)
    assert problem.status == 503
    assert int(problem.headers["retry-after"]) >= 1
    first.go.set()
    assert await running == "done"
    await pool.run("b", lambda _: None)
    pool.close()


async def test_who_is_cancelled_holds_nothing() -> None:
    pool, first = FairPool(1, "test", 60), Blocked()
    running = asyncio.ensure_future(pool.run("a", first))
    await eventually(first.begun.is_set)
    waiting = [asyncio.ensure_future(pool.run("a", lambda _: None)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in (waiting[0], waiting[2], running):  # the work itself is told, and ends
        task.cancel()
    await asyncio.wait([*waiting, running])
    assert [task.cancelled() for task in waiting] == [True, False, True]
    assert running.cancelled()
    await pool.run("b", lambda _: None)
    pool.close()


async def test_work_has_its_own_time_limit_from_its_turn_on() -> None:
    pool, work = FairPool(1, "test", 60), Blocked()
    with pytest.raises(TimeoutError):
        await pool.run("a", work, 0.02)
    await pool.run("a", lambda _: None, 60)
    pool.close()
    with pytest.raises(EngineClosedError):
        await pool.run("a", lambda _: None)


async def test_a_loop_that_was_closed_while_it_waited_is_passed_over() -> None:
    pool, first = FairPool(1, "test", 60), Blocked()
    running = asyncio.ensure_future(pool.run("a", first))
    await eventually(first.begun.is_set)
    loop = asyncio.new_event_loop()

    async def wait_a_moment() -> None:
        waiting = asyncio.ensure_future(pool.run("a", lambda _: None))
        await asyncio.sleep(0)
        assert not waiting.done()
        loop.stop()

    thread = threading.Thread(
        target=lambda: (loop.create_task(wait_a_moment()), loop.run_forever())
    )
    thread.start()
    thread.join()
    loop.close()
    first.go.set()
    assert await running == "done"
    await pool.run("b", lambda _: None)
    pool.close()
