"""Calls written with a tag for the function and one for each parameter.

A string is written as it is and all else as JSON, so `21` may be either. The tool's schema decides;
without one, what is a JSON number, truth value, null, list or object is read as that, and all else
is a string, a text in double quotes too.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.errors import ToolError
from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    arguments_object,
    dump,
    join,
    literal,
    load,
    mapping,
    schema_of,
    sequence,
    unwrap,
    value_text,
)
from quire.tools.stream import CharStream, Grammar, Reading, Refuted


@dataclass(frozen=True, slots=True)
class Tags:
    """The tags of one format.

    Args:
        key_end: ends the tag of the function, and that of a parameter.
        lead: what the format writes before a call.
        own_lines: a value stands between two newlines that are not its own.
    """

    outer: str
    outer_end: str
    function: str
    function_end: str
    parameter: str
    key_end: str
    lead: str = ""
    own_lines: bool = False
    parameter_end: str = "</parameter>"


def write_parameters(call: ToolCall, tags: Tags) -> list[Spans]:
    """Each of the call's arguments on a line of its own.

    Raises:
        ToolError: the arguments are not a JSON object.
    """
    line = "\n" if tags.own_lines else ""
    return [
        join(
            "\n" + tags.parameter,
            literal(key),
            tags.key_end + line,
            literal(value_text(value)),
            line + tags.parameter_end,
        )
        for key, value in arguments_object(call).items()
    ]


class TagCalls(Grammar):
    """Reads calls with their outer tag and without, and the function's tag closed and unclosed.

    A closing tag of a parameter counts only where the next parameter or the function's end follows:
    so a value may hold the closing tag itself.
    """

    def __init__(self, tags: Tags, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._tags = tags
        self._schemas = Schemas(tools)
        self.triggers = frozenset(tags.lead + "<")

    def read(self, stream: CharStream) -> Reading[None]:
        tags = self._tags
        yield from stream.literal(tags.lead)
        if (yield from stream.literal(tags.outer)):
            yield from stream.spaces()
        yield from stream.require(tags.function)
        name = yield from stream.name(tags.key_end[0] + "<>")
        yield from stream.literal(tags.key_end)
        arguments: dict[str, str] = {}
        yield from stream.spaces()
        while (yield from stream.literal(tags.parameter)):
            key = yield from stream.until(tags.key_end)
            arguments[key] = yield from self._value(stream)
            yield from stream.spaces()
        if not (yield from stream.literal(tags.function_end)) and not (
            yield from stream.follows(tags.outer_end)
        ):
            raise Refuted
        stream.accept(self._schemas.call(name, arguments))
        yield from stream.closing(tags.outer_end)

    def _value(self, stream: CharStream) -> Reading[str]:
        tags = self._tags
        start = stream.at
        while True:
            yield from stream.run("<")
            if stream.exhausted:
                raise Refuted
            value = stream.at
            if (yield from stream.literal(tags.parameter_end)):
                stop = stream.at
                yield from stream.spaces()
                if (yield from stream.follows(tags.parameter, tags.function_end, tags.outer_end)):
                    stream.at = value
                    text = stream.since(start)
                    stream.at = stop
                    return _inner(text) if tags.own_lines else text
            stream.at = value + 1


def _inner(text: str) -> str:
    """The value without the newlines that stand around it."""
    return text.removeprefix("\n").removesuffix("\n")


class PairCalls(Grammar):
    """GLM-4.5's calls: a name, then keys and values in tags; the closing tag may be missing.

    A call with no arguments and no closing tag is one only before the next call, at the end, or if
    a tool of this name is known.
    """

    triggers = frozenset("\n<")

    def __init__(self, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._schemas = Schemas(tools)

    def read(self, stream: CharStream) -> Reading[None]:
        yield from stream.literal("\n")
        yield from stream.require("<tool_call>")
        yield from stream.spaces()
        name = yield from stream.name("<>{[")
        arguments: dict[str, str] = {}
        stop = stream.at
        yield from stream.spaces()
        while (yield from stream.literal("<arg_key>")):
            key = yield from stream.until("</arg_key>")
            yield from stream.spaces()
            yield from stream.require("<arg_value>")
            arguments[key] = yield from stream.until("</arg_value>")
            stop = stream.at
            yield from stream.spaces()
        closed = yield from stream.literal("</tool_call>")
        if not closed:
            if not arguments and not (yield from self._is_whole(stream, name)):
                raise Refuted
            stream.at = stop
        stream.accept(self._schemas.call(name, arguments))

    def _is_whole(self, stream: CharStream, name: str) -> Reading[bool]:
        if self._schemas:
            return name in self._schemas
        at_end = (yield from stream.peek()) == ""
        return at_end or (yield from stream.follows("<tool_call>"))


# --- values without a sign of their type ---------------------------------------------------------

_MOST_PYTHON = 20_000
"""Characters of a value that is read as Python's: its reader has no limit of its own."""
_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    type(None): ("null",),
    list: ("array",),
    dict: ("object",),
}


class Schemas:
    """The known tools' parameters, by the tool's name."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._properties = {
            str(unwrap(tool).get("name")): mapping(schema_of(tool).get("properties"))
            for tool in tools
        }

    def __contains__(self, name: str) -> bool:
        return name in self._properties

    def __bool__(self) -> bool:
        return bool(self._properties)

    def call(self, name: str, arguments: Mapping[str, str]) -> ToolCall:
        """The call whose arguments were written like this."""
        typed = {key: self.value(name, key, text) for key, text in arguments.items()}
        return ToolCall(name, dump(typed))

    def coerced(self, name: str, key: str, text: str) -> Any:
        """A text that stands where the schema wants no text: the value in it."""
        schema = mapping(self._properties.get(name, {}).get(key))
        allowed = _allowed_types(schema)
        return value_of(text, schema) if allowed and "string" not in allowed else text

    def value(self, name: str, key: str, text: str) -> Any:
        """The value of a parameter of a tool that was written like this."""
        return value_of(text, mapping(self._properties.get(name, {}).get(key)))


def value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that `text` is, under the schema of its parameter (empty: unknown)."""
    allowed = _allowed_types(schema)
    try:
        value = load(text)
    except ValueError:
        value = _python_value(text) if allowed and "string" not in allowed else text
        if value is not text and not allowed.intersection(_TYPES[type(value)]):
            return text
    if isinstance(value, str) or (
        "string" in allowed and not allowed.intersection(_TYPES[type(value)])
    ):
        return text
    return value


def _python_value(text: str) -> Any:
    """The value that `text` is in Python, which some templates, and so models, write; else the text."""
    if len(text) > _MOST_PYTHON:
        return text
    try:
        value = ast.literal_eval(text.strip())
        dump(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, ToolError):
        return text
    return value if type(value) in _TYPES else text


def _allowed_types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema names; empty where it names none."""
    kind = schema.get("type")
    allowed = {kind} if isinstance(kind, str) else {str(name) for name in sequence(kind)}
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in sequence(schema.get(key)):
            allowed |= _allowed_types(mapping(choice))
    if not allowed:
        choices = [schema["const"]] if "const" in schema else sequence(schema.get("enum"))
        for choice in choices:
            allowed.add("string" if isinstance(choice, str) else _TYPES.get(type(choice), ("",))[0])
    return allowed
