"""From one event loop to another, many streams at a time.

Waking another loop is a system call and a switch of threads. A step of an engine feeds many streams
of one caller at once, and a caller may begin many at once; what belongs to them crosses together.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Crossing:
    """The way from the loop `source` to the loop `target`; used in the source alone.

    All calls that are made before the source takes its next turn cross as one. Were the target woken
    by the first of them, its thread would take the interpreter between any two of the others.
    """

    def __init__(
        self, source: asyncio.AbstractEventLoop, target: asyncio.AbstractEventLoop
    ) -> None:
        self._source, self.target = source, target
        self._calls: list[_Call] = []

    def call(
        self,
        function: Callable[[T], None],
        item: T,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Have `function(item)` called in the target; `lost()` in the source if that is closed."""
        if not self._calls:
            self._source.call_soon(self._cross)
        self._calls.append((function, item, lost))

    def _cross(self) -> None:
        calls, self._calls = self._calls, []
        try:
            self.target.call_soon_threadsafe(_make, calls)
        except RuntimeError:  # the target was closed
            for _, _, lost in calls:
                lost()


_Call = tuple[Callable[[Any], None], Any, Callable[[], None]]


def _make(calls: list[_Call]) -> None:
    for function, item, _ in calls:
        function(item)


class Inbox(Generic[T]):
    """One stream's items; `put` runs in the source of the crossing, the others in its target."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self.items: deque[T] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Send an item on its way.

        Raises:
            asyncio.CancelledError: the target was closed: nobody reads any more.
        """
        if self._crossing.target.is_closed():
            raise asyncio.CancelledError
        self._crossing.call(self.arrive, item)

    def arrive(self, item: T) -> None:
        """An item has come."""
        self.items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """Done with the next item to come. One task may ask, while there are no `items`."""
        self._waiting = self._crossing.target.create_future()
        return self._waiting
