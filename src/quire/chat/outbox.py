"""From one event loop to another, many streams at a time.

Waking another loop is a system call and a switch of threads. A step of an engine feeds many streams
of one caller at once; their items cross together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Outbox:
    """What waits to cross from `source` to `target`; used in the source alone.

    Everything that is sent before the source takes its next turn crosses in one call. A call that
    was made at the first item would let the other thread run between any two of them.
    """

    def __init__(
        self, source: asyncio.AbstractEventLoop, target: asyncio.AbstractEventLoop
    ) -> None:
        self._source, self.target = source, target
        self._items: list[tuple[Inbox[Any], Any]] = []

    def send(self, inbox: Inbox[T], item: T) -> None:
        """Have an item put into the inbox.

        Raises:
            asyncio.CancelledError: the target was closed: nobody reads any more.
        """
        if self.target.is_closed():
            raise asyncio.CancelledError
        if not self._items:
            self._source.call_soon(self._cross)
        self._items.append((inbox, item))

    def _cross(self) -> None:
        items, self._items = self._items, []
        with contextlib.suppress(RuntimeError):  # closed just now: whoever sends next is told
            self.target.call_soon_threadsafe(_deliver, items)


def _deliver(items: list[tuple[Inbox[Any], Any]]) -> None:
    for inbox, item in items:
        inbox.arrive(item)


class Inbox(Generic[T]):
    """One stream's items; `put` runs in the source of the outbox, the others in its target."""

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
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """What is done with the next item to come; asked for where there are none, by one task."""
        self._waiting = self._outbox.target.create_future()
        return self._waiting
