"""LoRA adapters of the native engine: each is loaded before a request may use it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.engines.native.core.batch import LoadedAdapter, Runner
from quire.errors import EngineClosedError

T = TypeVar("T")


class NativeAdapters:
    """The adapters of one engine; its methods are called from any loop.

    Files are read in one thread of its own, one adapter after the other, while the engine goes on: a
    large adapter, or many requests that wait for it, hold up nothing else. A request keeps what it
    was given, so that dropping an adapter takes nothing from those in flight.
    """

    def __init__(self, book: AdapterBook, runner: Runner) -> None:
        """Load what the book has.

        Raises:
            AdapterError: an adapter changes something that the runner cannot change, or nothing.
        """
        self.book = book
        self._runner = runner
        self.loaded: dict[int, LoadedAdapter] = {}
        """By the adapter's number in the book; empty where there is only the base model."""
        for adapter in book.adapters:
            self._load(adapter)
        self._reader = ThreadPoolExecutor(1, "quire-adapters")

    async def request(self, name: str | None) -> LoadedAdapter | None:
        """What a request for this adapter computes with; None is the base model.

        Raises:
            UnknownAdapterError: there is no such adapter.
            AdapterError: one of this name lies in the folder of adapters and cannot be used.
        """
        path = None if name is None else self.book.find(name)
        if name is not None and path is not None:
            await self._in_reader(lambda: self._add_found(name, path))
        adapter = self.book.get(name)
        if adapter is None:
            return None
        loaded = self.loaded.get(adapter.number)
        if loaded is None:  # another request for it has begun to load it: wait behind that
            loaded = await self._in_reader(lambda: self._loaded_now(adapter))
        return loaded

    async def add(self, name: str | None, path: str) -> Adapter:
        """Check an adapter, load it, and serve it from now on.

        Raises:
            AdapterError: it is broken or does not fit, or the name is taken.
        """
        return await self._in_reader(lambda: self._add(name, path))

    async def drop(self, name: str) -> Adapter:
        """Serve an adapter no more; requests in flight with it end as they would.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        return await self._in_reader(lambda: self._drop(name))

    def close(self) -> None:
        """Forget all adapters, and end the thread. May be called twice."""
        self._reader.shutdown(wait=False, cancel_futures=True)
        self.loaded = {}

    async def _in_reader(self, work: Callable[[], T]) -> T:
        try:
            future = self._reader.submit(work)
        except RuntimeError:
            raise EngineClosedError("The engine was closed.") from None
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            # Told apart from the caller's own cancellation: `close` cancels what still waits.
            task = asyncio.current_task()
            if future.cancelled() and not (task is not None and task.cancelling()):
                raise EngineClosedError("The engine was closed.") from None
            raise

    # --- in the reader's thread ------------------------------------------------------------------

    def _add(self, name: str | None, path: str | Path) -> Adapter:
        adapter = self.book.add(name, path)
        try:
            self._load(adapter)
        except BaseException:
            self.book.remove(adapter.name)
            raise
        return adapter

    def _add_found(self, name: str, path: Path) -> None:
        if name not in self.book.names:
            self._add(name, path)

    def _loaded_now(self, adapter: Adapter) -> LoadedAdapter:
        """The adapter once it is loaded.

        Raises:
            UnknownAdapterError: it could not be loaded, or was dropped meanwhile.
            EngineClosedError: the engine was closed meanwhile.
        """
        now = self.book.get(adapter.name)
        loaded = None if now is None else self.loaded.get(now.number)
        if loaded is None:
            raise EngineClosedError("The engine was closed.")
        return loaded

    def _drop(self, name: str) -> Adapter:
        adapter = self.book.remove(name)
        self.loaded.pop(adapter.number, None)
        return adapter

    def _load(self, adapter: Adapter) -> None:
        self.loaded[adapter.number] = self._runner.load_adapter(adapter)
