"""The format of Llama 3.1 and later: a bare JSON object with `name` and `parameters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
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
Cutting Knowledge Date: December 2023
Today Date: {date}

You have access to the following functions. To call a function, please respond with JSON for a \
function call. Respond in the format {"name": function name, "parameters": dictionary of argument \
name and its value}. Do not use variables.

"""
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def today() -> date:
    """The date in the list of tools; tests replace it."""
    return date.today()


class Llama3Format(ToolFormat):
    """Carries any name and any JSON arguments; arguments that are no JSON become a JSON string."""

    name = "llama3"
    markers = ("<|python_tag|>",)

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        if not tools:
            return ()
        day = today()
        written = f"{day.day:02} {_MONTHS[day.month - 1]} {day.year}"
        listed = [join(literal(dump(wrap(tool), indent=4)), "\n\n") for tool in tools]
        return join(_BEFORE.replace("{date}", written), *listed)

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        written = join_with(", ", [call_object(call, "parameters") for call in calls])
        return written if len(calls) == 1 else join("[", written, "]")

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return JsonCalls("<|python_tag|>", bare=True)
