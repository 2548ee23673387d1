"""The model and its adapters as the target's machines will find them, and what is known of them here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quire.adapters.book import AdapterBook
from quire.adapters.configured import ConfiguredAdapter, ConfiguredAdapters
from quire.adapters.folder import read_adapter
from quire.arguments import ModelArguments
from quire.demo import named_demo_path
from quire.engines.vllm.model_facts import ModelFacts, read_model_facts
from quire.engines.vllm.plan import AdapterNeeds
from quire.errors import ConfigError, ModelNotFoundError, UnsupportedModelError
from quire.model_folder import is_of_gguf
from quire.weights.folder import read_json
from quire.weights.hub.cache import find_snapshot
from quire.weights.hub.fetch import repository_of
from quire.weights.model_names import is_hub_name


@dataclass(frozen=True)
class ServedModel:
    """A model by its name: an absolute path, or a name of the hub.

    `folder` holds its files; it is None where they are not on this machine, and then `facts` hold no
    sizes.
    """

    name: str
    facts: ModelFacts
    folder: Path | None = None
    from_hub: bool = False
    generation_config: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def is_known(self) -> bool:
        return self.folder is not None


def find_served_model(args: ModelArguments) -> ServedModel:
    """Read the facts of the model where its files are here; nothing is downloaded.

    Raises:
        ConfigError: facts are needed that only the model's files tell.
        ModelNotFoundError: the name is that of a file, or its folder holds no readable config.
        UnsupportedModelError: it is a GGUF model.
    """
    name = args.model_name_or_path
    local = Path(os.path.expanduser(name))
    if is_of_gguf(name):
        raise UnsupportedModelError(
            f"{name} is a GGUF model, which no server of vLLM's own reads without the package "
            "vllm-gguf-plugin, and images of vLLM lack that. Give a folder or a name on the hub with "
            "safetensors, or serve it with `quire serve`."
        )
    if local.exists() and not local.is_dir():
        raise ModelNotFoundError(f"model_name_or_path must be a folder, but {name} is a file.")
    if local.is_dir():
        return _known(str(local.absolute()), local.absolute())
    demo = named_demo_path(name)
    if demo is not None:
        return _known(str(demo), demo)
    if not is_hub_name(name):
        return _unknown(str(local.absolute()), args)
    cached = _cached_folder(name, args)
    if cached is None:
        return replace(_unknown(name, args), from_hub=True)
    return replace(_known(name, cached), from_hub=True)


def _known(name: str, folder: Path) -> ServedModel:
    facts = replace(read_model_facts(folder), folder=Path(name))
    config = read_json(folder, "generation_config.json")
    return ServedModel(name, facts, folder, generation_config=config)


def _unknown(name: str, args: ModelArguments) -> ServedModel:
    """A model without sizes: any number of devices is taken to divide it, any length to fit it."""
    if args.rope_scaling is not None and "hf_overrides" not in (args.vllm_config or {}):
        raise ConfigError(
            f"rope_scaling stretches the length that {name} was trained for, which stands in its "
            "config.json, and that is not on this machine. Run the command where the model is, or "
            "leave rope_scaling out and give vllm_config the key hf_overrides."
        )
    return ServedModel(name, ModelFacts(Path(name), max_positions=args.vllm_maxlen))


def _cached_folder(name: str, args: ModelArguments) -> Path | None:
    """The hub's snapshot in the cache of this machine, if its config is there."""
    folder = find_snapshot(repository_of(name, args))
    return folder if folder is not None and (folder / "config.json").is_file() else None


# --- adapters ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ServedAdapter:
    """A LoRA adapter by the name that requests give; its path is absolute.

    `rank` is None where its files are not on this machine.
    """

    name: str
    path: str
    rank: int | None


@dataclass(frozen=True, slots=True)
class ServedAdapters:
    """The configured adapters, and the folder of further ones."""

    configured: tuple[ServedAdapter, ...] = ()
    folder: str | None = None
    head_folders: tuple[Path, ...] = ()
    """See `ConfiguredAdapters`."""


def find_adapters(
    args: ModelArguments, model: ServedModel, *, scores: bool = False
) -> ServedAdapters:
    """Read the configured adapters; with the model's files here, each must fit them.

    `scores` says that they are a reward model's, which may bring its head.

    Raises:
        AdapterError: an adapter that is here is broken or does not fit.
    """
    entries = args.adapter_name_or_path or ()
    found = ConfiguredAdapters.of(entries, args.adapter_folder)
    folder = None if found.folder is None else args.adapter_folder
    if model.folder is not None and all(adapter.path.is_dir() for adapter in found.configured):
        book = AdapterBook(
            entries, folder=args.adapter_folder, model_folder=model.folder, scores=scores
        )
        adapters = [one for one in book.adapters if not one.parts]
        here = tuple(ServedAdapter(one.name, str(one.path), one.rank) for one in adapters)
        return ServedAdapters(here, folder, found.head_folders)
    there = tuple(_read(adapter, found.folder, scores=scores) for adapter in found.configured)
    return ServedAdapters(there, folder, found.head_folders)


def adapter_needs(args: ModelArguments, adapters: ServedAdapters) -> AdapterNeeds:
    """What the adapters ask of the engine; unknown ranks are taken as `vllm_max_lora_rank`."""
    served = adapters.configured
    ranks = [args.vllm_max_lora_rank if one.rank is None else one.rank for one in served]
    return AdapterNeeds(max(ranks, default=0), len(served), adapters.folder is not None)


def _read(adapter: ConfiguredAdapter, folder: Path | None, *, scores: bool) -> ServedAdapter:
    path = adapter.path
    if path.is_dir():
        return ServedAdapter(adapter.name, str(path), read_adapter(path, scores=scores).rank)
    entry = adapter.entries[0]
    if folder is not None and Path(entry).name == entry:
        path = folder / entry
    return ServedAdapter(adapter.name, str(path), None)
