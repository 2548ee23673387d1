"""Writing the grammar of calls in notations of values that are near to JSON."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Any, cast

from quire.constraints.call_writer import KEY, CallWriter, python_words
from quire.constraints.finite_schema import name_of
from quire.constraints.lark import Rules, alternatives, joined, string
from quire.constraints.raw_text import repeated, restriction
from quire.tools.call_form import BraceArguments, CallForm, PythonArguments


class PythonWriter(CallWriter):
    """Keyword arguments: `city="Paris", days=2`."""

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        known = self.members(schema, self._member, ", ", head, tail)
        if known is not None:
            return known
        one = self.rules.add(f'{KEY} "=" {self._value({})}')
        before, after = self.rules.literal(head), self.rules.literal(tail)
        return self.rules.add(joined(before, f'({one} (", " {one})*)?', after))

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        return self.rules.add(f"{self.rules.literal(f'{text}{key}=')} {self._value(schema)}")

    def _value(self, schema: dict[str, Any]) -> str:
        schema = self.followed(schema)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self.rules.add(alternatives(map(self._constant, values)))
        if "anyOf" in schema and "type" not in schema:
            return self.rules.add(alternatives(map(self._value, schema["anyOf"])))
        if "allOf" in schema or "$ref" in schema:
            return self.json(schema)
        kinds = schema.get("type", ["string", "number", "boolean", "null", "array", "object"])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return self.rules.add(alternatives(self._of_kind(kind, schema) for kind in kinds))

    def _of_kind(self, kind: str, schema: dict[str, Any]) -> str:
        if kind in ("boolean", "null"):
            return alternatives(
                map(self._constant, (True, False) if kind == "boolean" else (None,))
            )
        if kind == "string" and self._python.quote == "'":
            return rf"/'([^'\\\n]|\\['\\nt]){repeated(schema)}'/"
        return self.json({**schema, "type": kind})

    def _constant(self, value: Any) -> str:
        if isinstance(value, str) and self._python.quote == "'":
            return string(repr(value))
        word = json.dumps(value, ensure_ascii=False)
        if not self._python.json_words:
            word = {"true": "True", "false": "False", "null": "None"}.get(word, word)
        return string(word)

    @property
    def _python(self) -> PythonArguments:
        return cast("PythonArguments", self.form.arguments)


class _NotationWriter(CallWriter):
    """Values with keys and texts of the notation's own; numbers and words are JSON's."""

    comma: str
    colon: str
    any_key: str
    """The symbols of a key that no schema names, with what stands behind it."""

    def __init__(self, rules: Rules, form: CallForm) -> None:
        super().__init__(rules, form)
        self._named: dict[int, str] = {}  # the rules of definitions, which may be recursive
        self._any_value: str | None = None

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        self._named = {}
        return super().call(name, schema, before)

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        return self._object(schema, head, tail)

    @abstractmethod
    def key(self, key: str) -> str:
        """A key as it is written."""

    @abstractmethod
    def text(self, schema: dict[str, Any]) -> str:
        """The symbols of a text."""

    @abstractmethod
    def text_of(self, value: str) -> str:
        """The symbols of this text."""

    def word(self, kind: str, schema: dict[str, Any]) -> str:
        """The symbols of a number, a truth value or null."""
        return self.rules.json({**schema, "type": kind})

    def _object(self, schema: dict[str, Any], head: str = "", tail: str = "") -> str:
        head, tail = head + "{", "}" + tail
        schema = self.followed(schema)
        members = self.members(schema, self._member, self.comma, head, tail)
        if members is None:
            one = self.rules.add(f"{self.any_key} {self._any()}")
            before, after = self.rules.literal(head), self.rules.literal(tail)
            return self.rules.add(f"{before} ({one} ({string(self.comma)} {one})*)? {after}")
        # In their own order, or sorted, as Gemma's templates write them.
        by_name = {**schema, "properties": dict(sorted(schema["properties"].items()))}
        other = self.members(by_name, self._member, self.comma, head, tail)
        return self.rules.add(alternatives((members, other or members)))

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        written = self.rules.literal(text + self.key(key) + self.colon)
        return self.rules.add(f"{written} {self._value(schema)}")

    def _value(self, schema: dict[str, Any]) -> str:
        if (name := name_of(schema)) is None:
            return self._written(schema)
        target = self._definitions[name]
        if id(target) not in self._named:
            reserved = self._named[id(target)] = self.rules.reserve()
            self.rules.define(reserved, self._written(target))
        return self._named[id(target)]

    def _written(self, schema: dict[str, Any]) -> str:
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self.rules.add(alternatives(map(self._constant, values)))
        if "anyOf" in schema and "type" not in schema:
            return self.rules.add(alternatives(map(self._value, schema["anyOf"])))
        kinds = schema.get("type")
        if kinds is None or "allOf" in schema:
            return self._any()
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return self.rules.add(alternatives(self._of_kind(kind, schema) for kind in kinds))

    def _of_kind(self, kind: str, schema: dict[str, Any]) -> str:
        if kind == "object":
            return self._object(schema)
        if kind == "string":
            return self.text(schema)
        return self._array(schema) if kind == "array" else self.word(kind, schema)

    def _array(self, schema: dict[str, Any]) -> str:
        items = schema.get("items")
        item = self._value(items) if isinstance(items, dict) else self._any()
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if most == 0:
            return string("[]")
        further = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        some = f"{item} ({string(self.comma)} {item}){further}"
        return self.rules.add(f'"[" {some} "]"' if least else f'"[" ({some})? "]"')

    def _constant(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text_of(value)
        if isinstance(value, list):
            items = f" {string(self.comma)} ".join(map(self._constant, cast("list[Any]", value)))
            return self.rules.add(f'"[" {items} "]"')
        if isinstance(value, dict):
            members = [
                f"{self.rules.literal(self.key(key) + self.colon)} {self._constant(one)}"
                for key, one in cast("dict[str, Any]", value).items()
            ]
            return self.rules.add(f'"{{" {f" {string(self.comma)} ".join(members)} "}}"')
        return string(json.dumps(value))

    def _any(self) -> str:
        if self._any_value is None:
            value = self._any_value = self.rules.reserve()
            comma = string(self.comma)
            member = f"{self.any_key} {value}"
            self.rules.define(
                value,
                f"{self.text({})} | {self.rules.json({'type': ['number', 'boolean', 'null']})}"
                f' | "[" ({value} ({comma} {value})*)? "]"'
                f' | "{{" ({member} ({comma} {member})*)? "}}"',
            )
        return self._any_value


class BraceWriter(_NotationWriter):
    """Gemma's notation: `{city:<|"|>Paris<|"|>,days:2}`."""

    comma, colon = ",", ":"
    any_key = f'{KEY} ":"'

    def key(self, key: str) -> str:
        return key

    def text(self, schema: dict[str, Any]) -> str:
        quote = self._quote
        until = self.rules.text_until(quote, restriction(schema, quote))
        return self.rules.add(joined(self.rules.literal(quote), until))

    def text_of(self, value: str) -> str:
        quote = self.rules.literal(self._quote)
        return self.rules.add(joined(quote, string(value), quote))

    def word(self, kind: str, schema: dict[str, Any]) -> str:
        words = python_words({**schema, "type": kind})
        return self.rules.add(alternatives((super().word(kind, schema), *map(string, words))))

    @property
    def _quote(self) -> str:
        return cast("BraceArguments", self.form.arguments).quote


class QuotedJsonWriter(_NotationWriter):
    """JSON inside a JSON string: `"{\\"city\\": \\"Paris\\"}"`."""

    comma, colon = ", ", ": "
    any_key = r'/\\"[^"\\\x00-\x1f]{1,64}\\": /'

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        return super().arguments(schema, f'{head}"', f'"{tail}')

    def key(self, key: str) -> str:
        return _quoted(key)

    def text(self, schema: dict[str, Any]) -> str:
        return self.rules.terminal(rf'/\\"({_CHARACTER}){repeated(schema)}\\"/')

    def text_of(self, value: str) -> str:
        return string(_quoted(value))


_CHARACTER = r'[^"\\\x00-\x1f]|\\\\[bfnrt\/]|\\\\u[0-9a-fA-F]{4}|\\\\\\\\|\\\\\\"'
"""A character of a text whose escapes are escaped once more."""


def _quoted(text: str) -> str:
    """A JSON string as it stands inside of another."""
    return json.dumps(json.dumps(text, ensure_ascii=False), ensure_ascii=False)[1:-1]
