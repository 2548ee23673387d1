"""The thread in which the native engine steps, and the way there and back for event loops.

Callers on any number of loops and threads hand over commands through one queue; what a step emits
goes back to each loop in one call, however many of its requests are in the batch.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from quire.constraints.matcher import Matcher
from quire.engines.native.batch import LoadedAdapter
from quire.engines.native.engine import Engine, EngineStatistics
from quire.engines.native.pooling import Pooled, PoolingParams
from quire.errors import (
    EngineClosedError,
    EngineDeadError,
    EngineError,
    GenerationError,
    QuireError,
)
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams

logger = logging.getLogger("quire")


@dataclass(eq=False)
class _Inbox:
    """Where one request's deltas wait for their reader; touched in the reader's loop only."""

    loop: asyncio.AbstractEventLoop
    waiting: deque[Delta] = field(default_factory=deque[Delta])
    error: QuireError | None = None
    arrived: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(eq=False)
class _Submission:
    """One request on its way through the thread; `unfinished` counts its open completions."""

    request_id: str
    prompt: Prompt
    params: SamplingParams | PoolingParams
    adapter: LoadedAdapter | None
    matchers: Sequence[Matcher]
    inbox: _Inbox
    unfinished: int


_Mail = list[tuple[_Inbox, "Delta | QuireError"]]


def _deliver(mail: _Mail) -> None:
    """Put deltas into their inboxes; runs in the inboxes' loop."""
    for inbox, item in mail:
        if isinstance(item, Delta):
            inbox.waiting.append(item)
        else:
            inbox.error = item
        inbox.arrived.set()


class EngineThread:
    """Owns an `Engine` and is the only one to touch it once started."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._commands: deque[_Submission | str] = deque()  # a string: abort the request of that id
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()  # guards _ended against submissions that would be lost
        self._ended: EngineError | None = None
        self._closing = False
        self._open: dict[str, _Submission] = {}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def generate(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        adapter: LoadedAdapter | None,
        matchers: Sequence[Matcher] = (),
    ) -> AsyncGenerator[Delta, None]:
        """Submit one request, for the running loop, at the first of its deltas.

        It is aborted when the iterator is closed or its task cancelled.
        """
        inbox = _Inbox(asyncio.get_running_loop())
        return self._deltas(
            _Submission(request_id, prompt, params, adapter, matchers, inbox, params.n)
        )

    async def pool(
        self,
        request_id: str,
        prompt: Prompt,
        params: PoolingParams,
        adapter: LoadedAdapter | None = None,
    ) -> Pooled:
        """Submit one prompt that becomes a vector; aborts it when cancelled.

        Raises:
            RequestError: the engine refuses it.
            EngineError: the engine could not do it.
        """
        inbox = _Inbox(asyncio.get_running_loop())
        submission = _Submission(request_id, prompt, params, adapter, (), inbox, 1)
        async with aclosing(self._deltas(submission)) as deltas:
            last = await anext(deltas)
        if not isinstance(last, Pooled):
            raise GenerationError(last.error or "The engine failed in a step of this request.")
        return last

    async def _deltas(self, submission: _Submission) -> AsyncGenerator[Delta, None]:
        inbox, unfinished = submission.inbox, submission.unfinished
        self._submit(submission)
        try:
            while unfinished:
                if not inbox.waiting:
                    if inbox.error is not None:
                        raise inbox.error
                    inbox.arrived.clear()
                    await inbox.arrived.wait()
                    continue
                delta = inbox.waiting.popleft()
                unfinished -= delta.finish_reason is not None
                yield delta
        finally:
            if unfinished and inbox.error is None:
                self.abort(submission.request_id)

    def abort(self, request_id: str) -> None:
        """Abort a request, wherever it is; one that is not there is ignored."""
        with self._lock:
            if self._ended is not None:
                return
            self._commands.append(request_id)
        self._wake.release()

    @property
    def statistics(self) -> EngineStatistics:
        """The engine's figures; read from another thread, they may be a step apart."""
        return self._engine.statistics

    def check(self) -> None:
        """Raise the error for which the thread has ended, if it has."""
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """End the thread and free the engine; requests under way end with EngineClosedError."""
        self._closing = True
        self._wake.release()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _submit(self, command: _Submission) -> None:
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._commands.append(command)
        self._wake.release()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        ended: EngineError = EngineClosedError("The engine was closed.")
        try:
            while not self._closing:
                if not self._engine.has_work:
                    self._wake.acquire()
                self._take_commands()
                if self._engine.has_work:
                    self._post(self._engine.step())
        except BaseException as error:
            logger.exception("The native engine failed for good.")
            ended = EngineDeadError(f"The engine has failed for good: {error!r}.")
        self._end(ended)

    def _take_commands(self) -> None:
        while self._wake.acquire(blocking=False):
            pass
        while self._commands:
            command = self._commands.popleft()
            if isinstance(command, str):
                self._open.pop(command, None)
                self._engine.abort(command)
            else:
                self._add(command)

    def _add(self, request: _Submission) -> None:
        name, prompt, params = request.request_id, request.prompt, request.params
        try:
            if isinstance(params, PoolingParams):
                self._engine.add_pooling(name, prompt, params, adapter=request.adapter)
            else:
                self._engine.add(
                    name, prompt, params, adapter=request.adapter, matchers=request.matchers
                )
        except QuireError as error:
            self._send([(request.inbox, error)])
        else:
            self._open[request.request_id] = request

    def _post(self, outputs: list[tuple[str, Delta]]) -> None:
        mail: _Mail = []
        for request_id, delta in outputs:
            request = self._open.get(request_id)
            if request is None:
                continue
            mail.append((request.inbox, delta))
            request.unfinished -= delta.finish_reason is not None
            if not request.unfinished:
                del self._open[request_id]
        self._send(mail)

    def _send(self, mail: _Mail) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, _Mail] = {}
        for inbox, item in mail:
            by_loop.setdefault(inbox.loop, []).append((inbox, item))
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # that loop was closed: nobody reads there any more
                self._abandon(loop)

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        for request in [r for r in self._open.values() if r.inbox.loop is loop]:
            del self._open[request.request_id]
            self._engine.abort(request.request_id)

    def _end(self, ended: EngineError) -> None:
        with self._lock:
            self._ended = ended
        queued = [command for command in self._commands if isinstance(command, _Submission)]
        open_now, self._open = [*self._open.values(), *queued], {}
        self._commands.clear()
        self._send([(request.inbox, ended) for request in open_now])
        self._engine.close()
