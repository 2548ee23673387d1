"""The format of GLM-4.5 and later: `<arg_key>` and `<arg_value>` pairs after `<tool_call>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    ToolFormat,
    arguments_object,
    dump,
    join,
    join_with,
    literal,
    value_text,
    wrap,
)
from quire.tools.stream import Grammar
from quire.tools.tag_calls import PairCalls

_BEFORE = """

# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_AFTER = """
</tools>

For each function call, output the function name and arguments within the following XML format:
<tool_call>{function-name}
<arg_key>{arg-key-1}</arg_key>
<arg_value>{arg-value-1}</arg_value>
<arg_key>{arg-key-2}</arg_key>
<arg_value>{arg-value-2}</arg_value>
...
</tool_call>
"""


class GLM4MoeFormat(ToolFormat):
    """No closing tag is written, as in the reference; read are calls with it and without."""

    name = "glm4_moe"
    markers = (
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    )

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        listed = [join("\n", literal(dump(wrap(tool)))) for tool in tools]
        return join(_BEFORE, *listed, _AFTER) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join_with("\n", [_write_call(call) for call in calls])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return PairCalls(tools)


def _write_call(call: ToolCall) -> Spans:
    arguments = [
        join(
            "\n<arg_key>",
            literal(key),
            "</arg_key>\n<arg_value>",
            literal(value_text(value)),
            "</arg_value>",
        )
        for key, value in arguments_object(call).items()
    ]
    return join("\n<tool_call>", literal(call.name), *arguments)
