"""The format of LFM2: a Python list of calls between `<|tool_call_start|>` and its end."""

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
    unwrap,
)
from quire.tools.python_calls import PythonCalls
from quire.tools.stream import Grammar


class LFM2Format(ToolFormat):
    """Strings stand between double quotes, unescaped, as in the reference."""

    name = "lfm2"
    markers = ("<|tool_call_start|>", "<|tool_call_end|>")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        if not tools:
            return ()
        listed = literal(dump([unwrap(tool) for tool in tools]))
        return join("List of tools: <|tool_list_start|>", listed, "<|tool_list_end|>")

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        written = join_with(", ", [_write_call(call) for call in calls])
        return join("<|tool_call_start|>[", written, "]<|tool_call_end|>")

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return PythonCalls(self.markers[0], self.markers[1])


def _write_call(call: ToolCall) -> Spans:
    arguments = [_write_argument(*item) for item in arguments_object(call).items()]
    return join(literal(call.name), "(", join_with(", ", arguments), ")")


def _write_argument(key: str, value: Any) -> Spans:
    if isinstance(value, str):
        return join(literal(key), '="', literal(value), '"')
    return join(literal(key), "=", literal(dump(value)))
