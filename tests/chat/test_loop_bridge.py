"""Calls and items from one loop to another: in order, together, and told when they are lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from quire.chat.loop_thread import Inbox, LoopBridge


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
    for place, inbox in enumerate(inboxes):
        assert [await _next(inbox) for _ in range(200)] == list(range(place, 1000, 5))
    sending.result(1)


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
    assert await asyncio.wait_for(waiting, 5) == 3


async def test_a_cancelled_reader_loses_nothing(source: asyncio.AbstractEventLoop) -> None:
    inbox = inbox_from(source)
    waiting = asyncio.create_task(_next(inbox))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    source.call_soon_threadsafe(inbox.put, 4)
    assert await asyncio.wait_for(_next(inbox), 5) == 4


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
