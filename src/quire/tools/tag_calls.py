"""Calls written with a tag for the function and one for each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.stream import Grammar, Reading, Refuted, Source
from quire.tools.typed_values import Schemas
from quire.tools.writing import arguments_object, join, literal, value_text


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

    def read(self, source: Source) -> Reading[None]:
        tags = self._tags
        yield from source.literal(tags.lead)
        if (yield from source.literal(tags.outer)):
            yield from source.spaces()
        yield from source.require(tags.function)
        name = yield from source.name(tags.key_end[0] + "<>")
        yield from source.literal(tags.key_end)
        arguments: dict[str, str] = {}
        yield from source.spaces()
        while (yield from source.literal(tags.parameter)):
            key = yield from source.until(tags.key_end)
            arguments[key] = yield from self._value(source)
            yield from source.spaces()
        if not (yield from source.literal(tags.function_end)) and not (
            yield from source.follows(tags.outer_end)
        ):
            raise Refuted
        source.accept(self._schemas.call(name, arguments))
        yield from source.closing(tags.outer_end)

    def _value(self, source: Source) -> Reading[str]:
        tags = self._tags
        start = source.at
        while True:
            yield from source.run("<")
            if source.exhausted:
                raise Refuted
            value = source.at
            if (yield from source.literal(tags.parameter_end)):
                stop = source.at
                yield from source.spaces()
                if (yield from source.follows(tags.parameter, tags.function_end, tags.outer_end)):
                    source.at = value
                    text = source.since(start)
                    source.at = stop
                    return _inner(text) if tags.own_lines else text
            source.at = value + 1


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

    def read(self, source: Source) -> Reading[None]:
        yield from source.literal("\n")
        yield from source.require("<tool_call>")
        yield from source.spaces()
        name = yield from source.name("<>{[")
        arguments: dict[str, str] = {}
        stop = source.at
        yield from source.spaces()
        while (yield from source.literal("<arg_key>")):
            key = yield from source.until("</arg_key>")
            yield from source.spaces()
            yield from source.require("<arg_value>")
            arguments[key] = yield from source.until("</arg_value>")
            stop = source.at
            yield from source.spaces()
        closed = yield from source.literal("</tool_call>")
        if not closed:
            if not arguments and not (yield from self._is_whole(source, name)):
                raise Refuted
            source.at = stop
        source.accept(self._schemas.call(name, arguments))

    def _is_whole(self, source: Source, name: str) -> Reading[bool]:
        if self._schemas:
            return name in self._schemas
        at_end = (yield from source.peek()) == ""
        return at_end or (yield from source.follows("<tool_call>"))
