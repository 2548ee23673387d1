"""What a `quantization_config` says: which modules are stored quantised, and how.

Each format has a module that turns its settings into `Rule`s, with the look-ups at the end of this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from quire.errors import ModelError, UnsupportedModelError
from quire.weights.hub_config import HubConfig, short
from quire.weights.patterns import PatternTable

Layout = Literal["gptq", "gptq_v2", "awq", "packed", "integers", "bitsandbytes", "float8"]
ModuleClass = Literal["Linear", "Embedding"]


@dataclass(frozen=True, slots=True)
class ModuleScheme:
    """How one module's weight is stored."""

    layout: Layout
    bits: int
    group: int
    """How many inputs share a scale; 0 if all inputs of a column do."""
    symmetric: bool = True
    act_order: bool = False
    """Whether the inputs of a group lie apart: a tensor of the checkpoint says which belong together."""
    block: tuple[int, int] | None = None
    """How many columns and inputs share a scale of 8-bit floats; None if it is a column's, or the only one."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Gives the modules that it matches a scheme, or leaves them in full precision (None).

    `match` says what `text` is: the whole name of a module; a regular expression that matches from
    the beginning of the name; some whole parts of the dotted name in a row; or the module's class.
    """

    match: Literal["name", "pattern", "part", "class"]
    text: str
    scheme: ModuleScheme | None


@dataclass(frozen=True)
class Quantization:
    """A model's rules. The first that matches a module counts; without one it is not quantised."""

    method: str
    source: str
    """The file and key that it was read from, for error texts."""
    rules: tuple[Rule, ...]

    def scheme_of(self, module: str, module_class: ModuleClass) -> ModuleScheme | None:
        """The scheme of a module; None if it is stored in full precision.

        A module is named as its weight is, without `.weight`.

        Raises:
            ModelError: the patterns take too long to match.
        """
        try:
            first = self._patterns.get(module, len(self.rules))
        except ValueError as error:
            raise ModelError(f"{self.source}: {error}, or name the modules in full") from None
        for index, rule in enumerate(self.rules):
            if index == first or _matches(rule, module, module_class):
                return rule.scheme
        return None

    @cached_property
    def _patterns(self) -> PatternTable[int]:
        """The place of the first rule of each pattern."""
        places: dict[str, int] = {}
        for index, rule in enumerate(self.rules):
            if rule.match == "pattern":
                places.setdefault(rule.text, index)
        return PatternTable(places, prefixes=True)


def _matches(rule: Rule, module: str, module_class: ModuleClass) -> bool:
    if rule.match == "name":
        return module == rule.text
    if rule.match == "part":
        return f".{rule.text}." in f".{module}."
    return rule.match == "class" and rule.text == module_class


# ---- look-ups that the formats share


def refuse(
    settings: HubConfig, key: str, value: Any, known: Iterable[Any]
) -> UnsupportedModelError:
    """The error for quantised weights in a form that the native engine does not read."""
    reads = ", ".join(str(one) for one in known)
    return UnsupportedModelError(
        f"{settings.source}: {key} is {short(value)}; the native engine reads quantised weights "
        f"{f'with {reads}' if reads else 'without it'}. infer_backend: vllm may run this model"
    )


def group_size(settings: HubConfig, key: str) -> int:
    """How many inputs share a scale; 0 for all, which files write as -1."""
    value = settings.get(key, -1)
    return 0 if value == -1 else settings.integer(key)


def names(settings: HubConfig, key: str) -> list[str]:
    """A list of strings; empty if the key is absent."""
    value = settings.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise settings.wrong(key, value, "a list of names")
    return value


def check_pattern(settings: HubConfig, key: str, pattern: str) -> str:
    """The pattern, if it is a regular expression that can be matched in bounded time.

    Raises:
        ModelError: it is not.
    """
    try:
        PatternTable({pattern: None})
    except ValueError as error:
        raise settings.wrong(key, pattern, f"a regular expression ({error})") from None
    return pattern
