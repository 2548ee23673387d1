"""A LoRA adapter's folder, as peft writes it, read and checked before an engine sees it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.lora_config import CONFIG_FILE, LoraConfig, read_config
from quire.adapters.model_modules import ModelModules, read_modules
from quire.adapters.pairs import Changes, check_values, read_changes
from quire.errors import AdapterError, nearest


@dataclass(frozen=True, slots=True)
class Adapter:
    """A checked LoRA adapter."""

    name: str
    path: Path
    """Absolute."""
    rank: int
    """The largest rank in it; an engine's limit on ranks must be at least that."""
    alpha: float
    """The alpha that goes with `rank`: every module is scaled by `scaling`, but in an extended adapter
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
        name: the adapter's; None takes the path's last component.
        extended: the engine also serves biases, embeddings and heads (as pairs or whole), and
            several scalings in one adapter.

    Raises:
        AdapterError: the folder holds no plain LoRA adapter that changes something.
    """
    path = Path(os.path.abspath(path.expanduser()))  # not resolved: a link's own name is the name
    config = read_config(path, extended=extended)
    changes = read_changes(path, extended=extended)
    _check_ranks(path, config, changes, extended=extended)
    _check_names(path, "target_modules", config.target_modules, changes)
    _check_names(path, "modules_to_save", config.modules_to_save, changes)
    check_values(path, changes)
    rank = config.largest_rank
    return Adapter(
        name=name or path.name,
        path=path,
        rank=rank,
        alpha=_alpha_of(rank, config),
        use_rslora=config.use_rslora,
        modules=changes.modules,
        base_model=config.base_model,
        extended=extended,
    )


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
        found = modules.find(name) or _tied_head(name, modules, extended=adapter.extended)
        if found is None:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, which is no module of the model in "
                f"{model_folder}{nearest(name, modules.names)}. {_whose(adapter)}"
            )
        there = modules.weight_shape(found)
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
    """The embeddings, for the head of a model whose two are one matrix; only the one is stored."""
    is_head = extended and name.rpartition(".")[2] == "lm_head"
    return modules.find("model.embed_tokens") if is_head else None


def _whose(adapter: Adapter) -> str:
    base = f": its config names {adapter.base_model}" if adapter.base_model else ""
    return f"The adapter may belong to another model{base}. Serve it with its own."
