"""uvicorn's connection, with limits on slow senders and slow readers."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Connection(HttpToolsProtocol):
    """One client's connection.

    A request's headers must arrive within `head_timeout` seconds and have at most `head_limit` bytes,
    which uvicorn itself does not check, or the connection is aborted. What a client does not read
    waits in the connection's bounded buffer. If none of it is sent for `reader_timeout` seconds, the
    connection is aborted, which ends its request.
    """

    reader_timeout: ClassVar[float] = 60.0
    head_timeout: ClassVar[float] = 60.0
    head_limit: ClassVar[int] = 64 * 2**10
    _reader_timer: asyncio.TimerHandle | None = None
    _buffered = 0  # bytes in the buffer when the timer was started
    _head_timer: asyncio.TimerHandle | None = None
    _head_size = 0  # bytes of incomplete headers
    _in_head = False
    _head_ended = False  # within the last data received

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
        """asyncio: the connection is open."""
        super().connection_made(transport)
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """asyncio: the client has sent data."""
        self._head_ended = False
        super().data_received(data)
        if not self._in_head:
            return
        if not self._head_ended:
            self._head_size += len(data)
        if self._head_size > self.head_limit:
            self._abort()
        elif self._head_timer is None:
            self._start_head_timer()

    def on_headers_complete(self) -> None:
        """httptools: a request's headers are complete."""
        self._end_head()
        self._in_head, self._head_ended = False, True
        super().on_headers_complete()

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._in_head = True
        super().on_message_begin()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._abort)

    def _end_head(self) -> None:
        self._head_size = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def pause_writing(self) -> None:
        """asyncio: the buffer is full."""
        super().pause_writing()
        self._start_reader_timer()

    def resume_writing(self) -> None:
        """asyncio: the client has read most of the buffer."""
        super().resume_writing()
        self._stop_reader_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is closed."""
        self._stop_reader_timer()
        self._end_head()
        super().connection_lost(exc)

    def _start_reader_timer(self) -> None:
        self._stop_reader_timer()
        self._buffered = self._buffer_size()
        self._reader_timer = self.loop.call_later(self.reader_timeout, self._check_reader)

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _check_reader(self) -> None:
        if self._buffer_size() < self._buffered:
            self._start_reader_timer()
        else:
            self._abort()

    def _buffer_size(self) -> int:
        transport: Any = self.transport
        return transport.get_write_buffer_size()

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abort()
