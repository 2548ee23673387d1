"""An event loop in a thread of its own, and bridges to it from other threads and other loops.

Each bridge cancels its task when its consumer stops: an abandoned stream is an aborted request.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import aclosing
from typing import Any, TypeVar

from quire.chat.outbox import Inbox, Outbox
from quire.errors import EngineClosedError, EngineError

T = TypeVar("T")


class _End:
    """Ends a bridged stream; carries the exception that ended it, if one did."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class LoopThread:
    """Runs coroutines and streams for callers anywhere."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._outboxes_lock = threading.Lock()
        # By the loop's id: an outbox lives as long as a stream uses it, and keeps its loop so long.
        self._outboxes: weakref.WeakValueDictionary[int, Outbox] = weakref.WeakValueDictionary()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

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
        return await asyncio.wrap_future(self._submit(coroutine))

    def iterate(self, stream: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Iterate a stream from a plain thread; nothing runs before the first item is asked for."""
        self._refuse_own_thread(stream)
        items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        pump = self._submit(_pump(stream, items.put))
        try:
            while not isinstance(item := items.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            pump.cancel()

    async def aiterate(self, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """Iterate a stream from any loop."""
        inbox: Inbox[T | _End] = Inbox(self._outbox(asyncio.get_running_loop()))
        pump = self._submit(_pump(stream, inbox.put))
        items = inbox.items
        try:
            while True:
                if not items:
                    await inbox.more()
                item = items.popleft()
                if isinstance(item, _End):
                    break
                yield item
            if item.error is not None:
                raise item.error
        finally:
            pump.cancel()

    def _outbox(self, loop: asyncio.AbstractEventLoop) -> Outbox:
        """The way to a caller's loop, one for all of its streams."""
        with self._outboxes_lock:
            outbox = self._outboxes.get(id(loop))
            if outbox is None:
                outbox = self._outboxes[id(loop)] = Outbox(self._loop, loop)
            return outbox

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
            raise EngineClosedError("The model was closed.") from None

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


async def _pump(stream: AsyncGenerator[T, None], put: Callable[[T | _End], None]) -> None:
    """Carry a stream's items, then its end, to where they are wanted."""
    try:
        async with aclosing(stream):
            async for item in stream:
                put(item)
    except asyncio.CancelledError:
        put(_End(EngineClosedError("The model was closed.")))
        raise
    except BaseException as error:
        put(_End(error))
    else:
        put(_End(None))
