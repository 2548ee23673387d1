"""Streams of deltas: read to the end, merged, and cancelled when a client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

from starlette.types import Receive


class ClientDisconnected(Exception):
    """The client closed its connection, so that no answer is sent."""


class CancelOnDisconnect:
    """Cancels the current task when the client disconnects during the block.

    The request's body must have been read. Cancellations from elsewhere pass unchanged.

    Raises:
        ClientDisconnected: at the end of the block, in place of the cancellation.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._disconnected = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._listener = asyncio.ensure_future(self._listen())

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._disconnected = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.cancel()
        if self._disconnected and self._task.cancelling():
            self._task.uncancel()
            raise ClientDisconnected from None


T = TypeVar("T")


async def take_all(deltas: AsyncGenerator[T, None], take: Callable[[T], Any]) -> None:
    """Pass every delta to `take`."""
    async with aclosing(deltas) as stream:
        async for delta in stream:
            take(delta)


async def merge(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """The items of all streams as they arrive, each with its stream's index.

    An error of one stream ends all; closing this generator closes them.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
    tasks = [
        asyncio.ensure_future(_feed(index, stream, queue)) for index, stream in enumerate(streams)
    ]
    try:
        running = len(tasks)
        while running:
            event = await queue.get()
            if isinstance(event, BaseException):
                raise event
            if event is None:
                running -= 1
            else:
                yield event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(
    index: int,
    stream: AsyncGenerator[T, None],
    queue: asyncio.Queue[tuple[int, T] | BaseException | None],
) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                queue.put_nowait((index, item))
    except BaseException as error:  # a cancellation, too: the stream's own may be the only one
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)
