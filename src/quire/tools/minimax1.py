"""The format of MiniMax M1: JSON objects, one a line, between `<tool_calls>` tags."""

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
    unwrap,
)
from quire.tools.json_calls import JsonCalls
from quire.tools.stream import Grammar

_BEFORE = "You are provided with these tools:\n<tools>\n"
_AFTER = """</tools>

If you need to call tools, please respond with <tool_calls></tool_calls> XML tags, and provide \
tool-name and json-object of arguments, following the format below:
<tool_calls>
{"name": <tool-name-1>, "arguments": <args-json-object-1>}
...
</tool_calls>"""


class MiniMax1Format(ToolFormat):
    """Carries any name and any JSON arguments; arguments that are no JSON become a JSON string."""

    name = "minimax1"
    markers = ("<tool_calls>", "</tool_calls>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        listed = [join(literal(dump(unwrap(tool))), "\n") for tool in tools]
        return join(_BEFORE, *listed, _AFTER) if tools else ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        written = join_with("\n", [call_object(call, "arguments") for call in calls])
        return join("<tool_calls>\n", written, "\n</tool_calls>")

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return JsonCalls("<tool_calls>", "</tool_calls>")
