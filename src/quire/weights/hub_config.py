"""Reading a Hugging Face `config.json`: typed look-ups whose errors name the key."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire.errors import ModelError, ModelNotFoundError, UnsupportedModelError
from quire.json_files import read_json_object

_MOST = 2**31 - 1
_COUNTED = frozenset({"num_hidden_layers", "num_experts", "num_local_experts",
                      "num_attention_heads", "num_key_value_heads"})  # fmt: skip
_MOST_COUNTED = 10_000
"""What there is a list of, for each layer or expert. The largest models have some hundred."""
_LARGEST = 3.4028234663852886e38  # a float32


LLAMA_NAMES = "quire_llama_names"
"""A key that quire writes itself: the weights of this model are known by the names that Llama's have."""


class HubConfig:
    """The top level of a `config.json`, or an object in it. An absent or null key has the default."""

    def __init__(
        self,
        values: Mapping[str, Any],
        source: str = "config.json",
        file_keys: Mapping[str, str] | None = None,
    ) -> None:
        self.values = values
        self.source = source
        self._file_keys = file_keys or {}  # what the file calls keys that have other names here

    @classmethod
    def read(cls, folder: Path, name: str = "config.json") -> HubConfig:
        """Read `folder/config.json`, or another file of the folder.

        Raises:
            ModelNotFoundError: the folder or the file is missing.
            ModelError: the file is not a JSON object.
        """
        path = folder / name
        if not folder.is_dir():
            raise ModelNotFoundError(f"{folder} is not a folder")
        if not path.is_file():
            raise ModelNotFoundError(f"{folder} has no {name}: is it a model's folder?")
        try:
            return cls(read_json_object(path), str(path))
        except ValueError as error:
            raise ModelError(f"{path} cannot be read: {error}") from error

    def with_changes(self, changes: Mapping[str, Any]) -> HubConfig:
        """The same config with other values for some keys."""
        return HubConfig({**self.values, **changes}, self.source, self._file_keys)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of `key`; the default if it is absent or null."""
        value = self.values.get(key)
        return default if value is None else value

    def with_defaults(self, defaults: Mapping[str, Any]) -> HubConfig:
        """The same config with values for absent keys. A null stays null: files may mean it."""
        return HubConfig({**defaults, **self.values}, self.source, self._file_keys)

    def with_names(self, file_keys: Mapping[str, str]) -> HubConfig:
        """The same config with usual names for keys that this type of model has other names for.

        `file_keys` has these by the usual ones. Errors name a key as the file has it, and files may
        have the usual names, too.
        """
        known = {name: key for name, key in file_keys.items() if key in self or name not in self}
        values = {name: self.values[key] for name, key in known.items() if key in self.values}
        return HubConfig({**self.values, **values}, self.source, {**self._file_keys, **known})

    def inner(self, key: str, value: Any = None) -> HubConfig:
        """The object at `key`, or the one given, as a config of its own.

        Raises:
            ModelError: it is not an object.
        """
        value = self.get(key) if value is None else value
        if not isinstance(value, Mapping):
            raise self.wrong(key, value, "an object")
        return HubConfig(value, f"{self.source}: {key}")

    def windows(self, window: int, default: list[str]) -> tuple[int, ...]:
        """Each layer's attention window, 0 for none: by `layer_types`, or else by `default`.

        A layer is "sliding_attention", which has the window, or "full_attention".
        """
        types = self.get("layer_types", default)
        known = ("sliding_attention", "full_attention")
        layers = self.integer("num_hidden_layers")
        if not isinstance(types, list) or len(types) != layers or not set(types) <= set(known):
            raise self.wrong("layer_types", types, f"{layers} of {', '.join(known)}")
        return tuple(window if name == "sliding_attention" else 0 for name in types)

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def is_null(self, key: str) -> bool:
        """Whether the key is present and null."""
        return key in self.values and self.values[key] is None

    def integer(self, key: str, default: int | None = None, *, minimum: int = 1) -> int:
        """An integer of at least `minimum`, and no larger than any model's. Without a default the
        key is required.
        """
        value = self.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise self.wrong(key, value, f"an integer of at least {minimum}")
        most = _MOST_COUNTED if key in _COUNTED else _MOST
        if value > most:
            raise self.wrong(key, value, f"at most {most}")
        return value

    def number(self, key: str, default: float) -> float:
        """A positive number."""
        value = self.get(key, default)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not 0 < value <= _LARGEST
        ):
            raise self.wrong(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """True or false."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "true or false")
        return value

    def wrong(self, key: str, value: Any, expected: str) -> ModelError:
        """The error for a value that is missing, or is not what was `expected`."""
        problem = "is missing" if value is None else f"is {short(value)}"
        key = self._file_keys.get(key, key)
        return ModelError(f"{self.source}: {key} {problem}; it must be {expected}")

    def require(self, key: str, allowed: tuple[Any, ...], default: Any) -> None:
        """Refuse a model whose `key` has a value that the engine does not compute."""
        value = self.get(key, default)
        if value not in allowed:
            known = ", ".join(str(one) for one in allowed)
            raise UnsupportedModelError(
                f"{self.source}: {self._file_keys.get(key, key)} is {short(value)}; the native engine "
                f"computes {known}. "
                "infer_backend: vllm may run this model"
            )


def short(value: Any) -> str:
    """A value of a config for an error text: whoever made the file may have made it long."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
