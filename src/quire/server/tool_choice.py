"""The tool choice of a call, as options of the engine's request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.response_format import MAX_SIZE
from quire.server.call import Call, is_larger
from quire.server.errors import BadRequest
from quire.tool_choice import AUTO


def tool_options(call: Call) -> dict[str, Any]:
    """The options for what the client says of calls; none where it says nothing.

    Raises:
        BadRequest: the choice does not match the tools, or their arguments are too large to be forced.
    """
    options: dict[str, Any] = {}
    if call.tools and not call.parallel_tool_calls:
        options["parallel_tool_calls"] = False
    if call.tool_choice.is_forced:
        _check(call, call.tool_choice.name)
    if call.tool_choice != AUTO:
        options["tool_choice"] = call.tool_choice
    return options


def _check(call: Call, name: str | None) -> None:
    functions = [_function(tool) for tool in call.tools or ()]
    if not functions:
        raise BadRequest("tool_choice needs tools to choose from.", param="tool_choice")
    if name is not None:
        functions = [function for function in functions if function["name"] == name]
    if not functions:
        raise BadRequest(
            f"tool_choice names {name!r}, which is none of the tools.", param="tool_choice"
        )
    if is_larger([function.get("parameters") for function in functions], MAX_SIZE):
        raise BadRequest(
            f"tools: the arguments of a forced call may have {MAX_SIZE:,} characters in all.",
            param="tools",
            code="too_many",
        )


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise BadRequest("A tool has no name.", param="tools")
    return function
