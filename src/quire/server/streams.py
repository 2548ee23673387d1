"""Streams of deltas: whole answers, several as one, and clients that go away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Receive


class ClientDisconnected(Exception):
    """The client closed its connection: there is nobody to answer."""


class CancelOnDisconnect:
    """Runs its block in the current task, and cancels that when the client goes away.

    The request's body must have been read. A cancellation from elsewhere stays one.

    Raises:
        ClientDisconnected: at the end of the block, in place of the cancellation.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._gone = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._watcher = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        self._task.cancel()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watcher.cancel()
        if self._gone and self._task.cancelling():
            self._task.uncancel()
            raise ClientDisconnected from None


T = TypeVar("T")


async def read_whole(
    request: Request, deltas: AsyncGenerator[T, None], take: Callable[[T], Any]
) -> None:
    """Give every delta to `take`; a client that goes away aborts the request.

    Raises:
        ClientDisconnected: the client has gone away.
    """
    async with CancelOnDisconnect(request.receive), aclosing(deltas) as stream:
        async for delta in stream:
            take(delta)


async def together(
    streams: Sequence[AsyncGenerator[T, None]],
) -> AsyncGenerator[tuple[int, T], None]:
    """The items of all streams, each with its stream's place.

    An error of one ends all; closing this closes them.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()
    tasks = [
        asyncio.ensure_future(_feed(place, stream, queue)) for place, stream in enumerate(streams)
    ]
    try:
        running = len(tasks)
        while running:
            found = await queue.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _feed(
    place: int,
    stream: AsyncGenerator[T, None],
    queue: asyncio.Queue[tuple[int, T] | BaseException | None],
) -> None:
    try:
        async with aclosing(stream):
            async for item in stream:
                queue.put_nowait((place, item))
    except Exception as error:
        queue.put_nowait(error)
    else:
        queue.put_nowait(None)
