"""LoRA adapters inside vLLM: each is loaded before a request may use it.

vLLM itself loads an adapter with the first request that names it, and its engine dies of one that
does not fit. `add_lora` ahead of the request makes that an error of the caller who asked for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from quire.adapters.book import AdapterBook
from quire.adapters.folder import Adapter, read_tensors
from quire.adapters.lora_config import CONFIG_FILE
from quire.adapters.weights import WEIGHTS_FILE, Floats, LoraPair
from quire.engines.lifetime import scratch_folder
from quire.engines.vllm.errors import as_quire_error
from quire.engines.vllm.launch import RunningEngine
from quire.errors import AdapterError, EngineDeadError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

T = TypeVar("T")

_LOOK = 0.25  # seconds between two looks at whether the engine has died


class VllmAdapters:
    """The adapters of one engine. All methods but `forget` are called from the engine's event loop."""

    def __init__(self, book: AdapterBook) -> None:
        self.book = book
        self._lock = asyncio.Lock()
        self._loaded: dict[int, LoRARequest] = {}
        self._loaded_in: RunningEngine | None = (
            None  # after a restart, nothing of `_loaded` is true
        )
        self._scratch = ExitStack()
        self._written: Path | None = None  # the folder of those that are written for vLLM

    async def request(self, started: RunningEngine, name: str | None) -> LoRARequest | None:
        """Return vLLM's argument for a request with this adapter; None for the base model.

        The adapter is loaded first if it is not yet, also one of the `adapter_folder` that no request
        has named before.

        Raises:
            UnknownAdapterError: there is no such adapter.
            AdapterError: vLLM cannot load it.
        """
        path = None if name is None else self.book.find(name)
        if name is not None and path is not None:  # in the adapter_folder, and not served yet
            async with self._lock:
                # Another request may have added it while this one waited for the lock.
                if name not in self.book.names:
                    await self._add(started, name, str(path))
        adapter = self.book.get(name)
        if adapter is None:
            return None
        if self._loaded_in is started and adapter.number in self._loaded:
            return self._loaded[adapter.number]
        async with self._lock:
            return await self._load(started, adapter)

    async def add(self, started: RunningEngine, name: str | None, path: str) -> Adapter:
        """Check an adapter's folder, load it, and serve it from now on.

        Raises:
            AdapterError: the adapter does not fit, or vLLM cannot load it.
        """
        async with self._lock:
            return await self._add(started, name, path)

    async def drop(self, started: RunningEngine, name: str) -> Adapter:
        """Stop serving an adapter. Requests in flight with it finish normally.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        adapter = self.book.remove(name)
        async with self._lock:
            if self._loaded_in is started and self._loaded.pop(adapter.number, None) is not None:
                await _unless_dead(started, started.engine.remove_lora(adapter.number))
        return adapter

    def forget(self) -> None:
        """Drop the references to the engine, which is about to be closed, and what was written for it."""
        self._loaded_in, self._loaded = None, {}
        self._scratch.close()
        self._written = None

    async def _add(self, started: RunningEngine, name: str | None, path: str) -> Adapter:
        """Enter an adapter into the book and load it; take it out again if vLLM refuses it."""
        adapter = await asyncio.to_thread(self.book.add, name, path)
        try:
            await self._load(started, adapter)
        except BaseException:
            self.book.remove(adapter.name)
            raise
        return adapter

    async def _load(self, started: RunningEngine, adapter: Adapter) -> LoRARequest:
        from vllm.lora.request import LoRARequest

        if self._loaded_in is not started:  # a restarted engine has nothing loaded
            self._loaded_in, self._loaded = started, {}
        request = self._loaded.get(adapter.number)
        if request is not None:
            return request
        folder = await asyncio.to_thread(self._folder_of, adapter)
        request = LoRARequest(adapter.name, adapter.number, str(folder))
        try:
            loaded = await _unless_dead(started, started.engine.add_lora(request))
        except EngineDeadError:
            raise
        except Exception as error:
            reason = as_quire_error(error)
            raise AdapterError(f"vLLM cannot load the adapter {adapter.path}: {reason}") from error
        if not loaded:
            raise AdapterError(f"vLLM did not load the adapter {adapter.path}.")
        self._loaded[adapter.number] = request
        return request

    def _folder_of(self, adapter: Adapter) -> Path:
        """The folder that vLLM reads: the adapter's own, or one that is written for it.

        A sum has no folder; that of a reward model's adapter may hold a head, which vLLM does not
        read.

        Raises:
            AdapterError: the folder cannot be written.
        """
        if not adapter.parts and not adapter.scores:
            return adapter.path
        if self._written is None:
            self._written = self._scratch.enter_context(scratch_folder("quire-adapters-"))
        folder = self._written / str(adapter.number)
        if not (folder / CONFIG_FILE).is_file():
            folder.mkdir(exist_ok=True)
            try:
                write_lora_folder(adapter, folder)
            except (OSError, SafetensorError) as error:
                raise AdapterError(
                    f"The adapter {adapter.path} cannot be written into {folder} for vLLM: {error}. "
                    "Make room there, or set TMPDIR to another folder."
                ) from None
        return folder


async def _unless_dead(started: RunningEngine, call: Coroutine[Any, Any, T]) -> T:
    """What the engine's process answers to a call, for which vLLM waits also where that has died.

    Raises:
        EngineDeadError: it has.
    """
    asking = asyncio.ensure_future(call)
    try:
        while not (await asyncio.wait([asking], timeout=_LOOK))[0]:
            if started.is_dead:
                raise EngineDeadError("vLLM's engine has died.")
        return asking.result()
    finally:
        asking.cancel()


def write_lora_folder(adapter: Adapter, folder: Path) -> None:
    """Write the pairs of an adapter, or of the parts of a sum, with a scaling of 1.

    The parts' A matrices stand above each other, and their B matrices beside each other, so that one
    product is the sum of theirs. Every pair has the rank of the whole, filled up with zeros: vLLM
    reads one rank for all modules.

    Raises:
        AdapterError: a file is not what it was when it was checked.
    """
    gathered: dict[str, tuple[str, list[LoraPair]]] = {}
    for part in adapter.parts or (adapter,):
        for module, pair in read_tensors(part).pairs.items():
            # Parts that were trained with different classes may name one module differently.
            stored = part.stored_names.get(module, module)
            gathered.setdefault(stored, (module, []))[1].append(pair)
    tensors: dict[str, Floats] = {}
    for module, pairs in gathered.values():
        a = np.concatenate([pair.a for pair in pairs])
        b = np.concatenate([pair.b for pair in pairs], axis=1)
        missing = adapter.rank - len(a)
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = np.pad(a, ((0, missing), (0, 0)))
        tensors[f"{name}.lora_B.weight"] = np.pad(b, ((0, 0), (0, missing)))
    save_file(tensors, folder / WEIGHTS_FILE)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": adapter.base_model,
        "r": adapter.rank,
        "lora_alpha": adapter.rank,
        "target_modules": sorted({module.rpartition(".")[2] for module, _ in gathered.values()}),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
