"""The grammar of calls: from a form that was learned, and the tools' schemas.

Arguments follow the tools' schemas as far as their notation can: JSON does altogether. A text that a
notation writes without quotes is free, except for the values of an `enum`.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

from quire.constraints.answer_form import CallsForm, OfferedTool
from quire.constraints.finite_schema import name_of
from quire.constraints.lark import Rules, alternatives, string, white_space
from quire.constraints.schema import SchemaError, enforceable
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)

_ID = "/[A-Za-z0-9_-]{1,40}/"
_INDEX = "/[0-9]{1,4}/"
_KEY = "/[A-Za-z_][A-Za-z0-9_.-]{0,63}/"
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def is_writable(form: CallForm) -> bool:
    """Whether there is a grammar of this form: of JSON inside a JSON string there is none."""
    return not (isinstance(form.arguments, JsonArguments) and form.arguments.as_text)


def arguments_schema(tool: OfferedTool) -> dict[str, Any]:
    """The schema of a tool's arguments, as it is enforced.

    Raises:
        SchemaError: it cannot be.
    """
    return enforceable(tool.parameters, is_object=True)


def write_calls(
    rules: Rules, calls: CallsForm, free: Collection[str] = (), heads: Collection[str] = ()
) -> str:
    """Add the rules of one or more calls; return the symbol for all of them.

    Args:
        free: the names of the tools whose arguments are any.
        heads: what may begin the message of the calls.
    """
    form = calls.form
    schemas = {
        tool.name: dict(_ANY_OBJECT) if tool.name in free else arguments_schema(tool)
        for tool in calls.tools
    }
    writer = _WRITERS[type(form.arguments)](rules, form)

    def one_after(before: str) -> str:
        return rules.add(alternatives(writer.call(*tool, before) for tool in schemas.items()))

    # White space is a symbol of its own everywhere: llguidance would take what a thought leaves
    # open for the beginning of these.
    opening = form.begin + form.open
    first = one_after(opening.lstrip())
    if opening[:1].isspace():
        first = f"{white_space(opening[: -len(opening.lstrip())])} {first}"
    more = ""
    if heads:
        first = alternatives((first, *(one_after(head + opening) for head in heads)))
    most = calls.most if form.most is None else min(form.most, calls.most or form.most)
    if most != 1:
        limit = "*" if most is None else f"{{0,{most - 1}}}"
        more = one_after(form.between + form.open) + limit
    end = form.end.rstrip()
    # A turn may end with line breaks, which are then not the beginning of one more call.
    return rules.add(_joined(first, more, rules.literal(end), white_space(form.end)))


def _joined(*symbols: str) -> str:
    return " ".join(symbol for symbol in symbols if symbol)


class _Writer(ABC):
    """Writes one call; below it, one notation of arguments each."""

    def __init__(self, rules: Rules, form: CallForm) -> None:
        self._rules, self._form = rules, form
        self._definitions: Mapping[str, Any] = {}

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        """The symbols of a call of one tool, after the text `before` it.

        Neighbouring texts are one symbol, and no symbol that may follow begins with another that may:
        llguidance takes the longest of those, and does not come back to a shorter one.
        """
        self._definitions = schema.get("$defs", {})
        parts, at = self._form.call, self._form.call.index(Slot.ARGUMENTS)
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
                ahead += [self._rules.literal(head), self._slot(part)]
                head = ""
        tail = ""
        rest = [*parts[at + 1 :], self._form.close]
        while rest and isinstance(rest[0], str):
            tail += str(rest.pop(0))
        behind = [
            self._rules.literal(part)
            if isinstance(part, str)
            else string(name)
            if part is Slot.NAME
            else self._slot(part)
            for part in rest
        ]
        return self._rules.add(_joined(*ahead, self.arguments(schema, head, tail), *behind))

    def _slot(self, slot: Slot) -> str:
        return _ID if slot is Slot.ID and Slot.NAME in self._form.call else _INDEX

    @abstractmethod
    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        """The symbols of the arguments, with the texts that stand before and after them."""

    def json(self, schema: dict[str, Any]) -> str:
        """A value in JSON, with the definitions that it may refer to."""
        if self._definitions and "#/$defs/" in json.dumps(schema):
            schema = {**schema, "$defs": self._definitions}
        return self._rules.json(schema)

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
        first, rest = self.empty(head, tail), self._rules.add(self._rules.literal(tail) or '""')
        for key, one in reversed(cast("dict[str, dict[str, Any]]", properties).items()):
            here = f"{member(head, key, one)} {rest}"
            after = f"{member(between, key, one)} {rest}"
            if key in required:
                first, rest = self._rules.add(here), self._rules.add(after)
            else:
                first = self._rules.add(f"{here} | {first}")
                rest = self._rules.add(f"{after} | {rest}")
        return first

    def empty(self, head: str, tail: str) -> str:
        """What stands around arguments, of which there are none.

        Templates may then write one newline where two would meet.
        """
        texts = [head + tail]
        if head.endswith("\n") and tail.startswith("\n"):
            texts.append(head + tail[1:])
        return self._rules.add(" | ".join(self._rules.literal(text) or '""' for text in texts))


class _JsonWriter(_Writer):
    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        before, after = self._rules.literal(head), self._rules.literal(tail)
        return _joined(before, self._rules.json(schema), after)

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        """The call; as one JSON object where no marker tells it from text.

        llguidance reads a bare `{` either as JSON's or as a literal's, never as both.
        """
        as_json = self._as_json(name, schema)
        if as_json is None:
            return super().call(name, schema, before)
        before, close = self._rules.literal(before), self._rules.literal(self._form.close)
        return self._rules.add(_joined(before, self._rules.json(as_json), close))

    def _as_json(self, name: str, schema: dict[str, Any]) -> dict[str, Any] | None:
        form = self._form
        if form.begin + form.open or not str(form.call[0]).startswith("{"):
            return None
        texts = {Slot.NAME: name, Slot.ARGUMENTS: '"\0arguments"', Slot.ID: "\0id", Slot.INDEX: "0"}
        written = [texts[part] if isinstance(part, Slot) else part for part in form.call]
        try:
            value = json.loads("".join(written), strict=False)
        except ValueError:
            return None
        return {**_schema_of(value, schema), **_definitions_of(schema)}


def _definitions_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"$defs": schema["$defs"]} if "$defs" in schema else {}


def _schema_of(value: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call's JSON, in which the arguments have their own."""
    if value == "\0arguments":
        return {key: one for key, one in arguments.items() if key != "$defs"}
    if value == "\0id":
        return {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"}
    if not isinstance(value, dict):
        return {"const": value}
    members = cast("dict[str, Any]", value)
    return {
        "type": "object",
        "properties": {key: _schema_of(one, arguments) for key, one in members.items()},
        "required": list(members),
        "additionalProperties": False,
    }


class _TagWriter(_Writer):
    """Parameters between tags."""

    @property
    def _tags(self) -> TagArguments:
        return cast("TagArguments", self._form.arguments)

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        between = self._tags.between
        known = self.members(schema, self._member, between, head, tail)
        if known is not None:
            return known
        first, more = (self._rules.add(self._any(text)) for text in (head, between))
        some = _joined(first, f"({more})*", self._rules.literal(tail))
        return self._rules.add(f"{some} | {self.empty(head, tail)}")

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        """One parameter after a text: a string, which is raw, or another value, which is JSON."""
        tags, schema = self._tags, self.followed(schema)
        text += tags.before + key
        texts, others = _split(schema)
        if not tags.raw_strings:
            texts, others = [], schema
        end = tags.after.replace("\0", key)
        string_text = text + (tags.middle if tags.string_middle is None else tags.string_middle)
        choices: list[str] = []
        if texts is None:
            until = self._rules.text_until(end)
            choices.append(f"{self._rules.literal(string_text)} {until}")
        else:
            choices += [self._rules.literal(string_text + one + end) for one in texts]
        # Where a text may be anything, and nothing tells it from other values, it is also these.
        if others is not None and (texts is not None or tags.string_middle is not None):
            text += tags.middle
            before, after = self._rules.literal(text), self._rules.literal(end)
            choices.append(f"{before} {self.json(others)} {after}")
            words = _python_words(others) if tags.raw_strings else []
            choices += [self._rules.literal(text + word + end) for word in words]
        return self._rules.add(" | ".join(choices))

    def _any(self, text: str) -> str:
        """A parameter of any name."""
        tags = self._tags
        middle = tags.middle if tags.string_middle is None else tags.string_middle
        before = self._rules.literal(text + tags.before)
        until, *again = tags.after.split("\0")
        after = "".join(f" {_KEY} {self._rules.literal(piece)}" for piece in again)
        until = self._rules.text_until(until)
        return f"{before} {_KEY} {self._rules.literal(middle)} {until}{after}"


def _python_words(schema: dict[str, Any]) -> list[str]:
    """The words of Python that a value may be: templates write them where they do not write JSON."""
    kinds = schema.get("type", [])
    values = [schema["const"]] if "const" in schema else list(schema.get("enum", ()))
    values += [True, False] if "boolean" in kinds else []
    values += [None] if "null" in kinds else []
    words = [str(value) for value in values if value is None or isinstance(value, bool)]
    for choice in schema.get("anyOf", ()):
        words += _python_words(choice)
    return list(dict.fromkeys(words))


def _split(schema: dict[str, Any]) -> tuple[list[str] | None, dict[str, Any] | None]:
    """The texts that a value may be, None for any text; and the schema of its other values.

    Texts are not restricted any further: a notation without quotes has no escapes either.
    """
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        texts = [value for value in values if isinstance(value, str)]
        rest = [value for value in values if not isinstance(value, str)]
        return texts, {"enum": rest} if rest else None
    if "anyOf" in schema and "type" not in schema:
        return _split_choices(schema)
    if "allOf" in schema or "$ref" in schema:
        return None, schema
    kinds = schema.get("type", ["string", "number", "boolean", "null", "array", "object"])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    rest = [kind for kind in kinds if kind != "string"]
    others = {**schema, "type": rest} if rest else None
    return (None if "string" in kinds else []), others


def _split_choices(
    schema: dict[str, Any],
) -> tuple[list[str] | None, dict[str, Any] | None]:
    texts: list[str] | None = []
    others: list[dict[str, Any]] = []
    for choice in schema["anyOf"]:
        more, other = _split(choice)
        texts = None if texts is None or more is None else texts + more
        others += [] if other is None else [other]
    return texts, {"anyOf": others} if others else None


class _PythonWriter(_Writer):
    """Keyword arguments: `city="Paris", days=2`."""

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        known = self.members(schema, self._member, ", ", head, tail)
        if known is not None:
            return known
        one = self._rules.add(f'{_KEY} "=" {self._value({})}')
        before, after = self._rules.literal(head), self._rules.literal(tail)
        return self._rules.add(_joined(before, f'({one} (", " {one})*)?', after))

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        return self._rules.add(f"{self._rules.literal(f'{text}{key}=')} {self._value(schema)}")

    def _value(self, schema: dict[str, Any]) -> str:
        schema = self.followed(schema)
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self._rules.add(alternatives(map(self._constant, values)))
        if "anyOf" in schema and "type" not in schema:
            return self._rules.add(alternatives(map(self._value, schema["anyOf"])))
        if "allOf" in schema or "$ref" in schema:
            return self.json(schema)
        kinds = schema.get("type", ["string", "number", "boolean", "null", "array", "object"])
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return self._rules.add(alternatives(self._of_kind(kind, schema) for kind in kinds))

    def _of_kind(self, kind: str, schema: dict[str, Any]) -> str:
        if kind in ("boolean", "null"):
            return alternatives(
                map(self._constant, (True, False) if kind == "boolean" else (None,))
            )
        if kind == "string" and self._python.quote == "'":
            return r"/'([^'\\\n]|\\['\\nt])*'/"
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
        return cast("PythonArguments", self._form.arguments)


class _BraceWriter(_Writer):
    """Gemma's notation: `{city:<|"|>Paris<|"|>,days:2}`."""

    def __init__(self, rules: Rules, form: CallForm) -> None:
        super().__init__(rules, form)
        self._quote = cast("BraceArguments", form.arguments).quote
        self._named: dict[int, str] = {}  # the rules of definitions, which may be recursive
        self._any_value: str | None = None

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        self._named = {}
        return super().call(name, schema, before)

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        return self._object(schema, head, tail)

    def _object(self, schema: dict[str, Any], head: str = "", tail: str = "") -> str:
        head, tail = head + "{", "}" + tail
        schema = self.followed(schema)
        members = self.members(schema, self._member, ",", head, tail)
        if members is None:
            one = self._rules.add(f'{_KEY} ":" {self._any()}')
            before, after = self._rules.literal(head), self._rules.literal(tail)
            return self._rules.add(f'{before} ({one} ("," {one})*)? {after}')
        # In their own order, or sorted, as Gemma's templates write them.
        by_name = {**schema, "properties": dict(sorted(schema["properties"].items()))}
        other = self.members(by_name, self._member, ",", head, tail)
        return self._rules.add(alternatives((members, other or members)))

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        return self._rules.add(f"{self._rules.literal(f'{text}{key}:')} {self._value(schema)}")

    def _value(self, schema: dict[str, Any]) -> str:
        if (name := name_of(schema)) is None:
            return self._written(schema)
        target = self._definitions[name]
        if id(target) not in self._named:
            reserved = self._named[id(target)] = self._rules.reserve()
            self._rules.define(reserved, self._written(target))
        return self._named[id(target)]

    def _written(self, schema: dict[str, Any]) -> str:
        if "const" in schema or "enum" in schema:
            values = [schema["const"]] if "const" in schema else schema["enum"]
            return self._rules.add(alternatives(map(self._constant, values)))
        if "anyOf" in schema and "type" not in schema:
            return self._rules.add(alternatives(map(self._value, schema["anyOf"])))
        kinds = schema.get("type")
        if kinds is None or "allOf" in schema:
            return self._any()
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return self._rules.add(alternatives(self._of_kind(kind, schema) for kind in kinds))

    def _of_kind(self, kind: str, schema: dict[str, Any]) -> str:
        if kind == "object":
            return self._object(schema)
        if kind == "string":
            return self._text()
        if kind != "array":
            written = self._rules.json({**schema, "type": kind})
            words = _python_words({**schema, "type": kind})
            return self._rules.add(alternatives((written, *map(string, words))))
        items = schema.get("items")
        item = self._value(items) if isinstance(items, dict) else self._any()
        return self._rules.add(f'"[" ({item} ("," {item})*)? "]"')

    def _text(self) -> str:
        return self._rules.add(
            _joined(self._rules.literal(self._quote), self._rules.text_until(self._quote))
        )

    def _constant(self, value: Any) -> str:
        if isinstance(value, str):
            quote = self._rules.literal(self._quote)
            return self._rules.add(_joined(quote, string(value), quote))
        if isinstance(value, list):
            return self._rules.add(
                '"[" ' + ' "," '.join(map(self._constant, cast("list[Any]", value))) + ' "]"'
            )
        if isinstance(value, dict):
            raise SchemaError("an object as a value cannot be enforced in this notation")
        return string(json.dumps(value))

    def _any(self) -> str:
        if self._any_value is None:
            value = self._any_value = self._rules.reserve()
            member = f'{_KEY} ":" {value}'
            self._rules.define(
                value,
                f"{self._text()} | {self._rules.json({'type': ['number', 'boolean', 'null']})}"
                f' | "[" ({value} ("," {value})*)? "]" | "{{" ({member} ("," {member})*)? "}}"',
            )
        return self._any_value


_WRITERS: Mapping[type, type[_Writer]] = {
    JsonArguments: _JsonWriter,
    TagArguments: _TagWriter,
    PythonArguments: _PythonWriter,
    BraceArguments: _BraceWriter,
}
