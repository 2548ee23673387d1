"""The format of tools that a model's own chat template writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from quire.messages import ToolCall
from quire.prompt import Span, Spans
from quire.tools.base import (
    ToolFormat,
    arguments_json,
    arguments_object,
    dump,
    join,
    join_with,
    literal,
    value_text,
)
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)
from quire.tools.form_reader import AnyCalls, grammar_of
from quire.tools.stream import Grammar


class LearnedFormat(ToolFormat):
    """Calls in a form that was learned. The template itself lists the tools."""

    def __init__(
        self,
        form: CallForm,
        family: ToolFormat | None = None,
        other: CallForm | None = None,
    ) -> None:
        """`family`, a format written by hand, and `other`, a second form, are read as well."""
        self._form = form
        self._family = family
        self._other = other
        self.name = family.name if family is not None else "learned"
        found = (
            *form.markers,
            *(other.markers if other is not None else ()),
            *(family.markers if family is not None else ()),
        )
        self.markers = tuple(dict.fromkeys(found))

    @cached_property
    def form(self) -> CallForm | None:
        return self._form

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return ()

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        form = self._form
        written = [
            join(form.open, _write_call(form, call, form.first_index + index), form.close)
            for index, call in enumerate(calls)
        ]
        return join(form.begin, join_with(form.between, written), form.end)

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        forms = [self._form] if self._other is None else [self._form, self._other]
        grammars = [grammar_of(form, tools) for form in forms]
        if self._family is not None:
            grammars.append(self._family.grammar(tools))
        return AnyCalls(*grammars) if len(grammars) > 1 else grammars[0]


class WithOwnForm(ToolFormat):
    """A named format, which writes; the model's own form is read as well.

    A model that was trained on a named format for a while may still write its own.
    """

    def __init__(self, named: ToolFormat, own: ToolFormat) -> None:
        self._named, self._own = named, own
        self.name = named.name
        self.markers = tuple(dict.fromkeys((*named.markers, *own.markers)))

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return self._named.list_tools(tools)

    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        return self._named.write_calls(calls)

    def grammar(self, tools: Sequence[Mapping[str, Any]] = ()) -> Grammar:
        return AnyCalls(self._named.grammar(tools), self._own.grammar(tools))


def _write_call(form: CallForm, call: ToolCall, index: int) -> Spans:
    parts: list[str | Spans] = []
    for part in form.call:
        if part is Slot.NAME:
            parts.append((literal(call.name),))
        elif part is Slot.ID:
            parts.append((literal(call.id or f"call{index:05d}"),))
        elif part is Slot.INDEX:
            parts.append(str(index))
        elif part is Slot.ARGUMENTS:
            parts.append(_write_arguments(form, call))
        else:
            parts.append(part)
    return join(*parts)


def _write_arguments(form: CallForm, call: ToolCall) -> Spans:
    kind = form.arguments
    if isinstance(kind, JsonArguments):
        text = arguments_json(call)
        return (literal(dump(text) if kind.as_text else text),)
    values = arguments_object(call)
    if isinstance(kind, TagArguments):
        return join_with(kind.between, [_write_tag(kind, *item) for item in values.items()])
    if isinstance(kind, PythonArguments):
        written = [join(literal(key), "=", _python(value, kind)) for key, value in values.items()]
        return join_with(", ", written)
    return _braces(values, kind)


def _write_tag(kind: TagArguments, key: str, value: Any) -> Spans:
    middle = kind.middle
    if isinstance(value, str) and kind.string_middle is not None:
        middle = kind.string_middle
    text = value_text(value) if kind.raw_strings else dump(value)
    after: list[str | Span] = []
    for index, piece in enumerate(kind.after.split("\0")):
        after += [literal(key), piece] if index else [piece]
    return join(kind.before, literal(key), middle, literal(text), *after)


def _python(value: Any, kind: PythonArguments) -> Spans:
    if kind.json_words or not isinstance(value, (str, bool, type(None))):
        return (literal(dump(value)),)
    if isinstance(value, str):
        quote = kind.quote or '"'
        inner = json.dumps(value, ensure_ascii=False)[1:-1]
        if quote == "'":
            inner = inner.replace('\\"', '"').replace("'", "\\'")
        return (literal(f"{quote}{inner}{quote}"),)
    return (literal(str(value)),)


def _braces(value: Any, kind: BraceArguments) -> Spans:
    if isinstance(value, str):
        return join(kind.quote, literal(value), kind.quote)
    if isinstance(value, dict):
        members = [join(literal(key), ":", _braces(inner, kind)) for key, inner in value.items()]
        return join("{", join_with(",", members), "}")
    if isinstance(value, list):
        return join("[", join_with(",", [_braces(item, kind) for item in value]), "]")
    return (literal(dump(value)),)
