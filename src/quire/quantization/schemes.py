"""What a `quantization_config` says: which modules are stored quantised, and how."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Layout = Literal["gptq", "gptq_v2", "awq", "packed", "integers"]
ModuleClass = Literal["Linear", "Embedding"]


@dataclass(frozen=True, slots=True)
class ModuleScheme:
    """How one module's weight is stored."""

    layout: Layout
    bits: int
    group: int
    """Inputs that share a scale; 0 for all of a column's."""
    symmetric: bool = True
    act_order: bool = False
    """Whether groups are of inputs that lie apart: the file says which."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Gives the modules that it matches a scheme, or leaves them in full precision (None)."""

    match: Literal["name", "pattern", "part", "class"]
    """The text is the whole name, a regular expression that matches from the name's beginning,
    some whole parts of the dotted name one after another, or the module's class."""
    text: str
    scheme: ModuleScheme | None

    def matches(self, module: str, module_class: ModuleClass) -> bool:
        if self.match == "name":
            return module == self.text
        if self.match == "pattern":
            return re.match(self.text, module) is not None
        if self.match == "part":
            return f".{self.text}." in f".{module}."
        return module_class == self.text


@dataclass(frozen=True, slots=True)
class Quantization:
    """A model's rules; the first that matches a module counts, and where none does it is plain."""

    method: str
    source: str
    """Where it was read, for the texts of errors."""
    rules: tuple[Rule, ...]

    def scheme_of(self, module: str, module_class: ModuleClass) -> ModuleScheme | None:
        """The scheme of a module, by the name of its weight without `.weight`."""
        for rule in self.rules:
            if rule.matches(module, module_class):
                return rule.scheme
        return None
