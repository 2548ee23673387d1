"""From one event loop's thread to another loop, many streams at a time.

Waking another loop is a system call and a switch of threads. A step of an engine feeds many streams
of one caller at once; their items cross together.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Outbox:
    """What waits to cross to `loop`. `send` is called from any other thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._items: list[tuple[Inbox[Any], Any]] = []

    def send(self, inbox: Inbox[T], item: T) -> None:
        """Have an item put into the inbox; the first of a batch wakes the loop.

        Raises:
            asyncio.CancelledError: the loop was closed: nobody reads any more.
        """
        if self._loop.is_closed():  # perhaps with a delivery still to come
            raise asyncio.CancelledError
        with self._lock:
            self._items.append((inbox, item))
            first = len(self._items) == 1
        if first:
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:
                raise asyncio.CancelledError from None

    def _deliver(self) -> None:
        with self._lock:
            items, self._items = self._items, []
        for inbox, item in items:
            inbox.arrive(item)


class Inbox(Generic[T]):
    """One stream's items; `more` and `arrive` run in the loop of the outbox, `put` anywhere else."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.items: deque[T] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Send an item on its way."""
        self._outbox.send(self, item)

    def arrive(self, item: T) -> None:
        """An item has come."""
        self.items.append(item)
        waiting = self._waiting
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def more(self) -> None:
        """Wait until there are `items`; only one task may wait."""
        while not self.items:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
