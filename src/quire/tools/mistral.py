"""The format of Mistral: `[TOOL_CALLS]` and a JSON list of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import ToolFormat, ToolParser
from quire.tools.stream import PlainParser
from quire.tools.writing import call_object, dump, join, join_with, literal, wrap


class MistralFormat(ToolFormat):
    """Carries any name and any JSON arguments; arguments that are no JSON become a JSON string.

    The token `[TOOL_CALLS]` before the calls is the template's to write.
    """

    name = "mistral"
    markers = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        if not tools:
            return ()
        listed = literal(dump([wrap(tool) for tool in tools]))
        return join("[AVAILABLE_TOOLS] ", listed, "[/AVAILABLE_TOOLS]")

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return join("[", join_with(", ", [call_object(call, "arguments") for call in calls]), "]")

    def parser(self) -> ToolParser:
        return PlainParser()
