"""LoRA adapters inside vLLM: each is loaded before a request may use it.

vLLM would load an adapter with the first request that names it, and its engine would die of one
that does not fit. Loaded by itself, such an adapter is an error for whoever asked for it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter
from quire.engines.vllm.failures import translate
from quire.engines.vllm.launch import Started
from quire.errors import AdapterError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class VllmAdapters:
    """The adapters of one engine; all methods are called from the engine's event loop."""

    def __init__(self, book: AdapterBook) -> None:
        self.book = book
        self._lock = asyncio.Lock()
        self._loaded: dict[int, LoRARequest] = {}
        self._of: Started | None = None

    async def request(self, started: Started, name: str | None) -> LoRARequest | None:
        """What vLLM wants to be told with a request for this adapter; None is the base model.

        Raises:
            UnknownAdapterError: there is no such adapter.
            AdapterError: vLLM cannot load it.
        """
        path = None if name is None else self.book.find(name)
        if name is not None and path is not None:  # in the folder of adapters, and not served yet
            async with self._lock:
                if name not in self.book.names:
                    await self._add(started, name, str(path))
        adapter = self.book.get(name)
        if adapter is None:
            return None
        if self._of is started and adapter.number in self._loaded:
            return self._loaded[adapter.number]
        async with self._lock:
            return await self._load(started, adapter)

    async def add(self, started: Started, name: str | None, path: str) -> Adapter:
        """Check an adapter, load it, and serve it from now on.

        Raises:
            AdapterError: it does not fit, or vLLM cannot load it.
        """
        async with self._lock:
            return await self._add(started, name, path)

    async def drop(self, started: Started, name: str) -> Adapter:
        """Serve an adapter no more; requests in flight with it end as they would.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        adapter = self.book.remove(name)
        async with self._lock:
            if self._of is started and self._loaded.pop(adapter.number, None) is not None:
                await started.engine.remove_lora(adapter.number)
        return adapter

    def forget(self) -> None:
        """The engine is about to be closed."""
        self._of, self._loaded = None, {}

    async def _add(self, started: Started, name: str | None, path: str) -> Adapter:
        """Enter an adapter into the book; one that vLLM refuses does not stay there."""
        adapter = await asyncio.to_thread(self.book.add, name, path)
        try:
            await self._load(started, adapter)
        except BaseException:
            self.book.remove(adapter.name)
            raise
        return adapter

    async def _load(self, started: Started, adapter: Adapter) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        if self._of is not started:  # another engine than before has nothing loaded
            self._of, self._loaded = started, {}
        request = self._loaded.get(adapter.number)
        if request is not None:
            return request
        request = LoRARequest(adapter.name, adapter.number, str(adapter.path))
        try:
            loaded = await started.engine.add_lora(request)
        except Exception as error:
            raise _cannot_load(adapter, translate(error)) from error
        if not loaded:
            raise AdapterError(f"vLLM did not load the adapter {adapter.path}.")
        self._loaded[adapter.number] = request
        return request


def _cannot_load(adapter: Adapter, error: Exception) -> AdapterError:
    return AdapterError(f"vLLM cannot load the adapter {adapter.path}: {error}")
