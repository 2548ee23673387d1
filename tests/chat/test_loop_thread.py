"""Between loops: results, errors and abandonment cross, items in order, and losses are reported."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

import pytest

from quire.chat import loop_thread
from quire.chat.loop_thread import Inbox, LoopBridge, LoopThread
from quire.errors import EngineClosedError, EngineError

PATIENCE = 60.0  # seconds that a loaded machine may take


class Counter:
    """A stream that counts, and knows whether it was closed before its end."""

    def __init__(self, end: int, delay: float = 0.0, fails: bool = False) -> None:
        self.end, self.delay, self.fails = end, delay, fails
        self.started, self.closed = threading.Event(), threading.Event()

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self.end):
                self.started.set()
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


def test_where_no_key_ends_a_wait_it_is_done_in_parts(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""

    async def slow() -> AsyncGenerator[int, None]:
        for number in range(2):
            await asyncio.sleep(0.05)
            yield number

    monkeypatch.setattr("quire.chat.loop_thread._LONGEST_WAIT", 0.01)
    assert list(loop.iterate(slow())) == [0, 1]


def test_abandoning_a_plain_iteration_closes_the_stream(loop: LoopThread) -> None:
    counter = Counter(10**9, delay=0.001)
    stream = loop.iterate(counter.stream())
    assert next(stream) == 0
    stream.close()
    assert counter.closed.wait(60)


async def test_from_another_loop(loop: LoopThread) -> None:
    assert await loop.wait(double(4)) == 8
    assert [item async for item in loop.aiterate(Counter(3).stream())] == [0, 1, 2]


async def test_cancelling_a_consumer_closes_the_stream(loop: LoopThread) -> None:
    counter = Counter(10**9, delay=0.001)

    async def consume() -> None:
        async for _ in loop.aiterate(counter.stream()):
            pass

    task = asyncio.create_task(consume())
    assert await asyncio.to_thread(counter.started.wait, 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(counter.closed.wait, 60)


def test_stop_ends_waiting_readers_with_an_error() -> None:
    thread = LoopThread("test-loop")
    counter = Counter(10**9, delay=0.01)
    ended: list[BaseException] = []

    def read() -> None:
        try:
            list(thread.iterate(counter.stream()))
        except EngineClosedError as error:
            ended.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert counter.started.wait(60)
    thread.stop()
    reader.join(60)
    assert not reader.is_alive()
    assert len(ended) == 1
    with pytest.raises(EngineClosedError):
        thread.run(double(1))


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    """A loop that was stopped, and is not closed yet: work of its own in a thread goes on."""
    thread = LoopThread("test-loop")
    working, cancelled, go_on = threading.Event(), threading.Event(), threading.Event()
    cancel_all = loop_thread._cancel_all

    async def cancel_and_tell(loop: asyncio.AbstractEventLoop) -> None:
        await cancel_all(loop)
        asyncio.get_running_loop().call_soon(cancelled.set)

    def work() -> None:
        working.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(loop_thread, "_cancel_all", cancel_and_tell)
    refused = _ends(EngineClosedError, lambda: thread.run(asyncio.to_thread(work)))
    assert working.wait(PATIENCE)
    stopping = threading.Thread(target=thread.stop)
    stopping.start()
    assert cancelled.wait(PATIENCE)
    assert refused.wait(PATIENCE)
    assert stopping.is_alive()
    yield thread
    go_on.set()
    stopping.join(PATIENCE)
    assert not stopping.is_alive()


def _ask_plainly(thread: LoopThread) -> None:
    thread.run(double(1))


def _iterate_plainly(thread: LoopThread) -> None:
    list(thread.iterate(Counter(1).stream()))


def _ask_from_another_loop(thread: LoopThread) -> None:
    async def ask() -> None:
        await thread.wait(double(1))

    asyncio.run(ask())


def _iterate_in_another_loop(thread: LoopThread) -> None:
    async def iterate() -> None:
        async for _ in thread.aiterate(Counter(1).stream()):
            pass

    asyncio.run(iterate())


@pytest.mark.parametrize(
    "ask", [_ask_plainly, _iterate_plainly, _ask_from_another_loop, _iterate_in_another_loop]
)
def test_who_asks_a_loop_that_ends_is_refused(
    ending: LoopThread, ask: Callable[[LoopThread], None]
) -> None:
    assert _ends(EngineClosedError, lambda: ask(ending)).wait(PATIENCE)


def _ends(error: type[BaseException], ask: Callable[[], object]) -> threading.Event:
    """Ask in a thread of its own; the event is set once that has ended with the error."""
    ended = threading.Event()

    def run() -> None:
        with pytest.raises(error):
            ask()
        ended.set()

    threading.Thread(target=run, daemon=True).start()
    return ended


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_task_that_exits_ends_the_waiting_of_all_others() -> None:
    thread = LoopThread("test-loop")
    counter = Counter(10**9, delay=0.001)

    async def leave() -> None:
        sys.exit("made up")

    reading = _ends(EngineClosedError, lambda: list(thread.iterate(counter.stream())))
    assert counter.started.wait(PATIENCE)
    leaving = _ends(SystemExit, lambda: list(thread.iterate(_streamed(leave()))))
    assert leaving.wait(PATIENCE)
    assert reading.wait(PATIENCE)
    thread.stop()
    with pytest.raises(EngineClosedError):
        thread.run(double(1))


async def _streamed(coroutine: Coroutine[None, None, None]) -> AsyncGenerator[None, None]:
    yield await coroutine


def test_a_loop_may_have_itself_stopped_in_a_thread() -> None:
    """As `ChatModel.aclose` does on the model's own loop; the loop's end waits for that thread."""
    thread = LoopThread("test-loop")

    def ask() -> None:
        with contextlib.suppress(EngineClosedError):  # it may have ended before
            thread.run(asyncio.to_thread(thread.stop))

    threading.Thread(target=ask, daemon=True).start()
    thread._thread.join(PATIENCE)
    assert not thread._thread.is_alive()


def test_waiting_in_the_loops_own_thread_is_refused(loop: LoopThread) -> None:
    async def inside() -> None:
        loop.run(double(1))

    with pytest.raises(EngineError, match="own event loop"):
        loop.run(inside())


# --- LoopBridge and Inbox ---------------------------------------------------------------------------


@pytest.fixture
def source() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that runs in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def inbox_from(source: asyncio.AbstractEventLoop) -> Inbox[int]:
    return Inbox(LoopBridge(source, asyncio.get_running_loop()))


async def test_items_of_many_streams_arrive_in_order(source: asyncio.AbstractEventLoop) -> None:
    bridge = LoopBridge(source, asyncio.get_running_loop())
    inboxes: list[Inbox[int]] = [Inbox(bridge) for _ in range(5)]

    async def send_all() -> None:
        for number in range(1000):
            inboxes[number % 5].put(number)
            if number % 7 == 0:
                await asyncio.sleep(0)

    sending = asyncio.run_coroutine_threadsafe(send_all(), source)
    for index, inbox in enumerate(inboxes):
        assert [await _next(inbox) for _ in range(200)] == list(range(index, 1000, 5))
    sending.result(60)


async def test_what_is_sent_in_one_turn_arrives_in_one(source: asyncio.AbstractEventLoop) -> None:
    bridge = LoopBridge(source, asyncio.get_running_loop())
    inboxes: list[Inbox[int]] = [Inbox(bridge) for _ in range(50)]

    def send_all() -> None:
        for inbox in inboxes:
            inbox.put(1)

    source.call_soon_threadsafe(send_all)
    await inboxes[0].more()
    assert all(inbox.items for inbox in inboxes)


async def test_a_reader_that_waits_is_woken(source: asyncio.AbstractEventLoop) -> None:
    inbox = inbox_from(source)
    waiting = asyncio.create_task(_next(inbox))
    await asyncio.sleep(0)
    source.call_soon_threadsafe(inbox.put, 3)
    assert await asyncio.wait_for(waiting, 60) == 3


async def test_a_cancelled_reader_loses_nothing(source: asyncio.AbstractEventLoop) -> None:
    inbox = inbox_from(source)
    waiting = asyncio.create_task(_next(inbox))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    source.call_soon_threadsafe(inbox.put, 4)
    assert await asyncio.wait_for(_next(inbox), 60) == 4


async def test_a_closed_loop_cancels_every_sender() -> None:
    target = asyncio.new_event_loop()
    bridge = LoopBridge(asyncio.get_running_loop(), target)
    first: Inbox[int] = Inbox(bridge)
    second: Inbox[int] = Inbox(bridge)
    first.put(1)  # its delivery is under way when the loop is closed
    target.close()
    await asyncio.sleep(0)
    for inbox in (first, second, first):
        with pytest.raises(asyncio.CancelledError):
            inbox.put(2)


async def test_each_call_that_a_closed_loop_loses_is_told() -> None:
    target = asyncio.new_event_loop()
    bridge = LoopBridge(asyncio.get_running_loop(), target)
    lost: list[int] = []

    def loses(number: int) -> Callable[[], None]:
        return lambda: lost.append(number)

    for number in range(3):
        bridge.call(lambda _: None, number, loses(number))
    target.close()
    await asyncio.sleep(0)
    assert lost == [0, 1, 2]


async def _next(inbox: Inbox[int]) -> int:
    if not inbox.items:
        await inbox.more()
    return inbox.items.popleft()
