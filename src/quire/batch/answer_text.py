"""An answer's text as it stands in a file, taken apart: its thought, its calls, and what is left."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from quire.messages import ToolCall

THOUGHT_WORDS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),
    ("<seed:think>", "</seed:think>"),
    ("◁think▷", "◁/think▷"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought", "<channel|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
)
"""What opens and closes a thought: of all named templates, and of well-known models."""

_CONTROL_TOKEN = re.compile(
    r"(?:<\|[^<>|\s]{1,40}\|>|<｜[^<>｜\s]{1,40}｜>|</s>|<eos>|<end_of_turn>)$"
)
_LONGEST_TOKEN = 48

Call: TypeAlias = tuple[str, str]
"""A call's name and its arguments, written in one way for all equal ones."""


@dataclass(frozen=True, slots=True)
class AnswerText:
    """An answer without its thought, and without white space and control tokens at its ends."""

    text: str
    calls: tuple[Call, ...]
    """In the order of their names and arguments: those of one answer have no order among them."""
    rest: str
    """The text without the calls."""


def read_answer(text: str, content: str | None = None, calls: Any = None) -> AnswerText:
    """Take an answer apart.

    Args:
        content: the answer without thought and calls, where that is known.
        calls: its calls as data, a list in OpenAI's form or of names and arguments, or that as JSON
            text; None finds those that the text holds.

    Raises:
        ValueError: `calls` has another form.
    """
    answer = trimmed(without_thought(text))
    known = answer if content is None else trimmed(content)
    if calls is None:
        rest, found = calls_in(known)
        answer = known
    elif found := read_calls(calls):
        rest = calls_in(answer)[0] if content is None else known
    else:
        answer = rest = known
    return AnswerText(answer, tuple(sorted(map(_canonical, found))), rest.strip())


def without_thought(text: str) -> str:
    """The text after the thought that it begins with, if it does; nothing where that never ends.

    The word that opens the thought may be missing: it then stands in the prompt.
    """
    start = text.lstrip()
    for opening, closing in THOUGHT_WORDS:
        if start.startswith(opening):
            return start.partition(closing)[2]
    ends = [
        (place, closing)
        for opening, closing in THOUGHT_WORDS
        if (place := text.find(closing)) >= 0 and opening not in text[:place]
    ]
    if not ends:
        return text
    place, closing = min(ends)
    return text[place + len(closing) :]


def trimmed(text: str) -> str:
    """The text without white space at its ends, and without the tokens that end a turn."""
    text = text.strip()
    while match := _CONTROL_TOKEN.search(text[-_LONGEST_TOKEN:]):
        text = text[: len(text) - len(match[0])].rstrip()
    return text


# --- calls ---------------------------------------------------------------------------------------


def calls_in(text: str) -> tuple[str, Sequence[ToolCall]]:
    """The text without the calls in it, and these, in whatever format they are written."""
    found = tuple(_calls_of_json(text))
    if found:
        return "", found
    from quire.tools.registry import detect_tool_format

    # The words by which a template is recognised are those that calls are written with.
    form = detect_tool_format(text)
    return form.parse(text) if form is not None else (text, ())


def _calls_of_json(text: str) -> Iterator[ToolCall]:
    """The calls where a text is nothing but JSON that names functions, as several models write them."""
    if not text.startswith(("{", "[")):
        return
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    items = value if isinstance(value, list) else [value]
    keys = ({"name", "arguments"}, {"name", "parameters"})
    if all(isinstance(one, dict) and set(one) in keys for one in items):
        for one in items:
            arguments = one.get("arguments", one.get("parameters"))
            if isinstance(one["name"], str) and isinstance(arguments, (dict, str)):
                yield _call(one["name"], arguments)


def read_calls(value: Any) -> Sequence[ToolCall]:
    """Calls as data: a list in OpenAI's form, or of names and arguments, or that as JSON text.

    Raises:
        ValueError: it is none.
    """
    items = value or []
    if isinstance(items, str):
        try:
            items = json.loads(items) if items.strip() else []
        except (ValueError, RecursionError):
            raise ValueError("its tool calls are no JSON") from None
    if not isinstance(items, (list, tuple)):
        raise ValueError("its tool calls are no list")
    return [_read_call(one) for one in items]


def _read_call(value: Any) -> ToolCall:
    inner = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise ValueError("one of its tool calls has no name")
    return _call(inner["name"], inner.get("arguments"))


def _call(name: str, arguments: Any) -> ToolCall:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
    return ToolCall(name, text)


def _canonical(call: ToolCall) -> Call:
    try:
        value = json.loads(call.arguments) if call.arguments.strip() else {}
        return call.name, json.dumps(_equal_numbers(value), sort_keys=True)
    except (ValueError, RecursionError):
        return call.name, call.arguments.strip()


def _equal_numbers(value: Any) -> Any:
    """The value with 1 for 1.0: JSON knows one kind of number."""
    if isinstance(value, dict):
        return {key: _equal_numbers(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_equal_numbers(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
