"""A LoRA adapter's folder, as peft writes it, read and checked before an engine sees it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.lora_config import CONFIG_FILE, LoraConfig, read_config
from quire.adapters.model_modules import read_modules
from quire.adapters.pairs import Pair, check_values, read_pairs
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
    """The alpha that goes with `rank`: every module is scaled by `scaling`."""
    use_rslora: bool
    modules: tuple[str, ...]
    """The modules of the base model that it changes, sorted: `model.layers.0.self_attn.q_proj`."""
    base_model: str | None
    """What the adapter's config names as its base model: a path or a name of the hub."""
    number: int = 0
    """The id that an `AdapterBook` gave it, from 1; 0 before."""

    @property
    def scaling(self) -> float:
        """The factor of `B @ A`: alpha / rank, or alpha / sqrt(rank) with rsLoRA."""
        return self.alpha / (math.sqrt(self.rank) if self.use_rslora else self.rank)


def read_adapter(path: Path, name: str | None = None) -> Adapter:
    """Read the adapter in the folder `path` and check it by itself; all of its weights are read.

    Args:
        name: the adapter's; None takes the path's last component.

    Raises:
        AdapterError: the folder holds no plain LoRA adapter that changes something.
    """
    path = Path(os.path.abspath(path.expanduser()))  # not resolved: a link's own name is the name
    config = read_config(path)
    pairs = read_pairs(path)
    _check_ranks(path, config, pairs)
    _check_targets(path, config, pairs)
    check_values(path, pairs)
    rank = config.largest_rank
    return Adapter(
        name=name or path.name,
        path=path,
        rank=rank,
        alpha=_alpha_of(rank, config),
        use_rslora=config.use_rslora,
        modules=tuple(pairs),
        base_model=config.base_model,
    )


def _alpha_of(rank: int, config: LoraConfig) -> float:
    if rank == config.rank:
        return config.alpha
    return config.scaling * (math.sqrt(rank) if config.use_rslora else rank)


def _check_ranks(path: Path, config: LoraConfig, pairs: Mapping[str, Pair]) -> None:
    for module, pair in pairs.items():
        if pair.rank != config.rank_of(module):
            raise AdapterError(
                f"The adapter {path} has rank {pair.rank} in the weights of {module}, but "
                f"{config.rank_of(module)} in its {CONFIG_FILE}. Copy both files from one adapter."
            )
        if not math.isclose(config.scaling_of(module), config.scaling, rel_tol=1e-9):
            raise AdapterError(
                f"The adapter {path} scales {module} by {config.scaling_of(module):g} and others by "
                f"{config.scaling:g} (rank_pattern, alpha_pattern); one scaling for all modules is "
                "served. Merge the adapter into the model (peft's merge_and_unload) and serve the "
                "result."
            )


def _check_targets(path: Path, config: LoraConfig, pairs: Mapping[str, Pair]) -> None:
    """Refuse a target without weights: it is another model's, or a part of the weights is lost."""
    for target in config.target_modules:
        if not any(module == target or module.endswith(f".{target}") for module in pairs):
            raise AdapterError(
                f"The adapter {path} has {target!r} in target_modules, but no weights for it: they "
                f"are lost, or the model never had such a module. Take {target!r} out of "
                f"target_modules in {CONFIG_FILE} where the rest is wanted without it."
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
    for name, pair in read_pairs(adapter.path).items():
        found = modules.find(name)
        if found is None:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, which is no module of the model in "
                f"{model_folder}{nearest(name, modules.names)}. {_whose(adapter)}"
            )
        shape = modules.weight_shape(found)
        if shape is not None and shape != pair.weight_shape:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name} as a matrix of shape "
                f"{list(pair.weight_shape)}, but in the model in {model_folder} it has shape "
                f"{list(shape)}. {_whose(adapter)}"
            )


def _whose(adapter: Adapter) -> str:
    base = f": its config names {adapter.base_model}" if adapter.base_model else ""
    return f"The adapter may belong to another model{base}. Serve it with its own."
