"""A client that goes away ends its request, in whatever state that is."""

from __future__ import annotations

import asyncio
from types import TracebackType

from starlette.types import Receive


class ClientGone(Exception):
    """The client closed its connection: there is nobody to answer."""


class Watched:
    """Runs its block in the current task, and cancels that when the client goes away.

    The request's body must have been read. A cancellation from elsewhere stays one.

    Raises:
        ClientGone: at the end of the block, in place of the cancellation.
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
            raise ClientGone from None
