"""Server-sent events: deltas streamed to one client, at that client's pace.

Deltas that arrive while the client does not read are merged, and go out as one event later. During
silence, comments keep the connection open. The response begins with the first event, so that an
error before it still gets its own status.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import AsyncGenerator, Coroutine, Generator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from quire.outputs import AnswerSum, Delta
from quire.server.errors import Problem, problem_of
from quire.server.streams import CancelOnDisconnect, ClientDisconnected

_COMMENT = b": still here\n\n"
_HEAD: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx would buffer the stream
    ],
}


class Encoder(Protocol):
    """Writes one API's events; each method returns whole events, or nothing."""

    def encode(self, delta: Delta) -> bytes:
        """The events of one delta."""
        ...

    def end(self) -> bytes:
        """The events after the last delta."""
        ...

    def failure(self, problem: Problem) -> bytes:
        """The events for an error that ends the stream."""
        ...


class EventStream(Response):
    """A response that streams deltas.

    Errors before the first event are raised; later ones are written as the encoder's `failure`.
    When the client disconnects, the deltas' generator is closed, which aborts the request.
    """

    def __init__(
        self,
        deltas: AsyncGenerator[Delta, None],
        encoder: Encoder,
        *,
        keep_alive: float = 15.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`keep_alive`: seconds of silence before a comment is sent."""
        self.status_code, self.background = 200, None
        self._deltas, self._encoder, self._keep_alive = deltas, encoder, keep_alive
        self._extra_headers = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ]
        self._merged = AnswerSum()  # deltas that came while the client did not read
        self._writing: asyncio.Task[None] | None = None
        self._started = False
        self._pending = b""  # events that go out with the next ones

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._written_at = self._loop.time()
        timer = self._loop.call_later(self._keep_alive, self._tick)
        self._timer = timer
        try:
            async with CancelOnDisconnect(receive), aclosing(self._deltas) as deltas:
                await self._stream(deltas)
        except ClientDisconnected:
            pass
        finally:
            self._timer.cancel()
            if self._writing is not None:
                self._writing.cancel()

    async def _stream(self, deltas: AsyncGenerator[Delta, None]) -> None:
        failure: Exception | None = None
        try:
            async for delta in deltas:
                self._take(delta)
        except Exception as error:
            if not self._started:
                raise
            failure = error
        self._start()
        while self._writing is not None:  # its callback may begin to write the merged deltas
            await asyncio.wait([self._writing])
        encoder = self._encoder
        end = encoder.end() if failure is None else encoder.failure(problem_of(failure))
        body, self._pending = self._pending + end, b""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _take(self, delta: Delta) -> None:
        if self._writing is not None:  # the client is slow
            self._merged.add(delta)
            return
        events = self._encoder.encode(delta)
        if not events:
            return
        if delta.finish_reason is not None:  # the end most often follows: one write for both
            self._pending += events
        else:
            self._write(events)

    def _write(self, events: bytes) -> None:
        """Write events to the connection; a write that blocks is finished by a task."""
        body, self._pending = self._pending + events, b""
        self._start()
        self._written_at = self._loop.time()
        if self._writing is None:
            message = {"type": "http.response.body", "body": body, "more_body": True}
            self._begin(self._send(message))
        else:
            self._pending = body

    def _start(self) -> None:
        if not self._started:
            self._started = True
            headers = [*_HEAD["headers"], *self._extra_headers]
            self._begin(self._send({**_HEAD, "headers": headers}))

    def _begin(self, sending: Any) -> None:
        task = _run_until_blocked(sending)
        if task is not None:
            self._writing = task
            task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if task.cancelled() or task.exception() is not None:
            return  # the client has disconnected, which `CancelOnDisconnect` sees too
        merged, self._merged = self._merged, AnswerSum()
        events = b"".join(map(self._encoder.encode, merged.deltas()))
        if events or self._pending:
            self._write(events)

    def _tick(self) -> None:
        """Write a comment if nothing was written for long; called by a timer."""
        silent = self._loop.time() - self._written_at
        if silent >= self._keep_alive and self._writing is None:
            self._write(_COMMENT)
            silent = 0.0
        self._timer = self._loop.call_later(max(self._keep_alive - silent, 0.01), self._tick)


def _run_until_blocked(sending: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run a coroutine until it blocks; return the task that finishes it, None if it is done.

    Most writes do not block, and a task for each would cost more than the write.
    """
    try:
        awaited = sending.send(None)
    except StopIteration:
        return None
    return asyncio.ensure_future(_resumed(sending, awaited))


@types.coroutine
def _resumed(sending: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            result = yield awaited
        except BaseException as error:
            awaited = _step(sending.throw, error)
        else:
            awaited = _step(sending.send, result)
        if awaited is _ENDED:
            return


_ENDED = object()


def _step(advance: Any, value: Any) -> Any:
    try:
        return advance(value)
    except StopIteration:
        return _ENDED
