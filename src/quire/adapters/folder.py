"""A LoRA adapter's folder, as peft writes it, read and checked before an engine sees it.

It is checked by itself, and against the headers of the model's safetensors.
"""

from __future__ import annotations

import json
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.lora_config import CONFIG_FILE, LoraConfig, read_config
from quire.adapters.weights import (
    AdapterTensors,
    Changes,
    check_values,
    read_changes,
    read_values,
)
from quire.errors import AdapterError, nearest
from quire.weights.hub.cache import snapshot_name
from quire.weights.safetensors import TensorEntry, read_header

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_UNPACKED = ("F64", "F32", "F16", "BF16", "F8_")
"""Types that store one number an element; others may store several, in another shape."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked LoRA adapter."""

    name: str
    path: Path
    """Absolute."""
    rank: int
    """The largest rank in it; an engine's limit on ranks must be at least that."""
    alpha: float
    """The alpha that belongs to `rank`. Every module is scaled by `scaling`, but in an extended adapter
    those for which its config says otherwise."""
    use_rslora: bool
    modules: tuple[str, ...]
    """The modules of the base model that it changes, sorted: `model.layers.0.self_attn.q_proj`."""
    base_model: str | None
    """What the adapter's config names as its base model: a path or a name of the hub."""
    number: int = 0
    """The id that an `AdapterBook` gave it, from 1; 0 before."""
    extended: bool = False
    """Whether it was read as one that may hold more than pairs of linear maps under one scaling."""

    @property
    def scaling(self) -> float:
        """The factor of `B @ A`: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def read_adapter(path: Path, name: str | None = None, *, extended: bool = False) -> Adapter:
    """Read the adapter in the folder `path` and check it by itself; all of its weights are read.

    Args:
        name: the adapter's; None takes the path's last component, or the repository's of a snapshot in
            the hub's cache, whose own is a commit.
        extended: the engine also serves biases, embeddings and heads (as pairs or whole), and
            several scalings in one adapter.

    Raises:
        AdapterError: the folder holds no plain LoRA adapter that changes something.
    """
    # Made absolute but not resolved: the name of a link is the adapter's name.
    path = Path(os.path.abspath(path.expanduser()))
    config = read_config(path, extended=extended)
    changes = read_changes(path, extended=extended)
    _check_ranks(path, config, changes, extended=extended)
    _check_names(path, "target_modules", config.target_modules, changes)
    _check_names(path, "modules_to_save", config.modules_to_save, changes)
    check_values(path, changes)
    rank = config.largest_rank
    return Adapter(
        name=name or (snapshot_name(path) or path.name).rpartition("/")[2],
        path=path,
        rank=rank,
        alpha=_alpha_of(rank, config),
        use_rslora=config.use_rslora,
        modules=changes.modules,
        base_model=config.base_model,
        extended=extended,
    )


def read_tensors(adapter: Adapter) -> AdapterTensors:
    """Read all values of an adapter.

    Raises:
        AdapterError: the files are not what they were when it was checked.
    """
    config = read_config(adapter.path, extended=adapter.extended)
    changes = read_changes(adapter.path, extended=adapter.extended)
    return read_values(adapter.path, changes, config.scaling_of)


def _alpha_of(rank: int, config: LoraConfig) -> float:
    if rank == config.rank:
        return config.alpha
    return config.scaling * (math.sqrt(rank) if config.use_rslora else rank)


def _check_ranks(path: Path, config: LoraConfig, changes: Changes, *, extended: bool) -> None:
    for module, pair in changes.all_pairs():
        if pair.rank != config.rank_of(module):
            raise AdapterError(
                f"The adapter {path} has rank {pair.rank} in the weights of {module}, but "
                f"{config.rank_of(module)} in its {CONFIG_FILE}. Copy both files from one adapter."
            )
        one_scaling = math.isclose(config.scaling_of(module), config.scaling, rel_tol=1e-9)
        if not one_scaling and not extended:
            raise AdapterError(
                f"The adapter {path} scales {module} by {config.scaling_of(module):g} and others by "
                f"{config.scaling:g} (rank_pattern, alpha_pattern); one scaling for all modules is "
                "served. Merge the adapter into the model (peft's merge_and_unload) and serve the "
                "result."
            )


def _check_names(path: Path, key: str, names: tuple[str, ...], changes: Changes) -> None:
    """Refuse a name without weights: it is another model's, or a part of the weights is lost."""
    for name in names:
        if not any(module == name or module.endswith(f".{name}") for module in changes.modules):
            raise AdapterError(
                f"The adapter {path} has {name!r} in {key}, but no weights for it: they "
                f"are lost, or the model never had such a module. Take {name!r} out of "
                f"{key} in {CONFIG_FILE} where the rest is wanted without it."
            )


def check_fits(adapter: Adapter, model_folder: Path) -> None:
    """Check that the model has each module that the adapter changes, in the adapter's shapes.

    Only headers are read. Of a quantised matrix (packed, or not of a floating type) no more than
    its name is checked.

    Raises:
        AdapterError: a module is not the model's, or another shape; or the model's folder has no
            safetensors that can be read.
    """
    modules = read_modules(adapter.path, model_folder)
    changes = read_changes(adapter.path, extended=adapter.extended)
    for name, shape in _changed_shapes(changes):
        stored = modules.find(name) or _tied_head(name, modules, extended=adapter.extended)
        if stored is None:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, which is no module of the model in "
                f"{model_folder}{nearest(name, modules.names)}. {_whose(adapter)}"
            )
        there = modules.weight_shape(stored)
        if there is not None and shape != there[: len(shape)]:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name} as a matrix of shape "
                f"{list(shape)}, but in the model in {model_folder} it has shape "
                f"{list(there)}. {_whose(adapter)}"
            )


def _changed_shapes(changes: Changes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The module and shape [out, in] of every change; [out] of a bias."""
    for name, pair in changes.pairs.items():
        yield name, pair.weight_shape
    for name, pair in changes.embeddings.items():
        yield name, pair.weight_shape[::-1]
    for name, entry in (*changes.matrices.items(), *changes.biases.items()):
        yield name, entry.shape


def _tied_head(name: str, modules: ModelModules, *, extended: bool) -> str | None:
    """The embeddings, for the head of a model that uses one matrix for both, and stores it once."""
    is_head = extended and name.rpartition(".")[2] == "lm_head"
    return modules.find("model.embed_tokens") if is_head else None


def _whose(adapter: Adapter) -> str:
    base = f": its config names {adapter.base_model}" if adapter.base_model else ""
    return f"The adapter may belong to another model{base}. Serve it with its own."


# --- the base model's modules --------------------------------------------------------------------


class ModelModules:
    """The modules of a base model that own a tensor, and the shapes of their matrices.

    An adapter names modules as the model's class does, and the stored weights may name them
    differently: `model.layers.0` for `layers.0`, `language_model.model.layers.0` for
    `model.language_model.layers.0`. So a name is looked up as it is, then without its parts called
    `model`, then by its end from `layers.` on; the last two must be the name of one module alone.
    """

    def __init__(self, tensors: dict[str, TensorEntry]) -> None:
        self._weights = {
            name.removesuffix(".weight"): entry
            for name, entry in tensors.items()
            if name.endswith(".weight")
        }
        self.names = frozenset(name.rpartition(".")[0] for name in tensors) - {""}
        self._without_model = _group(self.names, _without_model)
        self._from_layers = _group(self.names, _from_layers)

    def find(self, name: str) -> str | None:
        """The stored name of the module that an adapter calls `name`; None where there is none."""
        if name in self.names:
            return name
        for groups, key in (
            (self._without_model, _without_model(name)),
            (self._from_layers, _from_layers(name)),
        ):
            names = groups.get(key, []) if key else []
            if len(names) == 1:
                return names[0]
        return None

    def weight_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape [out, in] of a stored module's weight; None where quantising has packed it."""
        weight = self._weights.get(name)
        if weight is None or not weight.dtype.startswith(_UNPACKED):
            return None
        return weight.shape


def _group(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[key(name)].append(name)
    return dict(groups)


def _without_model(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != "model")


def _from_layers(name: str) -> str:
    """The name from its first part `layers` on; empty where it has none."""
    start = f".{name}".find(".layers.")
    return name[start:] if start >= 0 else ""


def read_modules(adapter: Path, model_folder: Path) -> ModelModules:
    """The modules of the model in `model_folder`, for the check of the adapter at `adapter`.

    Raises:
        AdapterError: the folder has no safetensors, or a file of it cannot be read.
    """
    tensors: dict[str, TensorEntry] = {}
    try:
        for path in _weight_files(model_folder):
            tensors.update(_read(path))
    except ValueError as error:
        raise AdapterError(f"The adapter {adapter} cannot be checked: {error}.") from None
    return ModelModules(tensors)


def _read(path: Path) -> dict[str, TensorEntry]:
    try:
        return read_header(path)
    except ValueError as error:
        raise ValueError(f"the model's {path}: {error}; copy the model again") from None


def _weight_files(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    path = folder / _INDEX
    if not path.is_file():
        raise ValueError(f"the model's folder {folder} has neither {_SINGLE} nor {_INDEX}")
    try:
        names = {str(name) for name in json.loads(path.read_bytes())["weight_map"].values()}
    except (ValueError, OSError, KeyError, TypeError, AttributeError, RecursionError):
        raise ValueError(f"the model's {path} is no index; copy the model again") from None
    return [folder / name for name in sorted(names)]
