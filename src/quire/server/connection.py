"""uvicorn's connection, which gives up a reader that stands still."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """One client's connection.

    What a client does not read waits in the connection's buffer, of bounded size. When none of it
    has gone out for `reader_timeout` seconds the connection is cut, which ends its request.
    """

    reader_timeout: ClassVar[float] = 60.0
    _timer: asyncio.TimerHandle | None = None
    _waiting = 0

    @classmethod
    def giving_up_after(cls, seconds: float) -> type[Connection]:
        """A class of connections with this `reader_timeout`."""
        return type("Connection", (cls,), {"reader_timeout": seconds})

    def pause_writing(self) -> None:
        """The buffer is full."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self._unwatch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._unwatch()
        self._waiting = self._transport().get_write_buffer_size()
        self._timer = self.loop.call_later(self.reader_timeout, self._check)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        if self._transport().get_write_buffer_size() < self._waiting:
            self._watch()
        else:
            self._transport().abort()

    def _transport(self) -> Any:
        return self.transport
