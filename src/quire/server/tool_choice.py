"""Tool choice: none, auto, required, named; and at most one call.

A forced choice constrains the answer to JSON: the arguments of the named tool, or a list of calls.
That works with every tool format, and with every engine that has constraints.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from quire.errors import UnsupportedOptionError
from quire.messages import ToolCall
from quire.outputs import Delta
from quire.response_format import MAX_SIZE
from quire.server.call import Call, is_larger
from quire.server.errors import BadRequest


class ToolChooser:
    """The tool choice of one request: the tools offered, and how the answer is parsed."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self.tools = call.tools or None
        """The tools that the prompt offers."""

    @classmethod
    def of(cls, call: Call) -> ToolChooser:
        """The chooser of a call.

        Raises:
            BadRequest: the choice does not match the tools.
            UnsupportedOptionError: a forced choice together with `response_format`.
        """
        if call.tool_choice in ("required", "named"):
            return ForcedChoice(call)
        if call.tool_choice == "none":
            return ToolChooser(replace(call, tools=None))
        return ToolChooser(call) if call.parallel_tool_calls or not call.tools else OneCall(call)

    def options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The request's options, with the constraint of a forced choice."""
        return options

    def read(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        """The answer, with tool calls parsed out of it."""
        return deltas


class OneCall(ToolChooser):
    """`parallel_tool_calls: false`: an answer ends with its first call.

    The model is not stopped, so that usage stays true; the rest of its text is dropped.
    """

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        called: set[int] = set()
        async with aclosing(deltas):
            async for delta in deltas:
                if delta.index in called:
                    delta = replace(delta, text="", parts=())
                elif delta.tool_calls:
                    called.add(delta.index)
                    parts = delta.all_parts()
                    first = next(i for i, part in enumerate(parts) if isinstance(part, ToolCall))
                    delta = replace(delta, parts=parts[: first + 1])
                yield delta


class ForcedChoice(ToolChooser):
    """A tool that must be called."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        functions = [_function(tool) for tool in call.tools or ()]
        if not functions:
            raise BadRequest("tool_choice needs tools to choose from.", param="tool_choice")
        if call.options.get("response_format") not in (None, {"type": "text"}):
            raise UnsupportedOptionError(
                "tool_choice that forces a call and response_format both constrain the answer: "
                "leave one out."
            )
        self._named = call.tool_choice == "named"
        self._functions = functions
        if self._named and call.tool_name not in [function["name"] for function in functions]:
            raise BadRequest(
                f"tool_choice names {call.tool_name!r}, which is none of the tools.",
                param="tool_choice",
            )

    def options(self, options: Mapping[str, Any]) -> Mapping[str, Any]:
        form = {"type": "json_schema", "json_schema": {"name": "call", "schema": self._schema()}}
        return {**options, "response_format": form}

    def _schema(self) -> dict[str, Any]:
        """The arguments of the one tool, or an array of calls of any of them.

        Raises:
            BadRequest: they are larger than any schema may be.
        """
        if self._named:
            name = self._call.tool_name
            self._functions = [next(f for f in self._functions if f["name"] == name)]
        if is_larger([_parameters(function) for function in self._functions], MAX_SIZE):
            raise BadRequest(
                f"tools: the arguments of a forced call may have {MAX_SIZE:,} characters in all.",
                param="tools",
                code="too_many",
            )
        if self._named:
            return _parameters(self._functions[0])
        calls = [_call_schema(function, index) for index, function in enumerate(self._functions)]
        limit = {} if self._call.parallel_tool_calls else {"maxItems": 1}
        return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **limit}

    async def read(self, deltas: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
        readers: dict[int, CallReader] = {}
        name = self._call.tool_name if self._named else None
        async with aclosing(deltas):
            async for delta in deltas:
                reader = readers.setdefault(delta.index, CallReader(name))
                calls = reader.add(delta.text, last=delta.finish_reason is not None)
                reason = delta.finish_reason
                if reason == "stop" and reader.has_called:
                    reason = "tool_calls"
                yield replace(delta, parts=calls, finish_reason=reason)


class CallReader:
    """Parses calls out of constrained JSON as it streams; each is returned once it is complete.

    With a name the text is that tool's arguments; without one it is a list of calls.
    """

    def __init__(self, name: str | None) -> None:
        self._name = name
        self._text = ""
        self._scanned = 0
        self._depth = 0
        self._in_string = self._escaped = False
        self._start: int | None = None
        self.has_called = False

    def add(self, text: str, *, last: bool = False) -> tuple[ToolCall, ...]:
        """Add text; return the calls that it completes. Arguments cut off by the length stay so."""
        self._text += text
        if self._name is None:
            calls = self._complete_calls()
        elif last and self._text:
            calls = [ToolCall(self._name, self._text.strip())]
        else:
            calls = []
        self.has_called = self.has_called or bool(calls)
        return tuple(calls)

    def _complete_calls(self) -> list[ToolCall]:
        calls: list[ToolCall] = []
        for position in range(self._scanned, len(self._text)):
            if self._closes_call(self._text[position], position) and self._start is not None:
                call = json.loads(self._text[self._start : position + 1])
                arguments = json.dumps(call["arguments"], ensure_ascii=False)
                calls.append(ToolCall(call["name"], arguments))
                self._start = None
        self._scanned = len(self._text)
        return calls

    def _closes_call(self, char: str, position: int) -> bool:
        """Scan one character; True if it ends an object of the outer list."""
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._in_string = False
            return False
        if char == '"':
            self._in_string = True
        elif char in "[{":
            if char == "{" and self._depth == 1:
                self._start = position
            self._depth += 1
        elif char in "]}":
            self._depth -= 1
            return char == "}" and self._depth == 1
        return False


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest("A tool has no name.", param="tools")
    return function


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    return function.get("parameters") or {"type": "object", "properties": {}}


def _call_schema(function: Mapping[str, Any], index: int) -> dict[str, Any]:
    """The schema of a call of the tool at this index."""
    arguments = _rebased(_parameters(function), f"#/items/anyOf/{index}/properties/arguments")
    return {
        "type": "object",
        "properties": {"name": {"const": function["name"]}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _rebased(schema: Any, pointer: str) -> Any:
    """A schema with its references to its own root replaced by `pointer`, its new position."""
    if isinstance(schema, list):
        return [_rebased(item, pointer) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: pointer + value.removeprefix("#")
        if key == "$ref" and isinstance(value, str) and value.startswith("#")
        else _rebased(value, pointer)
        for key, value in schema.items()
    }
