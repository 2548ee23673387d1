"""The format of MiniMax M2: `<invoke>` and `<parameter>` tags."""

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

You may call one or more tools to assist with the user query.
Here are the tools available in JSONSchema format:

<tools>
"""
_AFTER = """</tools>

When making tool calls, use XML format to invoke tools and pass parameters:

<minimax:tool_call>
<invoke name="tool-name-1">
<parameter name="param-key-1">param-value-1</parameter>
<parameter name="param-key-2">param-value-2</parameter>
...
</invoke>
</minimax:tool_call>"""

_TAGS = Tags(
    outer="<minimax:tool_call>",
    outer_end="</minimax:tool_call>",
    function='<invoke name="',
    function_end="</invoke>",
    parameter='<parameter name="',
    key_end='">',
)


class MiniMax2Format(ToolFormat):
    """Calls are written without the outer tag, as in the reference; read with it and without."""

    name = "minimax2"
    markers = ("<minimax:tool_call>", "</minimax:tool_call>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        listed = [join("<tool>", literal(dump(unwrap(tool))), "</tool>\n") for tool in tools]
        return join(_BEFORE, *listed, _AFTER) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join_with("\n", [_write_call(call) for call in calls])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return TagCalls(_TAGS, tools)


def _write_call(call: ToolCall) -> Spans:
    arguments = write_parameters(call, _TAGS)
    return join('<invoke name="', literal(call.name), '">', *arguments, "\n</invoke>")
