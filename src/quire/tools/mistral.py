"""The format of Mistral: `[TOOL_CALLS]` and a JSON list of calls."""

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
from quire.tools.json_calls import JsonCalls, read_arguments
from quire.tools.stream import CharStream, Grammar, Reading, Refuted


class MistralCalls(JsonCalls):
    """The list of calls, with `[TOOL_CALLS]` and without, and the newer `name[ARGS]{...}`."""

    def __init__(self) -> None:
        super().__init__("[TOOL_CALLS]", bare=True)

    def read(self, stream: CharStream) -> Reading[None]:
        marked = yield from stream.literal("[TOOL_CALLS]")
        yield from stream.spaces()
        if (yield from stream.peek()) in ("{", "["):
            yield from self.read_calls(stream, bare=not marked)
        elif marked or stream.fresh:
            yield from self._read_named(stream, marked)
        else:
            raise Refuted

    def _read_named(self, stream: CharStream, marked: bool) -> Reading[None]:
        """Read `name[CALL_ID]id[ARGS]{...}`; after `[TOOL_CALLS]` the markers may be missing."""
        name = yield from stream.name('[]{}<>"')
        identity = None
        if (yield from stream.literal("[CALL_ID]")):
            identity = yield from stream.name("[]{}")
        if not (yield from stream.literal("[ARGS]")) and not marked:
            raise Refuted
        yield from stream.spaces()
        arguments = yield from read_arguments(stream)
        stream.accept(ToolCall(name, arguments, identity))


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

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return MistralCalls()
