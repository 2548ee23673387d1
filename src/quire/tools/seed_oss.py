"""The format of Seed-OSS: `<function=>` and `<parameter=>` tags inside `<seed:tool_call>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import ToolFormat, dump, join, join_with, literal
from quire.tools.stream import Grammar
from quire.tools.tag_calls import TagCalls, Tags, write_parameters

_BEFORE = """\
system
You are Doubao, a helpful AI assistant. You may call one or more functions to assist with the user \
query.Tool List:
You are authorized to use the following tools (described in JSON Schema format). Before performing \
any task, you must decide how to call them based on the descriptions and parameters of these tools.
"""
_AFTER = """
工具调用请遵循如下格式:
<seed:tool_call>
<function=example_function_name>
<parameter=example_parameter_1>value_1</parameter>
<parameter=example_parameter_2>This is the value for the second parameter
that can span
multiple lines</parameter>
</function>
</seed:tool_call>
"""

_TAGS = Tags(
    outer="<seed:tool_call>",
    outer_end="</seed:tool_call>",
    function="<function=",
    function_end="</function>",
    parameter="<parameter=",
    key_end=">",
    lead="\n",
)


class SeedFormat(ToolFormat):
    """The function's tag is written unclosed, as in the reference; read closed and unclosed."""

    name = "seed_oss"
    markers = ("<seed:tool_call>", "</seed:tool_call>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join(_BEFORE, literal(dump(list(tools))), _AFTER) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join_with("\n", [_write_call(call) for call in calls])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return TagCalls(_TAGS, tools)


def _write_call(call: ToolCall) -> Spans:
    arguments = write_parameters(call, _TAGS)
    name = literal(call.name)
    return join(
        "\n<seed:tool_call>\n<function=", name, *arguments, "\n</function>\n</seed:tool_call>"
    )
