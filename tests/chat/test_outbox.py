"""Items from one thread to the streams of another thread's loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from quire.chat.outbox import Inbox, Outbox


async def test_items_of_many_streams_arrive_in_order() -> None:
    outbox = Outbox(asyncio.get_running_loop())
    inboxes: list[Inbox[int]] = [Inbox(outbox) for _ in range(5)]

    def send_all() -> None:
        for number in range(1000):
            inboxes[number % 5].put(number)

    thread = threading.Thread(target=send_all)
    thread.start()
    for place, inbox in enumerate(inboxes):
        assert [await _next(inbox) for _ in range(200)] == list(range(place, 1000, 5))
    thread.join()


async def test_a_reader_that_waits_is_woken() -> None:
    inbox: Inbox[str] = Inbox(Outbox(asyncio.get_running_loop()))
    waiting = asyncio.create_task(_next(inbox))
    await asyncio.sleep(0)
    await asyncio.to_thread(inbox.put, "come")
    assert await asyncio.wait_for(waiting, 5) == "come"


async def test_a_cancelled_reader_loses_nothing() -> None:
    inbox: Inbox[str] = Inbox(Outbox(asyncio.get_running_loop()))
    waiting = asyncio.create_task(_next(inbox))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.to_thread(inbox.put, "late")
    assert await asyncio.wait_for(_next(inbox), 5) == "late"


def test_a_closed_loop_cancels_every_sender() -> None:
    loop = asyncio.new_event_loop()
    outbox = Outbox(loop)
    first: Inbox[int] = Inbox(outbox)
    second: Inbox[int] = Inbox(outbox)
    first.put(1)  # its delivery is under way when the loop is closed
    loop.close()
    for inbox in (first, second, first):
        with pytest.raises(asyncio.CancelledError):
            inbox.put(2)


async def _next(inbox: Inbox[int]) -> int:
    await inbox.more()
    return inbox.items.popleft()
