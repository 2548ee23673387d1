"""The format of Qwen 3.5 and Qwen3-Coder: `<function=>` and `<parameter=>` tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import ToolFormat, dump, join, join_with, literal, unwrap
from quire.tools.stream import Grammar
from quire.tools.tag_calls import TagCalls, Tags, write_parameters

_BEFORE = """

# Tools

You have access to the following functions:

<tools>"""
_AFTER = """
</tools>

If you choose to call a function ONLY reply in the following format with NO suffix:

<tool_call>
<function=example_function_name>
<parameter=example_parameter_1>
value_1
</parameter>
<parameter=example_parameter_2>
This is the value for the second parameter
that can span
multiple lines
</parameter>
</function>
</tool_call>

<IMPORTANT>
Reminder:
- Function calls MUST follow the specified format: an inner <function=...></function> block must \
be nested within <tool_call></tool_call> XML tags
- Required parameters MUST be specified
- You may provide optional reasoning for your function call in natural language BEFORE the \
function call, but NOT after
- If there is no function call available, answer the question like normal with your current \
knowledge and do not tell the user about function calls
</IMPORTANT>"""

_TAGS = Tags(
    outer="<tool_call>",
    outer_end="</tool_call>",
    function="<function=",
    function_end="</function>",
    parameter="<parameter=",
    key_end=">",
    own_lines=True,
)


class Qwen35Format(ToolFormat):
    """A parameter's value stands on lines of its own, so it keeps its own newlines."""

    name = "qwen3_5"
    markers = ("<tool_call>", "</tool_call>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        listed = [join("\n", literal(dump(unwrap(tool)))) for tool in tools]
        return join(_BEFORE, *listed, _AFTER) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join_with("\n", [_write_call(call) for call in calls])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return TagCalls(_TAGS, tools)


def _write_call(call: ToolCall) -> Spans:
    arguments = write_parameters(call, _TAGS)
    name = literal(call.name)
    return join("<tool_call>\n<function=", name, ">", *arguments, "\n</function>\n</tool_call>")
