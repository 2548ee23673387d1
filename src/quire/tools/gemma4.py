"""The format of Gemma 4: an object notation of its own, whose strings stand between `<|"|>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    ToolFormat,
    description_of,
    dump,
    join,
    join_with,
    literal,
    load,
    mapping,
    name_of,
    sequence,
    unwrap,
)
from quire.tools.json_calls import MAX_DEPTH, read_string
from quire.tools.python_calls import PYTHON_WORDS
from quire.tools.stream import MAX_NAME, CharStream, Grammar, Reading, Refuted

_QUOTE = '<|"|>'


class Gemma4Calls(Grammar):
    """`<|tool_call>call:name{key:value,...}<tool_call|>`; the end tag may be missing."""

    triggers = frozenset("<")

    def read(self, stream: CharStream) -> Reading[None]:
        wrapped = yield from stream.literal("<|tool>")
        yield from stream.require("<|tool_call>")
        yield from stream.spaces()
        yield from stream.require("call:")
        name = yield from stream.name("{}<>")
        yield from stream.spaces()
        arguments = yield from read_members(stream, _QUOTE)
        stream.accept(ToolCall(name, dump(arguments)))
        yield from stream.closing("<tool_call|>")
        if wrapped:
            yield from stream.closing("<tool|>")


def read_members(stream: CharStream, quote: str, depth: int = 0) -> Reading[dict[str, Any]]:
    """Take an object in this notation, whose strings stand between two of `quote`.

    Raises:
        Refuted: none follows.
    """
    members: dict[str, Any] = {}
    yield from stream.require("{")
    yield from stream.spaces()
    if (yield from stream.literal("}")):
        return members
    while True:
        key = yield from _read_key(stream, quote)
        yield from stream.require(":")
        members[key] = yield from _read_value(stream, quote, depth + 1)
        if (yield from stream.literal("}")):
            return members
        yield from stream.require(",")
        yield from stream.spaces()


def _read_key(stream: CharStream, quote: str) -> Reading[str]:
    if (yield from stream.literal(quote)):
        return (yield from stream.until(quote))
    return (yield from stream.run(':,{}[]<>"\n', MAX_NAME)).strip('"')


def _read_value(stream: CharStream, quote: str, depth: int) -> Reading[Any]:
    """A value and the whitespace around it.

    Raises:
        Refuted: none follows, or it is nested too deeply.
    """
    if depth > MAX_DEPTH:
        raise Refuted
    yield from stream.spaces()
    if (yield from stream.literal(quote)):
        value: Any = yield from stream.until(quote)
    elif (char := (yield from stream.peek())) == "{":
        value = yield from read_members(stream, quote, depth)
    elif char == '"':
        value = yield from _read_json_string(stream)
    elif char == "[":
        value = yield from _read_items(stream, quote, depth)
    else:
        value = _word((yield from stream.run(",{}[]<>\n")).strip())
    yield from stream.spaces()
    return value


def _read_json_string(stream: CharStream) -> Reading[str]:
    start = stream.at
    yield from read_string(stream)
    try:
        return load(stream.since(start))
    except ValueError:
        raise Refuted from None


def _read_items(stream: CharStream, quote: str, depth: int) -> Reading[list[Any]]:
    items: list[Any] = []
    yield from stream.require("[")
    yield from stream.spaces()
    if (yield from stream.literal("]")):
        return items
    while True:
        items.append((yield from _read_value(stream, quote, depth + 1)))
        if (yield from stream.literal("]")):
            return items
        yield from stream.require(",")


def _word(text: str) -> Any:
    """A number, `true`, `false` or `null`, or a string without its quotes."""
    if not text:
        raise Refuted
    if text in PYTHON_WORDS:
        return PYTHON_WORDS[text]
    try:
        return load(text)
    except ValueError:
        return text


class Gemma4Format(ToolFormat):
    """Keys are sorted and unquoted, as in the reference."""

    name = "gemma4"
    markers = ("<|tool_call>", "<tool_call|>", _QUOTE)

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join_with("\n", [_declare(tool) for tool in tools])

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join(*(_write_call(call) for call in calls))

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return Gemma4Calls()


def _quoted(text: str) -> Spans:
    return join(_QUOTE, literal(text), _QUOTE)


def _fields(fields: Mapping[str, Spans]) -> Spans:
    written = [join(f"{name}:", value) for name, value in fields.items()]
    return join("{", join_with(",", written), "}")


def _declare(tool: dict[str, Any]) -> Spans:
    fields = {"description": _quoted(description_of(tool))}
    if schema := mapping(unwrap(tool).get("parameters")):
        fields["parameters"] = _declare_parameters(schema)
    if response := mapping(unwrap(tool).get("response")):
        fields["response"] = _declare_response(response)
    return join("declaration:", literal(name_of(tool)), _fields(fields))


def _declare_parameters(schema: Mapping[str, Any]) -> Spans:
    fields: dict[str, Spans] = {}
    if properties := mapping(schema.get("properties")):
        written = [
            join(literal(name), ":", _declare_parameter(mapping(parameter)))
            for name, parameter in properties.items()
        ]
        fields["properties"] = join("{", join_with(",", written), "}")
    if required := sequence(schema.get("required")):
        names = join_with(",", [_quoted(str(name)) for name in required])
        fields["required"] = join("[", names, "]")
    if schema.get("type"):
        fields["type"] = _quoted(str(schema["type"]).upper())
    return _fields(fields)


def _declare_parameter(parameter: Mapping[str, Any]) -> Spans:
    fields: dict[str, Spans] = {}
    if parameter.get("description"):
        fields["description"] = _quoted(str(parameter["description"]))
    if parameter.get("type"):
        fields["type"] = _quoted(str(parameter["type"]).upper())
    return _fields(fields)


def _declare_response(response: Mapping[str, Any]) -> Spans:
    fields: dict[str, Spans] = {}
    if response.get("description"):
        fields["description"] = _quoted(str(response["description"]))
    if str(response.get("type", "")).upper() == "OBJECT":
        fields["type"] = _quoted("OBJECT")
    return _fields(fields)


def _write_call(call: ToolCall) -> Spans:
    return join(
        "<|tool_call>call:", literal(call.name), "{", _write_arguments(call), "}<tool_call|>"
    )


def _write_arguments(call: ToolCall) -> Spans:
    """What stands between the call's braces; arguments that are no JSON stand as they are."""
    try:
        arguments = load(call.arguments)
    except ValueError:
        arguments = call.arguments
    if isinstance(arguments, dict):
        return _members(arguments)
    return join(literal(arguments)) if isinstance(arguments, str) else _value(arguments)


def _members(value: Mapping[str, Any]) -> Spans:
    written = [join(literal(key), ":", _value(value[key])) for key in sorted(value)]
    return join_with(",", written)


def _value(value: Any) -> Spans:
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, dict):
        return join("{", _members(value), "}")
    if isinstance(value, list):
        return join("[", join_with(",", [_value(item) for item in value]), "]")
    words = {None: "null", True: "true", False: "false"}
    return join(words[value] if value is None or isinstance(value, bool) else literal(str(value)))
