"""LoRA adapters of the native engine: each is loaded before a request may use it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.engines.native.batch import LoadedAdapter, Runner
from quire.errors import EngineClosedError


class NativeAdapters:
    """The adapters of one engine; its methods are called from any loop.

    Files are read in threads, one adapter at a time, while the engine goes on. A request holds what
    it was given, so that dropping an adapter takes nothing from those under way.
    """

    def __init__(self, book: AdapterBook, runner: Runner) -> None:
        """Load what the book has.

        Raises:
            AdapterError: an adapter changes something that the runner cannot change, or nothing.
        """
        self.book = book
        self._runner = runner
        self._lock = threading.RLock()  # held while an adapter is loaded
        self._loaded: dict[int, LoadedAdapter] = {}
        for adapter in book.adapters:
            self._load(adapter)

    async def request(self, name: str | None) -> LoadedAdapter | None:
        """What a request for this adapter computes with; None is the base model.

        Raises:
            UnknownAdapterError: there is no such adapter.
            AdapterError: one of this name lies in the folder of adapters and cannot be used.
        """
        path = None if name is None else self.book.find(name)
        if name is not None and path is not None:
            await asyncio.to_thread(self._add_found, name, path)
        adapter = self.book.get(name)
        if adapter is None:
            return None
        loaded = self._loaded.get(adapter.number)
        if loaded is None:  # another request for it has begun to load it
            loaded = await asyncio.to_thread(self._wait, adapter)
        return loaded

    async def add(self, name: str | None, path: str) -> Adapter:
        """Check an adapter, load it, and serve it from now on.

        Raises:
            AdapterError: it is broken or does not fit, or the name is taken.
        """
        return await asyncio.to_thread(self._add, name, path)

    async def drop(self, name: str) -> Adapter:
        """Serve an adapter no more; requests under way with it end as they would.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        return await asyncio.to_thread(self._drop, name)

    def forget(self) -> None:
        """The engine was closed."""
        self._loaded = {}

    # --- in threads ------------------------------------------------------------------------------

    def _add(self, name: str | None, path: str | Path) -> Adapter:
        with self._lock:
            adapter = self.book.add(name, path)
            try:
                self._load(adapter)
            except BaseException:
                self.book.remove(adapter.name)
                raise
            return adapter

    def _add_found(self, name: str, path: Path) -> None:
        with self._lock:
            if name not in self.book.names:
                self._add(name, path)

    def _wait(self, adapter: Adapter) -> LoadedAdapter:
        """The adapter once it is loaded.

        Raises:
            UnknownAdapterError: it could not be loaded, or was dropped meanwhile.
            EngineClosedError: the engine was closed meanwhile.
        """
        with self._lock:
            now = self.book.get(adapter.name)
            assert now is not None
            loaded = self._loaded.get(now.number)
        if loaded is None:
            raise EngineClosedError("The engine was closed.")
        return loaded

    def _drop(self, name: str) -> Adapter:
        with self._lock:
            adapter = self.book.remove(name)
            self._loaded.pop(adapter.number, None)
            return adapter

    def _load(self, adapter: Adapter) -> None:
        self._loaded[adapter.number] = self._runner.load_adapter(adapter)
