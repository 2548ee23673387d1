"""The format of Mistral: `[TOOL_CALLS]` and a JSON list of calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Spans
from quire.tools.base import ToolFormat, ToolParser
from quire.tools.json_calls import JsonCalls, read_arguments
from quire.tools.stream import Reading, Refuted, Source, StreamParser
from quire.tools.writing import call_object, dump, join, join_with, literal, wrap


class MistralCalls(JsonCalls):
    """The list of calls, with `[TOOL_CALLS]` and without, and the newer `name[ARGS]{...}`."""

    def __init__(self) -> None:
        super().__init__("[TOOL_CALLS]", bare=True)

    def read(self, source: Source) -> Reading[None]:
        marked = yield from source.literal("[TOOL_CALLS]")
        yield from source.spaces()
        if (yield from source.peek()) in ("{", "["):
            yield from self.read_calls(source, bare=not marked)
        elif marked or source.fresh:
            yield from self._read_named(source, marked)
        else:
            raise Refuted

    def _read_named(self, source: Source, marked: bool) -> Reading[None]:
        """Read `name[CALL_ID]id[ARGS]{...}`; after `[TOOL_CALLS]` the markers may be missing."""
        name = yield from source.name('[]{}<>"')
        identity = None
        if (yield from source.literal("[CALL_ID]")):
            identity = yield from source.name("[]{}")
        if not (yield from source.literal("[ARGS]")) and not marked:
            raise Refuted
        yield from source.spaces()
        arguments = yield from read_arguments(source)
        source.accept(ToolCall(name, arguments, identity))


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

    def parser(self, tools: Sequence[dict[str, Any]] = ()) -> ToolParser:
        return StreamParser(MistralCalls())
