"""Server-sent events: a stream of deltas to one client, at that client's pace.

What is written while the client does not read is merged and goes out as one event later. When
nothing comes, a comment keeps the line open. The response begins with the first event, so that an
error before it has a status of its own.
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
        (b"x-accel-buffering", b"no"),  # nginx would gather the stream
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
        """The events of a stream that an error ends."""
        ...


class EventStream(Response):
    """A response that streams deltas.

    Errors before the first event are raised; later ones are written as the encoder's `failure`.
    When the client goes away the deltas' generator is closed, which aborts the request.
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
        self._extra = [
            (name.encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ]
        self._held = AnswerSum()  # what came while the client did not read
        self._writing: asyncio.Task[None] | None = None
        self._started = False
        self._last = b""

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
        fault: Exception | None = None
        try:
            async for delta in deltas:
                self._take(delta)
        except Exception as error:
            if not self._started:
                raise
            fault = error
        self._start()
        while self._writing is not None:  # its callback may begin to write what was held
            await asyncio.wait([self._writing])
        encoder = self._encoder
        end = encoder.end() if fault is None else encoder.failure(problem_of(fault))
        body, self._last = self._last + end, b""
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    def _take(self, delta: Delta) -> None:
        if self._writing is not None:  # the client is slow
            self._held.add(delta)
            return
        events = self._encoder.encode(delta)
        if not events:
            return
        if delta.finish_reason is not None:  # goes with what comes next, most often the end
            self._last += events
        else:
            self._write(events)

    def _write(self, events: bytes) -> None:
        """Hand events over to the connection; what has to wait there is finished by a task."""
        body, self._last = self._last + events, b""
        self._start()
        self._written_at = self._loop.time()
        if self._writing is None:
            message = {"type": "http.response.body", "body": body, "more_body": True}
            self._begin(self._send(message))
        else:
            self._last = body

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._begin(self._send({**_HEAD, "headers": [*_HEAD["headers"], *self._extra]}))

    def _begin(self, sending: Any) -> None:
        waits = _begun(sending)
        if waits is not None:
            self._writing = waits
            waits.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writing = None
        if task.cancelled() or task.exception() is not None:
            return  # the client is gone, which the watcher sees too
        held, self._held = self._held, AnswerSum()
        events = b"".join(map(self._encoder.encode, held.deltas()))
        if events or self._last:
            self._write(events)

    def _tick(self) -> None:
        """Now and then: a comment, where nothing was written for long."""
        silent = self._loop.time() - self._written_at
        if silent >= self._keep_alive and self._writing is None:
            self._write(_COMMENT)
            silent = 0.0
        self._timer = self._loop.call_later(max(self._keep_alive - silent, 0.01), self._tick)


def _begun(sending: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
    """Run a coroutine up to where it has to wait; the task that finishes it, if it does.

    Most writes need not wait, and a task for each would cost more than the write.
    """
    try:
        waited = sending.send(None)
    except StopIteration:
        return None
    return asyncio.ensure_future(_rest(sending, waited))


@types.coroutine
def _rest(sending: Coroutine[Any, Any, None], waited: Any) -> Generator[Any, Any, None]:
    while True:
        try:
            result = yield waited
        except BaseException as error:
            waited = _step(sending.throw, error)
        else:
            waited = _step(sending.send, result)
        if waited is _ENDED:
            return


_ENDED = object()


def _step(advance: Any, value: Any) -> Any:
    try:
        return advance(value)
    except StopIteration:
        return _ENDED
