"""Bridges between loops: results, errors and abandonment cross them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator

import pytest

from quire.chat.loop_thread import LoopThread
from quire.errors import EngineClosedError, EngineError


class Counter:
    """A stream that counts, and knows whether it was closed before its end."""

    def __init__(self, end: int, delay: float = 0.0, fails: bool = False) -> None:
        self.end, self.delay, self.fails = end, delay, fails
        self.closed = threading.Event()

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.end):
                await asyncio.sleep(self.delay)
                yield number
            if self.fails:
                raise ValueError("made up")
        finally:
            self.closed.set()


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    thread = LoopThread("test-loop")
    yield thread
    thread.stop()


async def double(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_run_from_many_threads(loop: LoopThread) -> None:
    results: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(loop.run(double(n)))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [2 * n for n in range(20)]


def test_iterate(loop: LoopThread) -> None:
    assert list(loop.iterate(Counter(5).stream())) == [0, 1, 2, 3, 4]
    items: list[int] = []
    with pytest.raises(ValueError, match="made up"):
        for item in loop.iterate(Counter(2, fails=True).stream()):
            items.append(item)
    assert items == [0, 1]


def test_abandoning_a_plain_iteration_closes_the_stream(loop: LoopThread) -> None:
    counter = Counter(10**9, delay=0.001)
    stream = loop.iterate(counter.stream())
    assert next(stream) == 0
    stream.close()
    assert counter.closed.wait(2)


async def test_from_another_loop(loop: LoopThread) -> None:
    assert await loop.wait(double(4)) == 8
    assert [item async for item in loop.aiterate(Counter(3).stream())] == [0, 1, 2]


async def test_cancelling_a_consumer_closes_the_stream(loop: LoopThread) -> None:
    counter = Counter(10**9, delay=0.001)

    async def consume() -> None:
        async for _ in loop.aiterate(counter.stream()):
            pass

    task = asyncio.create_task(consume())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(counter.closed.wait, 2)


def test_stop_ends_waiting_readers_with_an_error() -> None:
    thread = LoopThread("test-loop")
    ended: list[BaseException] = []

    def read() -> None:
        try:
            list(thread.iterate(Counter(10**9, delay=0.01).stream()))
        except EngineClosedError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.05)
    thread.stop()
    reader.join(2)
    assert not reader.is_alive()
    assert len(ended) == 1
    with pytest.raises(EngineClosedError):
        thread.run(double(1))


def test_waiting_in_the_loops_own_thread_is_refused(loop: LoopThread) -> None:
    async def inside() -> None:
        loop.run(double(1))

    with pytest.raises(EngineError, match="own event loop"):
        loop.run(inside())
