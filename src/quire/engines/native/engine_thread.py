"""The thread in which the native engine steps, and the way there and back for event loops.

Callers on any number of loops and threads hand over commands through one queue; what a step emits
goes back to each loop in one call, however many of its requests are in the batch.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence

from quire.constraints.matcher import Matcher
from quire.engines.lifetime import HomeProcess
from quire.engines.native.core.batch import LoadedAdapter
from quire.engines.native.core.engine import Engine, EngineStatistics
from quire.engines.native.core.pooling import Pooling
from quire.errors import EngineClosedError, EngineDeadError, EngineError, QuireError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.sampling import SamplingParams

logger = logging.getLogger("quire")


class Submission:
    """One request on its way through the thread, and where its deltas wait for their reader.

    Its deltas are read in the event loop in which it was made, and nowhere else. Its `number` is what
    the engine knows it by: no caller chooses it, so that an abort can only ever reach this request.
    """

    _numbers = itertools.count()

    def __init__(
        self,
        thread: EngineThread,
        prompt: Prompt,
        params: SamplingParams | Pooling,
        adapter: LoadedAdapter | None,
        matchers: Sequence[Matcher] = (),
    ) -> None:
        self.number = f"request-{next(self._numbers)}"
        self.prompt, self.params, self.adapter, self.matchers = prompt, params, adapter, matchers
        self.loop = asyncio.get_running_loop()
        self.open_here = self.open_there = 1 if isinstance(params, Pooling) else params.n
        """Completions whose last delta is not read yet, and not posted yet; the first count belongs
        to the reader's loop, the second to the engine's thread."""
        self._thread = thread
        self._waiting: deque[Delta] = deque()
        self._error: QuireError | None = None
        self._arrived = asyncio.Event()

    async def deltas(self) -> AsyncGenerator[Delta, None]:
        """Submit the request, and give its deltas; closing it before the last one aborts the request.

        Raises:
            RequestError: the engine refuses it.
            EngineError: the engine could not do it.
        """
        self._thread.submit(self)
        try:
            while self.open_here:
                if not self._waiting:
                    if self._error is not None:
                        raise self._error
                    # `arrive` runs in this loop too, so that nothing comes between the two lines.
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                delta = self._waiting.popleft()
                if delta.finish_reason is not None:
                    self.open_here -= 1
                yield delta
        finally:
            if self.open_here and self._error is None:
                self._thread.abort(self)

    def arrive(self, item: Delta | QuireError) -> None:
        """Take what the engine's thread has sent; runs in the reader's loop."""
        if isinstance(item, Delta):
            self._waiting.append(item)
        else:
            self._error = item
        self._arrived.set()


_Mail = list[tuple[Submission, "Delta | QuireError"]]


def _deliver(mail: _Mail) -> None:
    # One callback for all requests of a loop: a step of 64 streams wakes the loop once, not 64 times.
    for submission, item in mail:
        submission.arrive(item)


class EngineThread:
    """Owns an `Engine` and is the only one to touch it once started."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._home = HomeProcess()
        self._engine = engine
        self._commands: deque[tuple[Submission, bool]] = deque()  # False: abort it
        self._wake = threading.Semaphore(0)
        self._lock = threading.Lock()  # guards _ended against submissions that would be lost
        self._ended: EngineError | None = None
        self._closing = False
        self._open: dict[str, Submission] = {}
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Have a request computed; a refusal arrives as its error.

        Raises:
            EngineClosedError, EngineDeadError: the thread has ended.
        """
        with self._lock:
            if self._ended is not None:
                raise self._ended
            self._commands.append((submission, True))
        self._wake.release()

    def abort(self, submission: Submission) -> None:
        """Abort a request, wherever it is; one that has ended is ignored."""
        with self._lock:
            if self._ended is not None:
                return
            self._commands.append((submission, False))
        self._wake.release()

    @property
    def statistics(self) -> EngineStatistics:
        """The engine's figures; read from another thread, they may be a step apart."""
        return self._engine.statistics

    def check(self) -> None:
        """Raise the error for which the thread has ended, if it has; in a forked child, that it is not there."""
        self._home.check()
        if self._ended is not None:
            raise self._ended

    def close(self) -> None:
        """End the thread and free the engine; requests in flight end with EngineClosedError."""
        self._closing = True
        self._wake.release()
        # The garbage collector may close a forgotten engine in its own thread, which cannot wait for
        # itself.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # --- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        ended: EngineError = EngineClosedError("The engine was closed.")
        try:
            while not self._closing:
                if not self._engine.has_work:
                    self._wake.acquire()
                if self._commands:
                    self._take_commands()
                if self._engine.has_work:
                    self._post(self._engine.step())
        except EngineDeadError as error:
            logger.error("%s", error)
            ended = error
        except BaseException as error:  # of any kind, or every reader would wait for ever
            logger.exception("The native engine failed for good.")
            ended = EngineDeadError(f"The engine has failed for good: {error!r}.")
        finally:
            self._end(ended)

    def _take_commands(self) -> None:
        while self._wake.acquire(blocking=False):  # one look at the queue serves all who woke us
            pass
        while self._commands:
            submission, is_new = self._commands.popleft()
            if is_new:
                self._add(submission)
            else:
                self._open.pop(submission.number, None)
                self._engine.abort(submission.number)

    def _add(self, new: Submission) -> None:
        self._open[new.number] = new  # first: whatever is raised here, its reader is told
        try:
            if isinstance(new.params, Pooling):
                self._engine.add_pooling(new.number, new.prompt, new.params, adapter=new.adapter)
            else:
                self._engine.add(
                    new.number,
                    new.prompt,
                    new.params,
                    adapter=new.adapter,
                    matchers=new.matchers,
                )
        except QuireError as error:
            del self._open[new.number]
            self._send([(new, error)])

    def _post(self, outputs: list[tuple[str, Delta]]) -> None:
        mail: _Mail = []
        for number, delta in outputs:
            submission = self._open.get(number)
            if submission is None:  # aborted, or its loop was closed
                continue
            mail.append((submission, delta))
            if delta.finish_reason is not None:
                submission.open_there -= 1
                if not submission.open_there:
                    del self._open[number]
        if mail:
            self._send(mail)

    def _send(self, mail: _Mail) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, _Mail] = {}
        for one in mail:
            by_loop.setdefault(one[0].loop, []).append(one)
        for loop, items in by_loop.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:  # that loop was closed: nobody reads there any more
                self._abandon(loop)

    def _abandon(self, loop: asyncio.AbstractEventLoop) -> None:
        for submission in [one for one in self._open.values() if one.loop is loop]:
            del self._open[submission.number]
            self._engine.abort(submission.number)

    def _end(self, ended: EngineError) -> None:
        with self._lock:
            self._ended = ended
        queued = [submission for submission, is_new in self._commands if is_new]
        open_now, self._open = [*self._open.values(), *queued], {}
        self._commands.clear()
        # Readers are told before the engine is closed, since closing it may fail too.
        self._send([(submission, ended) for submission in open_now])
        self._engine.close()
