"""Which LoRA adapters one model serves, by name."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quire.adapters.configured import BASE, ConfiguredAdapter, ConfiguredAdapters, locate
from quire.adapters.folder import Adapter, check_fits, read_adapter
from quire.adapters.lora_config import CONFIG_FILE
from quire.errors import AdapterError, UnknownAdapterError, nearest, sentence
from quire.weights.hub.cache import snapshot_name


class AdapterBook:
    """The adapters of one model: the configured ones, and those added and removed while it serves.

    Every method may be called from any thread. The constructor and `add` read all weights of an
    adapter from the disk: call them off the event loop. They do so without the lock, so the others,
    which only look things up, never wait for a disk; `find` looks into one folder.
    """

    def __init__(
        self,
        configured: Sequence[str] = (),
        *,
        folder: str | None = None,
        model_folder: Path,
        extended: bool = False,
        scores: bool = False,
        towers: bool = False,
    ) -> None:
        """Read and check the configured adapters. Requests that name none get the sum of all.

        Args:
            configured: paths, or names of folders inside `folder`; the same one twice counts once.
            folder: a subfolder of each configured adapter, where one has it; else the folder that
                holds more adapters, each in a folder of its own.
            model_folder: of the base model, which every adapter must fit.
            extended: whether the engine serves more than plain LoRA; see `read_adapter`.
            scores: whether the model scores, so that an adapter may bring the head for it.
            towers: whether the engine also applies adapters to a tower that sees or hears.

        Raises:
            AdapterError: an adapter is broken or does not fit.
        """
        found = ConfiguredAdapters.of(configured, folder)
        self.folder = found.folder
        """The folder of further adapters, absolute; None where there is none."""
        self.head_folders = found.head_folders
        """See `ConfiguredAdapters`."""
        self._model_folder, self._towers = model_folder, towers
        self._extended, self._scores = extended, scores
        self._lock = threading.Lock()
        self._adapters: dict[str, Adapter] = {}
        self._names: dict[str, str] = {}  # from a configured path to the adapter's name
        self._last_number = 0
        self._default: str | None = None
        parts = [self._configure(adapter) for adapter in found.configured]
        if parts:
            self._default = parts[0].name if len(parts) == 1 else self._register(_sum(parts)).name

    def _configure(self, adapter: ConfiguredAdapter) -> Adapter:
        # Requests may name one of the hub as the configuration does.
        own = snapshot_name(adapter.root)
        self._names |= dict.fromkeys((*adapter.entries, *([own] if own else [])), adapter.name)
        return self._register(self._read(adapter.name, adapter.path))

    def _locate(self, entry: str | Path) -> Path:
        """The path itself where it exists, else one inside the folder of adapters."""
        return locate(Path(os.path.expanduser(entry)), self.folder, str(entry))

    def _read(self, name: str | None, path: Path) -> Adapter:
        adapter = read_adapter(path, name, extended=self._extended, scores=self._scores)
        if adapter.name == BASE:
            raise AdapterError(
                f"The adapter {adapter.path} cannot be called {BASE!r}: that name asks for the "
                "model without an adapter. Give it another name, or rename its folder."
            )
        stored_names = check_fits(adapter, self._model_folder, towers=self._towers)
        return replace(adapter, stored_names=stored_names)

    def _register(self, adapter: Adapter) -> Adapter:
        """Give the adapter the next number, and serve it. Numbers are never used again.

        Engines know an adapter by its number, so what they keep of a removed one fits no other.
        """
        with self._lock:
            there = self._adapters.get(adapter.name)
            if there is not None:
                raise AdapterError(
                    f"The adapter {adapter.path} cannot be called {adapter.name!r}: that is the "
                    f"name of {there.path}. Rename one of the folders, or give another name."
                )
            self._last_number += 1
            adapter = replace(adapter, number=self._last_number)
            self._adapters[adapter.name] = adapter
        return adapter

    @property
    def default(self) -> str | None:
        """The adapter of requests that name none: the sum of those configured; None is the base model."""
        return self._default

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the adapters, in the order they came."""
        with self._lock:
            return tuple(self._adapters)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters, in the order they came."""
        with self._lock:
            return tuple(self._adapters.values())

    @property
    def largest_rank(self) -> int:
        """The largest rank of all adapters; 0 where there are none."""
        return max((adapter.rank for adapter in self.adapters), default=0)

    def get(self, name: str | None) -> Adapter | None:
        """The adapter that a request asks for; None is the base model.

        Args:
            name: of an adapter, or its path as configured; "base" is the base model, and None asks
                for the default.

        Raises:
            UnknownAdapterError: there is no such adapter.
        """
        with self._lock:
            if name is None:
                name = self._default
            if name is None or name == BASE:
                return None
            adapter = self._adapters.get(name) or self._adapters.get(self._names.get(name, ""))
        if adapter is None:
            raise self._unknown(name)
        return adapter

    def find(self, name: str) -> Path | None:
        """The path of an adapter of this name in the folder, if it is not served yet; else None.

        A name comes from a request, so it never leads out of the folder: it is one component of a
        path, not hidden, and no symbolic link to somewhere else.
        """
        if self.folder is None or not _is_component(name) or name in self.names:
            return None
        path = self.folder / name
        try:
            inside = path.resolve(strict=True).is_relative_to(self.folder.resolve())
            return path if inside and (path / CONFIG_FILE).is_file() else None
        except (OSError, ValueError, RuntimeError):  # too long, no file name, links in a circle
            return None

    def add(self, name: str | None, path: str | Path) -> Adapter:
        """Read an adapter, check it, and serve it from now on, under a number never used before.

        Args:
            name: None takes the path's last component.
            path: a folder, or the name of one inside the folder of adapters.

        Raises:
            AdapterError: the adapter is broken or does not fit, or the name is taken.
        """
        if name is not None and not name.strip():
            raise AdapterError(f"The adapter {path} needs a name that is not empty.")
        return self._register(self._read(name, self._locate(path)))

    def remove(self, name: str) -> Adapter:
        """Stop serving this adapter, and return it.

        If it is the default, there is none from then on: requests that name no adapter get the base
        model, and not another adapter that nobody chose. Adding it again does not change that.

        Raises:
            UnknownAdapterError: there is no adapter of this name.
        """
        with self._lock:
            adapter = self._adapters.pop(name, None)
            if adapter is not None:
                self._names = {path: of for path, of in self._names.items() if of != name}
                self._default = None if self._default == name else self._default
        if adapter is None:
            raise self._unknown(name)
        return adapter

    def _unknown(self, name: str) -> UnknownAdapterError:
        names = self.names
        listed = ", ".join(map(repr, names)) if names else "none"
        return UnknownAdapterError(
            sentence(f"No adapter {name!r} is served{nearest(name, [*names, BASE])}")
            + f" The adapters are: {listed}; {BASE!r} asks for the model without one."
        )


def _is_component(name: str) -> bool:
    return bool(name) and name != BASE and not name.startswith(".") and not set(name) & set("/\\\0")


def _sum(parts: Sequence[Adapter]) -> Adapter:
    """The adapters applied one after the other, as one."""
    rank = sum(part.rank for part in parts)
    return Adapter(
        name="+".join(part.name for part in parts),
        path=Path(",".join(str(part.path) for part in parts)),
        rank=rank,
        alpha=float(rank),
        use_rslora=False,
        modules=tuple(sorted({module for part in parts for module in part.modules})),
        base_model=parts[0].base_model,
        extended=parts[0].extended,
        scores=parts[0].scores,
        vocabulary=max(part.vocabulary for part in parts),
        parts=tuple(parts),
    )
