"""Writing the grammar of one call: what every notation of arguments shares."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, cast

from quire.constraints.finite_schema import name_of
from quire.constraints.lark import Rules, joined, string
from quire.tools.call_form import CallForm, Slot

KEY = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"
"""A key that no schema names."""
_ID = "/[A-Za-z0-9_-]{1,40}/"
_INDEX = "/[0-9]{1,4}/"


class CallWriter(ABC):
    """Writes one call; below it, one notation of arguments each."""

    def __init__(self, rules: Rules, form: CallForm) -> None:
        self.rules, self.form = rules, form
        self._definitions: Mapping[str, Any] = {}

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        """The symbols of a call of one tool, after the text `before` it.

        Neighbouring texts are one symbol, and no symbol that may follow begins with another that may:
        llguidance takes the longest of those, and does not come back to a shorter one.
        """
        self._definitions = schema.get("$defs", {})
        parts, at = self.form.call, self.form.call.index(Slot.ARGUMENTS)
        ahead: list[str] = []
        head = before
        for part in parts[:at]:
            if isinstance(part, str):
                head += part
            elif part is Slot.NAME:
                # Between quotes the name is JSON's.
                head += json.dumps(name)[1:-1] if head.endswith('"') else name
            else:
                if part is Slot.ID and Slot.NAME not in parts:
                    head += f"functions.{name}:"
                ahead += [self.rules.literal(head), self._slot(part)]
                head = ""
        tail = ""
        rest = [*parts[at + 1 :], self.form.close]
        while rest and isinstance(rest[0], str):
            tail += str(rest.pop(0))
        behind = [
            self.rules.literal(part)
            if isinstance(part, str)
            else string(name)
            if part is Slot.NAME
            else self._slot(part)
            for part in rest
        ]
        return self.rules.add(joined(*ahead, self.arguments(schema, head, tail), *behind))

    def _slot(self, slot: Slot) -> str:
        return _ID if slot is Slot.ID and Slot.NAME in self.form.call else _INDEX

    @abstractmethod
    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        """The symbols of the arguments, with the texts that stand before and after them."""

    def json(self, schema: dict[str, Any]) -> str:
        """A value in JSON, with the definitions that it may refer to."""
        if self._definitions and "#/$defs/" in json.dumps(schema):
            schema = {**schema, "$defs": self._definitions}
        return self.rules.json(schema)

    def followed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """What a schema that only refers to others is."""
        for _ in range(len(self._definitions) + 1):
            name = name_of(schema)
            if name is None or len(schema.keys() - {"$defs"}) > 1:
                break
            schema = self._definitions[name]
        return schema

    def members(
        self,
        schema: dict[str, Any],
        member: Callable[[str, str, dict[str, Any]], str],
        between: str,
        head: str,
        tail: str,
    ) -> str | None:
        """The properties of an object in their order, without those that the model leaves out.

        `member` writes one, from the text before it, its key and its schema. None where the keys are
        not known: those of an object that is open, or combined of others.
        """
        schema = self.followed(schema)
        properties = schema.get("properties")
        if schema.get("additionalProperties") is not False or properties is None:
            return None
        required = set(schema.get("required", ()))
        # From the last to the first: `rest` follows a member, `first` has none before it.
        first, rest = self.empty(head, tail), self.rules.add(self.rules.literal(tail) or '""')
        for key, one in reversed(cast("dict[str, dict[str, Any]]", properties).items()):
            here = f"{member(head, key, one)} {rest}"
            after = f"{member(between, key, one)} {rest}"
            if key in required:
                first, rest = self.rules.add(here), self.rules.add(after)
            else:
                first = self.rules.add(f"{here} | {first}")
                rest = self.rules.add(f"{after} | {rest}")
        return first

    def empty(self, head: str, tail: str) -> str:
        """What stands around arguments, of which there are none.

        Templates may then write one newline where two would meet.
        """
        texts = [head + tail]
        if head.endswith("\n") and tail.startswith("\n"):
            texts.append(head + tail[1:])
        return self.rules.add(" | ".join(self.rules.literal(text) or '""' for text in texts))


def python_words(schema: dict[str, Any]) -> list[str]:
    """The words of Python that a value may be: templates write them where they do not write JSON."""
    kinds = schema.get("type", [])
    values = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
    values += [True, False] if "boolean" in kinds else []
    values += [None] if "null" in kinds else []
    words = [str(value) for value in values if value is None or isinstance(value, bool)]
    for choice in schema.get("anyOf", ()):
        words += python_words(choice)
    return list(dict.fromkeys(words))
