"""Which LoRA adapters one model serves, by name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from quire.adapters.folder import Adapter, check_fits, read_adapter
from quire.adapters.lora_config import CONFIG_FILE
from quire.errors import AdapterError, UnknownAdapterError, nearest, sentence
from quire.weights.hub.cache import snapshot_name

BASE = "base"
"""The name by which a request asks for the model without any adapter."""


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
    ) -> None:
        """Read and check the configured adapters; the first is the default.

        Args:
            configured: paths, or names of folders inside `folder`; the same one twice counts once.
            folder: the folder that holds more adapters, each in a folder of its own.
            model_folder: of the base model, which every adapter must fit.
            extended: whether the engine serves more than plain LoRA; see `read_adapter`.

        Raises:
            AdapterError: an adapter is broken or does not fit, or two have the same name.
        """
        self._folder = Path(folder).expanduser().absolute() if folder else None
        self._model_folder, self._extended = model_folder, extended
        self._lock = threading.Lock()
        self._adapters: dict[str, Adapter] = {}
        self._names: dict[str, str] = {}  # from a configured path to the adapter's name
        self._last_number = 0
        self._default: str | None = None
        for entry in configured:
            self._configure(entry)

    def _configure(self, entry: str) -> None:
        adapter = self._read(None, self._locate(entry))
        there = self._adapters.get(adapter.name)
        if there is None or there.path.resolve() != adapter.path.resolve():
            self._register(adapter)
        # Requests may name one of the hub as the configuration does.
        self._names |= dict.fromkeys((entry, snapshot_name(adapter.path) or entry), adapter.name)
        if self._default is None:
            self._default = adapter.name

    def _locate(self, entry: str | Path) -> Path:
        """The path itself where it exists, else one inside the folder of adapters."""
        path = Path(entry).expanduser()
        if self._folder is None or path.exists():
            return path
        inside = self._folder / path
        return inside if inside.exists() else path

    def _read(self, name: str | None, path: Path) -> Adapter:
        adapter = read_adapter(path, name, extended=self._extended)
        if adapter.name == BASE:
            raise AdapterError(
                f"The adapter {adapter.path} cannot be called {BASE!r}: that name asks for the "
                "model without an adapter. Give it another name, or rename its folder."
            )
        check_fits(adapter, self._model_folder)
        return adapter

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
        """The adapter of requests that name none: the first configured; None is the base model."""
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
        if self._folder is None or not _is_component(name) or name in self.names:
            return None
        path = self._folder / name
        try:
            inside = path.resolve(strict=True).is_relative_to(self._folder.resolve())
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
