"""An event loop in a thread of its own, and bridges to it from other threads and other loops.

Each bridge cancels its task when its consumer stops: an abandoned stream is an aborted request.

Waking another loop is a system call and a switch of threads. A step of an engine feeds many streams
of one caller at once, and a caller may begin many at once; what belongs to them crosses together.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from quire.errors import EngineClosedError, EngineError

T = TypeVar("T")


class Crossing:
    """The way from the loop `source` to the loop `target`; used in the source alone.

    All calls that are made before the source takes its next turn cross as one. Were the target woken
    by the first of them, its thread would take the interpreter between any two of the others.
    """

    def __init__(
        self, source: asyncio.AbstractEventLoop, target: asyncio.AbstractEventLoop
    ) -> None:
        self._source, self.target = source, target
        self._calls: list[_Call] = []

    def call(
        self,
        function: Callable[[T], None],
        item: T,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Have `function(item)` called in the target; `lost()` in the source if that is closed."""
        if not self._calls:
            self._source.call_soon(self._cross)
        self._calls.append((function, item, lost))

    def _cross(self) -> None:
        calls, self._calls = self._calls, []
        try:
            self.target.call_soon_threadsafe(_make, calls)
        except RuntimeError:  # the target was closed
            for _, _, lost in calls:
                lost()


_Call = tuple[Callable[[Any], None], Any, Callable[[], None]]


def _make(calls: list[_Call]) -> None:
    for function, item, _ in calls:
        function(item)


class Inbox(Generic[T]):
    """One stream's items; `put` runs in the source of the crossing, the others in its target."""

    def __init__(self, crossing: Crossing) -> None:
        self._crossing = crossing
        self.items: deque[T] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Send an item on its way.

        Raises:
            asyncio.CancelledError: the target was closed: nobody reads any more.
        """
        if self._crossing.target.is_closed():
            raise asyncio.CancelledError
        self._crossing.call(self.arrive, item)

    def arrive(self, item: T) -> None:
        """An item has come."""
        self.items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """Done with the next item to come. One task may ask, while there are no `items`."""
        self._waiting = self._crossing.target.create_future()
        return self._waiting


@dataclass(frozen=True, slots=True)
class _End:
    """Ends a stream or a call: with the exception that ended it, or a call's result."""

    error: BaseException | None = None
    result: Any = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Ways:
    """Between a caller's loop and ours; all of the caller's streams and calls share them."""

    there: Crossing
    back: Crossing


class _Job:
    """A caller's coroutine in our loop; however it ends, its end is put where it is waited for.

    `start` and `cancel` run in our loop, in either order.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], put: Callable[[_End], None]) -> None:
        self._coroutine, self._put = coroutine, put
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._cancelled:
            self._coroutine.close()
            return
        self._task = loop.create_task(self._coroutine)
        self._task.add_done_callback(self._ended)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def lost(self) -> _End:
        """Our loop was closed before the start."""
        self._coroutine.close()
        return _End(_closed())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = _closed() if task.cancelled() else task.exception()
        with contextlib.suppress(asyncio.CancelledError):  # nobody waits any more
            self._put(_End(error) if error is not None else _End(result=task.result()))


class LoopThread:
    """Runs coroutines and streams for callers anywhere."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._ways_lock = threading.Lock()
        # By the loop's id: ways live as long as something uses them, and keep their loop so long.
        self._open_ways: weakref.WeakValueDictionary[int, _Ways] = weakref.WeakValueDictionary()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    @property
    def is_running_here(self) -> bool:
        """Whether the code that asks runs in this loop."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine from a plain thread and wait for it; Ctrl-C cancels it.

        Raises:
            EngineError: called from the loop's own thread, where waiting would last for ever.
        """
        self._refuse_own_thread(coroutine)
        future = self._submit(coroutine)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine from any loop; cancelling the caller cancels it."""
        ways = self._ways()
        inbox: Inbox[_End] = Inbox(ways.back)
        job = _Job(coroutine, inbox.put)
        ways.there.call(job.start, self._loop, lambda: inbox.arrive(job.lost()))
        try:
            await inbox.more()
        except BaseException:
            self._cancel(job)
            raise
        end = inbox.items.popleft()
        if end.error is not None:
            raise end.error
        return end.result

    def iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Iterate a stream from a plain thread; nothing runs before the first item is asked for."""
        self._refuse_own_thread(stream)
        items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        job = _Job(_pump(stream, items.put), items.put)
        try:
            self._loop.call_soon_threadsafe(job.start, self._loop)
        except RuntimeError:
            items.put(job.lost())
        try:
            while not isinstance(item := items.get(), _End):
                yield item
        except BaseException:
            self._cancel(job)
            raise
        if item.error is not None:
            raise item.error

    async def aiterate(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate a stream from any loop."""
        ways = self._ways()
        inbox: Inbox[T | _End] = Inbox(ways.back)
        job = _Job(_pump(stream, inbox.put), inbox.put)
        ways.there.call(job.start, self._loop, lambda: inbox.arrive(job.lost()))
        items = inbox.items
        try:
            while True:
                if not items:
                    await inbox.more()
                item = items.popleft()
                if isinstance(item, _End):
                    break
                yield item
        except BaseException:
            self._cancel(job)
            raise
        if item.error is not None:
            raise item.error

    def _cancel(self, job: _Job) -> None:
        with contextlib.suppress(RuntimeError):  # closed: it has ended
            self._loop.call_soon_threadsafe(job.cancel)

    def _ways(self) -> _Ways:
        """Those of the loop that runs here."""
        loop = asyncio.get_running_loop()
        with self._ways_lock:
            ways = self._open_ways.get(id(loop))
            if ways is None:
                ways = _Ways(Crossing(loop, self._loop), Crossing(self._loop, loop))
                self._open_ways[id(loop)] = ways
            return ways

    def stop(self) -> None:
        """Cancel what still runs, then end the loop and its thread."""
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise _closed() from None

    def _refuse_own_thread(self, work: Any) -> None:
        if threading.current_thread() is self._thread:
            if asyncio.iscoroutine(work):
                work.close()
            raise EngineError("A synchronous method was called from the model's own event loop.")

    async def _cancel_all(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        await self._loop.shutdown_default_executor()


def _closed() -> EngineClosedError:
    return EngineClosedError("The model was closed.")


async def _pump(stream: AsyncGenerator[T, None], put: Callable[[T], None]) -> None:
    """Carry a stream's items to where they are wanted."""
    async with aclosing(stream):
        async for item in stream:
            put(item)
