"""`quire prompt --explain`: what is known of how a model answers, and a call written and read back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from quire.cli.prompt_view import Rendering
from quire.errors import QuireError
from quire.messages import ToolCall
from quire.template.template import Template
from quire.tools.base import ToolFormat
from quire.tools.call_form import CallForm, Slot
from quire.tools.harmony import TURN_ENDS

_CALL = ToolCall("get_weather", '{"city": "Paris", "days": 2}', "call00001")
_TOOL = {
    "name": _CALL.name,
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    },
}


def show_explanation(rendering: Rendering, output: TextIO) -> None:
    """Write what was learned of a template, or what a named one declares."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in _rows(rendering):
        table.add_row(label, Text(value))
    Console(file=output, soft_wrap=False).print(table)


def _rows(rendering: Rendering) -> Iterator[tuple[str, str]]:
    template = rendering.template
    yield "template", rendering.name
    ends = template.stop_words or (TURN_ENDS if template.is_harmony else ())
    yield "ends a turn", _listed(ends) or "the tokenizer's end of text"
    if template.message_ends:
        yield "and, after a text", _listed(template.message_ends)
    yield "thought", _thought(rendering)
    around = [*template.before_text, *template.after_text]
    if around:
        yield "around a text", _listed(tuple(around))
    yield "tools", _tools(template)
    tool_format = template.tool_format
    if tool_format is None:
        yield "calls", "not known: give tool_format"
        return
    yield "calls", _form(tool_format.form) if tool_format.form else f"as {tool_format.name}"
    yield from _round_trip(tool_format)


def _thought(rendering: Rendering) -> str:
    template = rendering.template
    if not template.reasoning:
        return "none seen"
    opening, close = map(repr, template.thought_words)
    begun = "; this prompt opens it" if template.starts_in_thought(rendering.elements) else ""
    return f"{opening} ... {close}{begun}"


def _tools(template: Template) -> str:
    return "shown" if template.shows_tools else "not shown: a request with tools is refused"


def _form(form: CallForm) -> str:
    """One call with capitals for what stands in it, in its section."""
    call = "".join(part.name if isinstance(part, Slot) else part for part in form.call)
    kind = type(form.arguments).__name__.removesuffix("Arguments")
    written = repr(f"{form.begin}{form.open}{call}{form.close}{form.end}")
    several = "one call an answer" if form.most == 1 else f"{form.between!r} between two"
    return f"{written}; arguments: {kind}; {several}"


def _round_trip(tool_format: ToolFormat) -> Iterator[tuple[str, str]]:
    try:
        written = "".join(span.text for span in tool_format.write_calls([_CALL]))
        text, calls = tool_format.parse(written, [_TOOL])
    except QuireError as error:
        yield "a call", str(error)
        return
    yield "a call", written
    read = ", ".join(f"{call.name}({call.arguments})" for call in calls) or "no call"
    yield "read back", read + (f"; and text: {text!r}" if text.strip() else "")


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join(map(repr, filter(None, texts)))
