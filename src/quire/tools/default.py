"""The format of templates that have none of their own: `Action:` and `Action Input:` lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    ToolFormat,
    arguments_text,
    description_of,
    dump,
    join,
    join_with,
    literal,
    mapping,
    name_of,
    plain,
    schema_of,
    sequence,
)
from quire.tools.json_calls import read_arguments
from quire.tools.stream import CharStream, Grammar, Reading

_HOW_TO_CALL = """\
Use the following format if using a tool:
```
Action: tool name (one of [{names}])
Action Input: the input to the tool, in a JSON format representing the kwargs \
(e.g. ```{"input": "hello world", "num_beams": 5}```)
```
"""


class ActionCalls(Grammar):
    """`Action:` and `Action Input:` with a JSON object, in a code fence or not."""

    triggers = frozenset("A`")

    def read(self, stream: CharStream) -> Reading[None]:
        fenced = yield from stream.literal("```\n")
        yield from stream.require("Action:")
        yield from stream.spaces()
        name = yield from stream.name("")
        yield from stream.spaces()
        yield from stream.require("Action Input:")
        yield from stream.spaces()
        inner = yield from stream.literal("```")
        if inner:
            yield from stream.literal("json")
            yield from stream.spaces()
        stream.accept(ToolCall(name, (yield from read_arguments(stream))))
        for _ in range(fenced + inner):
            yield from stream.closing("```")


class DefaultFormat(ToolFormat):
    """Arguments are written as they are; read back are those that are a JSON object."""

    name = "default"

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        if not tools:
            return ()
        before, after = _HOW_TO_CALL.split("{names}")
        names = join_with(", ", [(literal(name_of(tool)),) for tool in tools])
        listed = join(*(_list_tool(tool) for tool in tools))
        return join("You have access to the following tools:\n", listed, before, names, after)

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join_with("\n", [_write_call(call) for call in calls])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return ActionCalls()


def _write_call(call: ToolCall) -> Spans:
    return join("Action: ", literal(call.name), "\nAction Input: ", literal(arguments_text(call)))


def _list_tool(tool: dict[str, Any]) -> Spans:
    schema = schema_of(tool)
    required = sequence(schema.get("required"))
    parameters = [
        _list_parameter(name, mapping(parameter), name in required)
        for name, parameter in mapping(schema.get("properties")).items()
    ]
    return join(
        "> Tool Name: ",
        literal(name_of(tool)),
        "\nTool Description: ",
        literal(description_of(tool)),
        "\nTool Args:\n",
        *parameters,
        "\n",
    )


def _list_parameter(name: str, parameter: Mapping[str, Any], required: bool) -> Spans:
    choices, items = sequence(parameter.get("enum")), mapping(parameter.get("items"))
    return join(
        "  - ",
        literal(name),
        " (",
        literal(plain(parameter.get("type", ""))),
        ", required" if required else "",
        "): ",
        literal(plain(parameter.get("description", ""))),
        *(
            [", should be one of [", literal(", ".join(map(_choice, choices))), "]"]
            if choices
            else []
        ),
        *([", where each item should be ", literal(plain(items.get("type", "")))] if items else []),
        "\n",
    )


def _choice(value: Any) -> str:
    return value if isinstance(value, str) else dump(value)
