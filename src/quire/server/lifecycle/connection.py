"""uvicorn's connection, with limits on what a client may send, and when, before any route sees it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sized
from contextlib import suppress
from typing import Any, ClassVar, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

PROBES = frozenset({b"/health", b"/ready"})
"""The paths that are answered however many connections there are."""

_SPARE = 32  # connections beyond the most, of clients that have yet to say what they want
_MAX_PIPELINED = 16  # requests that wait for the answer to the one before them
_FRAMING = 8  # bytes around a chunk that are free for each byte in it; the least chunk needs 5


class Connection(HttpToolsProtocol):
    """One client's connection.

    uvicorn itself has no limits here, and aborting the connection is the answer to what exceeds them:
    a request's headers must arrive within `head_timeout` seconds and have at most `head_limit` bytes,
    and so many bytes may a body have in trailers and around its chunks. Of pipelined requests a few
    wait, and nothing is read while they do. The time in which the next request must begin runs from
    the end of an answer on, whatever else arrives. What a client does not read waits in the
    connection's bounded buffer; if none of it is sent for `reader_timeout` seconds, the connection is
    aborted, which ends its request.

    Of more than `max_connections`, only a probe is answered otherwise than by 503.
    """

    reader_timeout: ClassVar[float] = 60.0
    head_timeout: ClassVar[float] = 60.0
    head_limit: ClassVar[int] = 64 * 2**10
    max_connections: ClassVar[int] = 8192
    spare: ClassVar[OrderedDict[Connection, None]] = OrderedDict()
    """Connections beyond `max_connections` whose first request is not there, the oldest first."""
    _reader_timer: asyncio.TimerHandle | None = None
    _buffered = 0  # bytes in the buffer when the timer was started
    _head_timer: asyncio.TimerHandle | None = None
    _in_head = False
    _head_ended = False  # within the last data received
    _body_size = 0  # bytes of bodies within the last data received
    _excess = 0  # bytes of an incomplete head, around chunks, or of blank lines
    _offer: bytes | None = None  # headers that offered an upgrade, without the offer
    _is_deaf = False  # after too many pipelined requests

    @classmethod
    def of(
        cls, *, reader_timeout: float, head_timeout: float, head_limit: int, max_connections: int
    ) -> type[Connection]:
        """A class of one server's connections with these limits."""
        limits = {
            "reader_timeout": reader_timeout,
            "head_timeout": head_timeout,
            "head_limit": head_limit,
            "max_connections": max_connections,
            "spare": OrderedDict[Connection, None](),
        }
        return type("Connection", (cls,), limits)

    def connection_made(self, transport: Any) -> None:
        """asyncio: the connection is open."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._start_head_timer()
        if len(self.connections) > self.max_connections:
            self.spare[self] = None
            if len(self.spare) > _SPARE:
                self.spare.popitem(last=False)[0]._abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio: the connection is closed."""
        self.spare.pop(self, None)
        self._stop_reader_timer()
        self._end_head()
        super().connection_lost(exc)

    # --- what comes in -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """asyncio: the client has sent data.

        uvicorn's own method stops the keep-alive timer here, for good where no request begins.
        """
        if self._is_deaf:
            return
        self._head_ended, self._body_size = False, 0
        self._feed(data)
        self._check_excess(len(data))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            # The parser has taken the body for another protocol's data, and may take no more requests.
            offer, self._offer = self._offer, None
            if offer is not None:
                self.parser = _parser(self)
                self._feed(offer + data[upgrade.args[0] :])
        except HttpParserError:
            if not self._is_deaf:
                self._refuse()

    def _refuse(self) -> None:
        """Answer what is no HTTP; in the midst of an answer it would be taken for a part of that."""
        if not self._is_idle and (self.pipeline or self.cycle.response_started):
            self._abort()
        else:
            self.send_400_response("This is no valid HTTP request.")

    def _check_excess(self, size: int) -> None:
        """Count what was received beside bodies since the last complete head."""
        if not self._head_ended:
            self._excess = max(0, self._excess + size - (1 + _FRAMING) * self._body_size)
        if self._excess > self.head_limit:
            self._abort()
        elif self._in_head and self._head_timer is None:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """httptools: a request begins."""
        self._unset_keepalive_if_required()
        self._in_head, self._excess = True, 0
        if not self.flow.write_paused:
            self._stop_reader_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a header, or a trailer, which would come after all checks and is dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """httptools: a request's headers are complete."""
        self._end_head()
        self._unset_keepalive_if_required()  # of an answer that ended while they came
        self._in_head, self._head_ended = False, True
        if self._ignores_upgrade():
            return
        if len(self.pipeline) >= _MAX_PIPELINED:
            self.pipeline[0][
                0
            ].keep_alive = False  # the last of them: the client sees where it ended
            self._is_deaf = True
            raise _TooManyRequests
        is_spare = self in self.spare
        self.spare.pop(self, None)
        is_probe = self.url.partition(b"?")[0] in PROBES
        # uvicorn refuses from its limit on, and counts this connection.
        self.limit_concurrency = None if is_probe else self.max_connections + 1
        super().on_headers_complete()
        if is_spare:
            self.cycle.keep_alive = False
        if self.scope["http_version"] < "1.1":
            self.cycle.__class__ = UnframedCycle

    def _ignores_upgrade(self) -> bool:
        """Whether the request offers an upgrade: it is then read again without the offer.

        Clients that know HTTP/2 (curl, Java's, Ktor's) offer h2c with each first request.
        """
        if not self.parser.should_upgrade() or all(name != b"upgrade" for name, _ in self.headers):
            return False
        line = b"%s %s HTTP/%s" % (
            self.parser.get_method(),
            self.url,
            self.parser.get_http_version().encode(),
        )
        lines = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self._offer = b"\r\n".join([line, *lines, b"\r\n"])
        return True

    def on_body(self, body: bytes) -> None:
        """httptools: a piece of a body."""
        self._body_size += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """httptools: a request is complete."""
        if self._offer is None:
            super().on_message_complete()

    def _start_head_timer(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout, self._abort)

    def _end_head(self) -> None:
        self._excess = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    # --- what goes out -----------------------------------------------------------------------------

    def on_response_complete(self) -> None:
        """uvicorn: an answer is written; it may still be in the buffer."""
        super().on_response_complete()
        if self._buffer_size():
            self._start_reader_timer()

    @property
    def _is_idle(self) -> bool:
        """Whether no request is being answered."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is None or cycle.response_complete

    def pause_writing(self) -> None:
        """asyncio: the buffer is full."""
        super().pause_writing()
        self._start_reader_timer()

    def resume_writing(self) -> None:
        """asyncio: the client has read most of the buffer."""
        super().resume_writing()
        if not self._is_idle:
            self._stop_reader_timer()

    def _start_reader_timer(self) -> None:
        self._stop_reader_timer()
        self._buffered = self._buffer_size()
        self._reader_timer = self.loop.call_later(self.reader_timeout, self._check_reader)

    def _stop_reader_timer(self) -> None:
        if self._reader_timer is not None:
            self._reader_timer.cancel()
            self._reader_timer = None

    def _check_reader(self) -> None:
        size = self._buffer_size()
        if size >= self._buffered:
            self._abort()
        elif size:
            self._start_reader_timer()

    def _buffer_size(self) -> int:
        transport: Any = self.transport
        return transport.get_write_buffer_size()

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abort()


def _parser(connection: Connection) -> HttpRequestParser:
    """A parser as uvicorn makes it."""
    parser = HttpRequestParser(connection)
    with suppress(AttributeError):  # before httptools 0.6.3
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
    return parser


class _TooManyRequests(Exception):
    """Stops the parser at a request that is not taken."""


class _Flow(FlowControl):
    """Flow control that reads nothing while requests wait, who asks for more in the meantime."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        """Read on, if no request waits."""
        if not self._waiting:
            super().resume_reading()


class UnframedCycle(RequestResponseCycle):
    """An answer to HTTP/1.0, which knows no chunks: one without a length ends with the connection."""

    _is_unframed = False

    async def send(self, message: Any) -> None:
        """ASGI: send a message."""
        if message["type"] == "http.response.start":
            names = {name.lower() for name, _ in message.get("headers", ())}
            self._is_unframed = b"content-length" not in names
            if self._is_unframed:
                self.chunked_encoding = False
        elif self._is_unframed:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)
