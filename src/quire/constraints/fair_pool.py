"""A few threads for work that may take seconds, given to those who wait for them in turn."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from quire.errors import EngineBusyError, EngineClosedError

T = TypeVar("T")


_THREADS = 2
_PATIENCE = 10.0  # seconds


def grammar_pool() -> FairPool:
    """The threads in which one engine's constraints are read and compiled."""
    return FairPool(_THREADS, "quire-grammar", _PATIENCE)


class FairPool:
    """Threads for slow work. Whoever asks for much of it waits behind those who ask for little.

    Each `key` has a queue of its own, and the queues are served in turn. Its methods may be called
    from any event loop.

    Args:
        threads: how many pieces of work are done at once.
        name: of the threads.
        patience: seconds that a piece of work may wait for its turn.
    """

    def __init__(self, threads: int, name: str, patience: float) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._patience = patience
        self._lock = threading.Lock()  # guards the two below
        self._free = threads
        self._queues: OrderedDict[str, deque[_Turn]] = OrderedDict()  # the first is served next

    async def run(
        self, key: str, work: Callable[[threading.Event], T], seconds: float | None = None
    ) -> T:
        """Do this work in a thread. Its argument is set once nobody waits for the result any more.

        Raises:
            EngineBusyError: its turn does not come in time.
            TimeoutError: it takes more than `seconds` from its turn on.
            EngineClosedError: the pool was closed.
        """
        await self._take_turn(key)
        given_up = threading.Event()
        try:
            future = self._pool.submit(work, given_up)
        except RuntimeError:
            self._pass_on()
            raise EngineClosedError("The engine was closed.") from None
        # The thread is taken until the work has ended, whatever becomes of the request.
        future.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        finally:
            given_up.set()

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False)

    async def _take_turn(self, key: str) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = _Turn(asyncio.get_running_loop())
            self._queues.setdefault(key, deque()).append(turn)
        try:
            async with asyncio.timeout(self._patience):
                await turn.come
        except BaseException as error:
            if not self._withdraw(key, turn):  # it came in this very moment
                self._pass_on()
            if isinstance(error, TimeoutError):
                raise EngineBusyError(
                    "response_format: too many others are being compiled. Try again soon."
                ) from None
            raise

    def _withdraw(self, key: str, turn: _Turn) -> bool:
        """Wait no more; False if the turn has come."""
        with self._lock:
            queue = self._queues.get(key, deque())
            if turn not in queue:
                return False
            queue.remove(turn)
            if not queue:
                del self._queues[key]
            return True

    def _ended(self, future: Future[Any]) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the thread to the next who waits."""
        with self._lock:
            while self._queues:
                key, queue = self._queues.popitem(last=False)
                turn = queue.popleft()
                if queue:
                    self._queues[key] = queue  # behind all other keys
                if turn.give():
                    return
            self._free += 1


class _Turn:
    """One who waits, in the event loop in which it does."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.come = loop.create_future()

    def give(self) -> bool:
        """Tell that the turn has come, from any thread; False if nobody can be told any more."""
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # the loop was closed
            return False
        return True

    def _set(self) -> None:
        if not self.come.done():
            self.come.set_result(None)
