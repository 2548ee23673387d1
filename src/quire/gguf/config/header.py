"""What an architecture is read from: a model's metadata, in typed look-ups, and its tensors.

Writers of GGUF files differ in the types of numbers, and in whether a value that all layers share is
written once or once for each. Whatever is read here was checked, and errors name the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import ModelError, UnsupportedModelError, WeightsError
from quire.gguf.reader import GgufEntry, GgufFile, Value
from quire.weights.hub_config import short

MOST_LAYERS = 512
_MOST = 2**31 - 1
_LARGEST = 3.4028234663852886e38  # a float32


class Header:
    """The metadata and the tensors of a model's files, of which the first has the metadata.

    Keys are given without the architecture before them, which they have in the file.

    Raises:
        WeightsError: two of the files have a tensor of the same name.
    """

    def __init__(self, files: Sequence[GgufFile]) -> None:
        self.files = tuple(files)
        self.source = str(files[0].path)
        self.metadata: Mapping[str, Value] = files[0].metadata
        self.architecture = self._architecture()
        self.tensors: dict[str, tuple[GgufFile, GgufEntry]] = {}
        for file in files:
            for name, entry in file.tensors.items():
                if name in self.tensors:
                    raise WeightsError(f"{file.path}: {name} is in another part of the model, too")
                self.tensors[name] = (file, entry)

    def _architecture(self) -> str:
        value = self.metadata.get("general.architecture", "")
        if not isinstance(value, str):
            raise self.wrong("general.architecture", value, "a text")
        return value

    def key(self, name: str) -> str:
        """A key as it is in the file."""
        return f"{self.architecture}.{name}"

    def __contains__(self, name: str) -> bool:
        return self.key(name) in self.metadata

    def integer(
        self, name: str, default: int | None = None, *, minimum: int = 1, maximum: int = _MOST
    ) -> int:
        """An integer in a range; of a list with a value for each layer, what all layers have.

        Without a default the key is required.
        """
        value = self.value(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self.wrong(self.key(name), value, f"an integer of {minimum} to {maximum}")
        return value

    def number(
        self,
        name: str,
        default: float | None = None,
        *,
        minimum: float = 0.0,
        maximum: float = _LARGEST,
    ) -> float:
        """A finite number in a range; not 0, if there is no default."""
        value = self.value(name)
        value = default if value is None else value
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not minimum <= value <= maximum
            or (value == 0 and default is None)
        ):
            lower = "above 0" if default is None else f"of at least {minimum:g}"
            upper = "" if maximum == _LARGEST else f" and at most {maximum:g}"
            raise self.wrong(self.key(name), value, f"a number {lower}{upper}")
        return shortest(value)

    def text(self, name: str, default: str) -> str:
        """A text."""
        value = self.metadata.get(self.key(name), default)
        if not isinstance(value, str):
            raise self.wrong(self.key(name), value, "a text")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false, or 1 or 0."""
        value = self.value(name)
        value = default if value is None else value
        if value not in (0, 1):
            raise self.wrong(self.key(name), value, "true or false")
        return bool(value)

    def integers(self, name: str) -> list[int] | None:
        """A list of integers, or of booleans; None if there is no list."""
        value = self.metadata.get(self.key(name))
        if not isinstance(value, np.ndarray):
            return None
        if value.dtype.kind not in "iub":
            raise self.wrong(self.key(name), value, "a list of integers")
        return [int(one) for one in value]

    def layer_integers(self, name: str, default: int | None = None) -> list[int]:
        """An integer of at least 0 for each layer, of which a file may have one for all."""
        listed = self.integers(name)
        if listed is None:
            listed = [self.integer(name, default, minimum=0)] * self.layers
        if len(listed) not in (self.layers, self.layers_with_extra) or min(listed) < 0:
            expected = f"a list of {self.layers} integers of at least 0"
            raise self.wrong(self.key(name), listed, expected)
        return listed[: self.layers]

    def numbers(self, name: str) -> list[float]:
        """A finite number of each layer, of which a file may have one for all; without the architecture
        before the key.
        """
        value, listed = self.metadata.get(name), list[float]()
        if isinstance(value, float):
            listed = [value] * self.layers
        elif isinstance(value, np.ndarray) and value.dtype.kind == "f":
            listed = [float(one) for one in value]
        if len(listed) != self.layers or not all(map(math.isfinite, listed)):
            raise self.wrong(name, value, f"{self.layers} numbers, one for each layer")
        return listed

    def value(self, name: str) -> Any:
        """A value, or None; of a list with a value for each layer, what all layers have."""
        value = self.metadata.get(self.key(name))
        if not isinstance(value, np.ndarray):
            return value
        layers = self.layers_with_extra
        if len(value) != layers:
            raise self.wrong(self.key(name), f"a list of {len(value)}", f"one value, or {layers}")
        found: set[Any] = set(value.tolist())
        if len(found) > 1:
            raise self.unsupported(
                f"{self.key(name)} differs between layers ({short(sorted(found))}), and the native "
                "engine runs models whose layers are alike"
            )
        return found.pop()

    @property
    def layers_with_extra(self) -> int:
        """How many blocks the file has, with those that only predict further tokens."""
        value: Any = self.metadata.get(self.key("block_count"))
        valid = isinstance(value, int) and not isinstance(value, bool)
        if not valid or not 1 <= value <= MOST_LAYERS:
            raise self.wrong(self.key("block_count"), value, f"an integer of 1 to {MOST_LAYERS}")
        return value

    @property
    def layers(self) -> int:
        """How many layers the model has."""
        blocks = self.layers_with_extra
        return blocks - self.integer("nextn_predict_layers", 0, minimum=0, maximum=blocks - 1)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if there is none of this name."""
        found = self.tensors.get(name)
        return None if found is None else found[1].shape

    def vector(self, name: str, size: int) -> NDArray[np.float32] | None:
        """A vector of positive numbers, such as factors of frequencies; None if there is none.

        Raises:
            WeightsError: it has another size, or holds something else.
        """
        if name not in self.tensors:
            return None
        file, entry = self.tensors[name]
        if entry.shape != (size,) or entry.type.name != "F32":
            raise WeightsError(
                f"{file.path}: {name} is {entry.type.name} of shape {entry.shape}; it must be F32 of "
                f"shape {(size,)}"
            )
        values = file.data(entry).view("<f4").astype(np.float32)
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise WeightsError(f"{file.path}: {name} must hold positive numbers")
        return values

    def wrong(self, key: str, value: Any, expected: str) -> ModelError:
        """The error for a value that is missing, or is not what was `expected`."""
        problem = "is missing" if value is None else f"is {short(value)}"
        return ModelError(f"{self.source}: {key} {problem}; it must be {expected}")

    def unsupported(self, problem: str) -> UnsupportedModelError:
        """The error for what the engine does not compute."""
        return UnsupportedModelError(f"{self.source}: {problem}")


def shortest(value: float) -> float:
    """A float32 as the shortest number that is rounded to it: 1e-05, and not 9.999999747378752e-06.

    Files hold float32 of what a model's `config.json` has in decimals.
    """
    if not math.isfinite(value) or abs(value) > _LARGEST:
        return float(value)
    single = np.float32(value)
    return float(str(single)) if float(single) == value else float(value)
