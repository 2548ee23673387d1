"""The names under which the model and its adapters are served."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from quire.adapters.book import BASE
from quire.chat.base_engine import BaseEngine
from quire.errors import nearest, sentence
from quire.server.errors import ModelNotServed
from quire.weights.gguf_names import model_stem, split_quant
from quire.weights.model_names import is_ollama_name

_LISTED = 5
"""Names that an error lists."""


@dataclass(frozen=True, slots=True)
class ServedName:
    """One name that a client may give as `model`; `parent` is an adapter's base model."""

    name: str
    created: int
    parent: str | None = None


class ServedModels:
    """Values that `model` may have: the served name, the adapters, and "base" for no adapter.

    The served name selects the engine's default: the sum of `adapter_name_or_path`, if there is one.
    With `any_name` every other name does, too.
    """

    def __init__(
        self, engine: BaseEngine, name: str | None = None, *, any_name: bool = False
    ) -> None:
        self._engine, self._any_name = engine, any_name
        self.name = name or default_name(engine.model_args.model_name_or_path)
        self.created = int(time.time())

    def served(self) -> list[ServedName]:
        """All names, the model's own first."""
        adapters = [adapter.name for adapter in self._engine.adapters]
        names = [*([BASE] if adapters else []), *adapters]
        others = [ServedName(name, self.created, self.name) for name in names if name != self.name]
        return [ServedName(self.name, self.created), *others]

    def resolve(self, model: str | None) -> str | None:
        """The engine's adapter for a client's `model`; None is the engine's default.

        Raises:
            ModelNotServed: there is no such model.
        """
        if not model or model == self.name:
            return None
        known = [served.name for served in self.served()]
        if model in known:
            return model
        if self._any_name:
            return None
        if self._engine.model_args.adapter_folder is not None:
            return model  # the engine loads it from its folder of adapters, or refuses it
        raise self.refusal(model)

    def refusal(self, model: str) -> ModelNotServed:
        """The error for an unknown name, with the known ones."""
        known = [served.name for served in self.served()]
        more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
        hint = nearest(model, known) or f"; served: {', '.join(known[:_LISTED])}{more}"
        return ModelNotServed(sentence(f"The model {model!r} is not served{hint}"), param="model")


def default_name(model_name_or_path: str) -> str:
    """A folder's last part, a GGUF file's without the ending, Ollama's name, or a hub's unchanged."""
    path = Path(os.path.expanduser(model_name_or_path))
    if path.is_dir():
        return path.resolve().name
    if path.exists():
        return model_stem(path.name)
    if is_ollama_name(model_name_or_path):
        return model_name_or_path.partition(":")[2]
    folder, quant = split_quant(model_name_or_path)
    path = Path(os.path.expanduser(folder))
    return f"{path.resolve().name}:{quant}" if quant and path.is_dir() else model_name_or_path
