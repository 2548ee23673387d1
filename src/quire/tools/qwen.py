"""The format of Qwen 2.5 and 3, and of Hermes: a JSON object between `<tool_call>` tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import (
    ToolFormat,
    call_object,
    dump,
    join,
    join_with,
    literal,
    wrap,
)
from quire.tools.json_calls import JsonCalls
from quire.tools.stream import Grammar

_BEFORE = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>"""
_AFTER = """
</tools>

For each function call, return a json object with function name and arguments within \
<tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""


class QwenFormat(ToolFormat):
    """Carries any name and any JSON arguments; arguments that are no JSON become a JSON string."""

    name = "qwen"
    markers = ("<tool_call>", "</tool_call>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join("\n\n", list_hermes(tools)) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        written = [call_object(call, "arguments") for call in calls]
        return join_with("\n", [join("<tool_call>\n", call, "\n</tool_call>") for call in written])

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return JsonCalls("<tool_call>", "</tool_call>")


def list_hermes(tools: Sequence[dict[str, Any]]) -> Spans:
    """The tools, one JSON object a line, and how to call them."""
    listed = [join("\n", literal(dump(wrap(tool)))) for tool in tools]
    return join(_BEFORE, *listed, _AFTER)
