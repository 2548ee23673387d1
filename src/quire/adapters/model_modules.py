"""The modules of a base model, by the names and shapes in its safetensors headers.

An adapter names modules as the model's class does, and the stored weights may name them otherwise:
`model.layers.0` for `layers.0`, `language_model.model.layers.0` for `model.language_model.layers.0`.
So a name is looked up as it is, then without its parts called `model`, then by its end from
`layers.` on; the last two must be the name of one module alone.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from quire.errors import AdapterError
from quire.weights.safetensors import TensorEntry, read_header

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_UNPACKED = ("F64", "F32", "F16", "BF16", "F8_")
"""Types that are stored one number an element; others may hold several, in another shape."""


class ModelModules:
    """The modules that own a tensor, and the shapes of their matrices."""

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
            found = groups.get(key, []) if key else []
            if len(found) == 1:
                return found[0]
        return None

    def weight_shape(self, name: str) -> tuple[int, ...] | None:
        """The shape [out, in] of a stored module's weight; None where it is packed by quantising."""
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
