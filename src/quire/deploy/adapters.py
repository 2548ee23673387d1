"""The LoRA adapters of a server, checked where their files are here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.book import BASE, AdapterBook
from quire.adapters.folder import read_adapter
from quire.arguments import ModelArguments
from quire.deploy.model import ServedModel
from quire.engines.vllm.plan import AdapterNeeds
from quire.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """An adapter by the name that requests give; `rank` is None where its files are not here."""

    name: str
    path: str
    """Absolute."""
    rank: int | None


def find_adapters(args: ModelArguments, model: ServedModel) -> tuple[ServedAdapter, ...]:
    """Read the configured adapters; with the model's files here, each must fit them.

    Raises:
        AdapterError: an adapter that is here is broken, does not fit, or has another's name.
        ConfigError: two adapters that are not here have the same name.
    """
    entries = tuple(dict.fromkeys(args.adapter_name_or_path or ()))
    paths = [_locate(entry, args.adapter_folder) for entry in entries]
    if model.folder is not None and all(path.is_dir() for path in paths):
        book = AdapterBook(entries, folder=args.adapter_folder, model_folder=model.folder)
        return tuple(ServedAdapter(one.name, str(one.path), one.rank) for one in book.adapters)
    adapters = tuple(_read(path) for path in dict.fromkeys(paths))
    _check_names(adapters)
    return adapters


def needs(args: ModelArguments, adapters: tuple[ServedAdapter, ...]) -> AdapterNeeds:
    """What the adapters ask of the engine; unknown ranks are taken as `vllm_max_lora_rank`."""
    ranks = [args.vllm_max_lora_rank if one.rank is None else one.rank for one in adapters]
    return AdapterNeeds(max(ranks, default=0), len(adapters), args.adapter_folder is not None)


def _locate(entry: str, folder: str | None) -> Path:
    """The path itself, or where it is not here one inside the folder of adapters; absolute."""
    path = Path(os.path.abspath(Path(entry).expanduser()))
    if folder is None or path.exists():
        return path
    inside = Path(os.path.abspath(Path(folder).expanduser())) / entry
    is_name = Path(entry).name == entry
    return inside if inside.exists() or is_name else path


def _read(path: Path) -> ServedAdapter:
    if path.is_dir():
        adapter = read_adapter(path)
        return ServedAdapter(adapter.name, str(adapter.path), adapter.rank)
    return ServedAdapter(path.name, str(path), None)


def _check_names(adapters: tuple[ServedAdapter, ...]) -> None:
    seen: set[str] = set()
    for one in adapters:
        if one.name in seen or one.name == BASE:
            raise ConfigError(
                f"The adapter {one.path} cannot be called {one.name!r}: the name is taken. Rename "
                "its folder."
            )
        seen.add(one.name)
