"""The grammar of calls: from a form that was learned, and the tools' schemas.

Arguments follow the tools' schemas as far as their notation can: JSON does altogether. Of a text that a
notation writes without quotes, values, lengths and patterns are held, where nothing else can stand in
its place; its format is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from quire.constraints.answer_form import CallsForm, OfferedTool
from quire.constraints.call_writer import CallWriter
from quire.constraints.json_writer import JsonWriter
from quire.constraints.lark import Rules, alternatives, joined, white_space
from quire.constraints.notation_writers import BraceWriter, PythonWriter, QuotedJsonWriter
from quire.constraints.schema import enforceable
from quire.constraints.tag_writer import TagWriter
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    TagArguments,
)

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def arguments_schema(tool: OfferedTool) -> dict[str, Any]:
    """The schema of a tool's arguments, as it is enforced: a call is looked at once more afterwards.

    Raises:
        SchemaError: it cannot be.
    """
    return enforceable(tool.parameters, is_object=True, is_exact=False)


def write_calls(
    rules: Rules, calls: CallsForm, free: Collection[str] = (), heads: Collection[str] = ()
) -> str:
    """Add the rules of one or more calls; return the symbol for all of them.

    Args:
        free: the names of the tools whose arguments are any.
        heads: what may begin the message of the calls.
    """
    schemas = {
        tool.name: dict(_ANY_OBJECT) if tool.name in free else arguments_schema(tool)
        for tool in calls.tools
    }
    forms = (calls.form, *calls.others)
    return rules.add(
        alternatives(_calls_in(form, rules, schemas, calls.most, heads) for form in forms)
    )


def _calls_in(
    form: CallForm,
    rules: Rules,
    schemas: Mapping[str, dict[str, Any]],
    most: int | None,
    heads: Collection[str],
) -> str:
    """The symbol of calls in one form."""
    writer = _writer(form)(rules, form)

    def one_after(before: str) -> str:
        return rules.add(alternatives(writer.call(*tool, before) for tool in schemas.items()))

    # White space is a symbol of its own everywhere: llguidance would take what a thought leaves
    # open for the beginning of these.
    opening = form.begin + form.open
    first = one_after(opening.lstrip())
    if opening[:1].isspace():
        first = f"{white_space(opening[: -len(opening.lstrip())])} {first}"
    more = ""
    if heads:
        first = alternatives((first, *(one_after(head + opening) for head in heads)))
    most = most if form.most is None else min(form.most, most or form.most)
    if most != 1:
        limit = "*" if most is None else f"{{0,{most - 1}}}"
        more = one_after(form.between + form.open) + limit
    end = form.end.rstrip()
    # A turn may end with line breaks, which are then not the beginning of one more call.
    return rules.add(joined(first, more, rules.literal(end), white_space(form.end)))


def _writer(form: CallForm) -> type[CallWriter]:
    arguments = form.arguments
    is_marked = bool(form.begin + form.open) or not str(form.call[0]).startswith("{")
    # A bare object is JSON as a whole, which can stand beside an answer that is JSON too.
    if isinstance(arguments, JsonArguments) and arguments.as_text and is_marked:
        return QuotedJsonWriter
    return _WRITERS[type(arguments)]


_WRITERS: Mapping[type, type[CallWriter]] = {
    JsonArguments: JsonWriter,
    TagArguments: TagWriter,
    PythonArguments: PythonWriter,
    BraceArguments: BraceWriter,
}
