"""An event loop in a thread of its own, and bridges to it from other threads and event loops.

A task is cancelled when its consumer stops, so that an abandoned stream becomes an aborted request.

`call_soon_threadsafe` costs a system call and a thread switch. A step of an engine produces items for
many streams of one caller at once, and a caller may start many streams at once, so `LoopBridge`
batches the calls of one turn of a loop into one `call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from quire.engines.lifetime import Lifetime, memory_is_enough
from quire.errors import EngineClosedError, EngineError

T = TypeVar("T")


class _Gate:
    """The way into a loop that ends: what has passed is done, and nothing passes once it is shut.

    A loop takes calls until it is closed, also those that it will not come to any more: whoever
    waited for one would wait for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_shut = False

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function that gives the loop something to do.

        Raises:
            RuntimeError: the gate is shut, or the loop is closed.
        """
        with self._lock:
            if self._is_shut:
                raise RuntimeError("The loop takes no more calls.")
            return function(*args)

    def shut(self) -> None:
        """Let nothing pass any more."""
        with self._lock:
            self._is_shut = True


class LoopBridge:
    """Makes calls in the event loop `target` from the loop `source`. Used in the source only.

    All calls of one turn of the source are sent together. If the first one woke the target at once,
    the target's thread would compete for the interpreter lock between any two of the others.
    """

    def __init__(
        self,
        source: asyncio.AbstractEventLoop,
        target: asyncio.AbstractEventLoop,
        post: Callable[..., object] | None = None,
    ) -> None:
        """`post` takes the place of the target's `call_soon_threadsafe`, and raises as that does."""
        self._source, self.target = source, target
        self._post = post or target.call_soon_threadsafe
        self._calls: list[_Call] = []

    def call(
        self,
        function: Callable[[T], None],
        item: T,
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        """Call `function(item)` in the target, or `lost()` in the source if the target is closed."""
        if not self._calls:
            self._source.call_soon(self._send)
        self._calls.append((function, item, lost))

    def _send(self) -> None:
        calls, self._calls = self._calls, []
        try:
            self._post(_make_calls, calls)
        except RuntimeError:  # the target was closed
            for _, _, lost in calls:
                lost()


_Call = tuple[Callable[[Any], None], Any, Callable[[], None]]


def _make_calls(calls: list[_Call]) -> None:
    for function, item, _ in calls:
        function(item)


class Inbox(Generic[T]):
    """One stream's items on the far side of a bridge.

    `put` is called in the bridge's source, everything else in its target. It is neither an
    `asyncio.Queue`, which belongs to one loop, nor a `queue.Queue`, on which a loop cannot wait.
    """

    def __init__(self, bridge: LoopBridge) -> None:
        self._bridge = bridge
        self.items: deque[T] = deque()
        self._waiting: asyncio.Future[None] | None = None

    def put(self, item: T) -> None:
        """Send an item to the target.

        Raises:
            asyncio.CancelledError: the target was closed, so that nobody reads any more.
        """
        if self._bridge.target.is_closed():
            raise asyncio.CancelledError
        self._bridge.call(self.arrive, item)

    def arrive(self, item: T) -> None:
        """Add an item to `items` and wake the reader."""
        self.items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def more(self) -> asyncio.Future[None]:
        """A future that is done when the next item arrives. One task may wait, if `items` is empty."""
        self._waiting = self._bridge.target.create_future()
        return self._waiting


@dataclass(frozen=True, slots=True)
class _End:
    """The last item of a stream or call: the exception that ended it, or the call's result."""

    error: BaseException | None = None
    result: Any = None


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Bridges:
    """Both directions between a caller's loop and this thread's; shared by all of its streams."""

    to_loop: LoopBridge
    to_caller: LoopBridge


class _Job:
    """A caller's coroutine as a task of this thread's loop; `put` gets an `_End` however it ends.

    `start` and `cancel` are called in the loop, in either order: a caller may give up before the
    start has crossed the bridge.
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
        """The end of a job that cannot start, since the loop is closed."""
        self._coroutine.close()
        return _End(_closed())

    def _ended(self, task: asyncio.Task[Any]) -> None:
        error = _closed() if task.cancelled() else task.exception()
        with contextlib.suppress(asyncio.CancelledError):  # the caller's loop was closed
            self._put(_End(error) if error is not None else _End(result=task.result()))


class LoopThread:
    """An event loop in its own thread, which runs coroutines and streams for callers elsewhere.

    A loop that is forgotten ends as one that is stopped. In a forked child every call is refused.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Its own, not asyncio's: waiting for that one's threads takes another thread, and none can be
        # started once the interpreter exits.
        helpers: _Threads = weakref.WeakSet()  # the executor's threads
        executor = ThreadPoolExecutor(
            thread_name_prefix="asyncio",
            initializer=lambda: helpers.add(threading.current_thread()),
        )
        self._loop.set_default_executor(executor)
        self._gate = _Gate()
        self._call_soon = partial(self._gate.call, self._loop.call_soon_threadsafe)
        self._bridges_lock = threading.Lock()
        # By the id of the caller's loop. An entry disappears with the last stream that uses it; until
        # then it keeps the loop alive, so that no other loop can get the same id.
        self._bridges: weakref.WeakValueDictionary[int, _Bridges] = weakref.WeakValueDictionary()
        # A daemon, so that a program that has not closed its model can still end. It refers to the
        # loop alone, so that this object can be forgotten.
        self._thread = threading.Thread(
            target=_run_until_stopped,
            args=(self._loop, executor, self._gate),
            name=name,
            daemon=True,
        )
        with memory_is_enough():
            self._thread.start()
        self._life = Lifetime(self, partial(_stop, self._loop, self._thread, helpers))

    @property
    def is_at_home(self) -> bool:
        """Whether this is the process of the loop's thread, and not a forked child of it."""
        return self._life.is_here

    @property
    def is_running_here(self) -> bool:
        """Whether the caller runs in this loop's thread."""
        return threading.current_thread() is self._thread

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine from a thread without an event loop, and wait for its result.

        Ctrl-C in the waiting thread cancels it.

        Raises:
            EngineError: called from the loop's own thread, or in a forked child, where it would wait
                for ever.
            EngineClosedError: `stop` was called.
        """
        with _closed_if_refused(coroutine):
            self.check_caller()
        future = self._submit(coroutine)
        try:
            return future.result()
        except concurrent.futures.CancelledError:  # the loop has ended
            raise _closed() from None
        except BaseException:
            future.cancel()
            raise

    async def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine from any event loop. Cancelling the caller cancels it.

        Raises:
            EngineError: called in a forked child.
            EngineClosedError: `stop` was called.
        """
        with _closed_if_refused(coroutine):
            self._life.check()
        bridges = self._bridges_here()
        inbox: Inbox[_End] = Inbox(bridges.to_caller)
        job = _Job(coroutine, inbox.put)
        bridges.to_loop.call(job.start, self._loop, lambda: inbox.arrive(job.lost()))
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
        """Iterate a stream from a thread without an event loop.

        Nothing runs before the first item is asked for. Closing the generator cancels the stream.

        Raises:
            EngineError: called from the loop's own thread, or in a forked child, where it would wait
                for ever.
            EngineClosedError: `stop` was called.
        """
        self.check_caller()
        # Without a bound: a reader that is slow must not hold up the loop, which serves all others.
        items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        job = _Job(_pump(stream, items.put), items.put)
        try:
            self._call_soon(job.start, self._loop)
        except RuntimeError:
            items.put(job.lost())
        try:
            while not isinstance(item := _next(items), _End):
                yield item
                self._life.check()  # the reader may have forked meanwhile
        except BaseException:
            self._cancel(job)
            raise
        if item.error is not None:
            raise item.error

    async def aiterate(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate a stream from any event loop. Closing the generator cancels the stream.

        Raises:
            EngineError: called in a forked child.
            EngineClosedError: `stop` was called.
        """
        self._life.check()
        bridges = self._bridges_here()
        inbox: Inbox[T | _End] = Inbox(bridges.to_caller)
        job = _Job(_pump(stream, inbox.put), inbox.put)
        bridges.to_loop.call(job.start, self._loop, lambda: inbox.arrive(job.lost()))
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
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the job has ended with it
            self._loop.call_soon_threadsafe(job.cancel)

    def _bridges_here(self) -> _Bridges:
        """The bridges to and from the running event loop."""
        loop = asyncio.get_running_loop()
        with self._bridges_lock:
            bridges = self._bridges.get(id(loop))
            if bridges is None:
                to_loop = LoopBridge(loop, self._loop, self._call_soon)
                bridges = _Bridges(to_loop, LoopBridge(self._loop, loop))
                self._bridges[id(loop)] = bridges
            return bridges

    def stop(self) -> None:
        """Cancel all tasks, then end the loop and its thread. May be called twice.

        From the loop's own thread, or one in which that has something done, it does not wait for the
        end, and in a forked child there is nothing to end.
        """
        self._life.end()

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Any:
        try:
            return self._gate.call(asyncio.run_coroutine_threadsafe, coroutine, self._loop)
        except RuntimeError:
            coroutine.close()
            raise _closed() from None

    def check_caller(self) -> None:
        """Raise EngineError where waiting for the loop would never end.

        That is in the loop's own thread, and in a forked child.
        """
        self._life.check()
        if threading.current_thread() is self._thread:
            raise EngineError("A synchronous method was called from the model's own event loop.")


_LONGEST_WAIT = 0.1 if os.name == "nt" else None
"""Seconds: on Windows, Ctrl-C ends no wait, and is heeded after it."""


def _next(items: queue.SimpleQueue[T]) -> T:
    """The next item; Ctrl-C may be pressed while it is waited for."""
    while True:
        try:
            return items.get(timeout=_LONGEST_WAIT)
        except queue.Empty:
            continue


@contextlib.contextmanager
def _closed_if_refused(coroutine: Coroutine[Any, Any, Any]) -> Generator[None]:
    """Close a coroutine that is not run after all, or Python warns of it."""
    try:
        yield
    except EngineError:
        coroutine.close()
        raise


# --- the thread ----------------------------------------------------------------------------------


def _run_until_stopped(
    loop: asyncio.AbstractEventLoop, executor: ThreadPoolExecutor, gate: _Gate
) -> None:
    try:
        loop.run_forever()  # a task's SystemExit ends it, too
    finally:
        gate.shut()
        try:
            loop.run_until_complete(_cancel_all(loop))
        finally:
            executor.shutdown()
            loop.close()


async def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()


_Threads: TypeAlias = "weakref.WeakSet[threading.Thread]"


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread, helpers: _Threads) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(loop.stop)
    current = threading.current_thread()
    if current is not thread and current not in helpers:  # the loop's end waits for those
        thread.join()


def _closed() -> EngineClosedError:
    return EngineClosedError("The model was closed.")


async def _pump(stream: AsyncGenerator[T, None], put: Callable[[T], None]) -> None:
    """Give each item of a stream to `put`."""
    async with aclosing(stream):
        async for item in stream:
            put(item)
