"""uvicorn's connection, which gives up a reader that stands still."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """One client's connection.

    The headers of a request must come within `head_timeout` seconds and be of bounded size, before
    and besides what the application looks at: a client that sends them slowly, or for ever, is cut.
    What a client does not read waits in the connection's buffer, of bounded size. When none of it
    has gone out for `reader_timeout` seconds the connection is cut, which ends its request.
    """

    reader_timeout: ClassVar[float] = 60.0
    head_timeout: ClassVar[float] = 60.0
    head_limit: ClassVar[int] = 64 * 2**10
    _timer: asyncio.TimerHandle | None = None
    _waiting = 0
    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0  # bytes of headers that are not complete
    _in_head = False
    _head_ended = False  # in the data that came last

    @classmethod
    def of(cls, *, reader_timeout: float, head_timeout: float, head_limit: int) -> type[Connection]:
        """A class of connections with these limits."""
        limits = {
            "reader_timeout": reader_timeout,
            "head_timeout": head_timeout,
            "head_limit": head_limit,
        }
        return type("Connection", (cls,), limits)

    def connection_made(self, transport: Any) -> None:
        """It has begun."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """The client sends."""
        self._head_ended = False
        super().data_received(data)
        if not self._in_head:
            return
        if not self._head_ended:
            self._head_size += len(data)
        if self._head_size > self.head_limit:
            self._transport().abort()
        elif self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """The headers of a request are there."""
        self._end_head()
        self._in_head, self._head_ended = False, True
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._cut)

    def _end_head(self) -> None:
        self._head_size = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut(self) -> None:
        self._transport().abort()

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
        self._end_head()
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
