"""Reading calls that a grammar has forced: all of the answer is calls, of which the last may be cut."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from quire.messages import ToolCall
from quire.tools.base import dump
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)
from quire.tools.json_calls import JsonCalls
from quire.tools.stream import Piece, StreamParser, ToolParser

JSON_LIST = CallForm(
    ('{"name": "', Slot.NAME, '", "arguments": ', Slot.ARGUMENTS, "}"),
    JsonArguments(),
    begin="[",
    between=", ",
    end="]",
)
"""How calls are forced from a model whose own form is not known."""


def json_list_parser() -> ToolParser:
    """The parser of `JSON_LIST`."""
    return StreamParser(JsonCalls("[", "]"))


class ForcedCalls(ToolParser):
    """Reads an answer of calls alone. What a call is cut to is a call as well.

    Its arguments are then the beginning of JSON, as OpenAI returns them.
    """

    def __init__(self, parser: ToolParser, form: CallForm, names: Sequence[str]) -> None:
        """`parser` reads whole calls of this form; `names` are those of the tools."""
        self._parser, self._form, self._names = parser, form, names
        self._rest = ""

    def add(self, text: str) -> list[Piece]:
        return self._calls(self._parser.add(text))

    def flush(self) -> list[Piece]:
        calls = self._calls(self._parser.flush())
        cut = cut_call(self._form, self._rest, self._names)
        return calls if cut is None else [*calls, cut]

    def _calls(self, pieces: list[Piece]) -> list[Piece]:
        calls: list[Piece] = []
        for piece in pieces:
            if isinstance(piece, ToolCall):
                calls.append(piece)
                self._rest = ""
            else:
                self._rest += piece
        return calls


def cut_call(form: CallForm, text: str, names: Sequence[str]) -> ToolCall | None:
    """The call that a text begins, with what there is of its arguments; None before these begin."""
    written = {_in_form(form, name): name for name in names}
    found = re.search(_beginning(form, written), text, re.DOTALL)
    if found is None:
        return None
    groups = found.groupdict()
    rest = text[found.end() :]
    arguments = _READERS[type(form.arguments)](form, rest)
    return ToolCall(written[groups["name"]], arguments, groups.get("id"))


def _in_form(form: CallForm, name: str) -> str:
    """A name as it is written: between quotes as JSON."""
    at = form.call.index(Slot.NAME) if Slot.NAME in form.call else 0
    is_quoted = at > 0 and str(form.call[at - 1]).endswith('"')
    return json.dumps(name)[1:-1] if is_quoted else name


def _beginning(form: CallForm, names: Iterable[str]) -> str:
    """An expression for a call up to its arguments; white space of JSON may be missing."""
    one_of = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    name = f"(?P<name>{one_of})"
    parts = [_loose(form.open)]
    for part in form.call[: form.call.index(Slot.ARGUMENTS)]:
        if isinstance(part, str):
            parts.append(_loose(part))
        elif part is Slot.NAME:
            parts.append(name if name not in parts else "(?P=name)")  # some name it twice
        elif part is Slot.INDEX:
            parts.append(r"\d+")
        else:
            inner = "[A-Za-z0-9_-]*" if Slot.NAME in form.call else rf"functions\.{name}:\d+"
            parts.append(f"(?P<id>{inner})")
    return "".join(parts)


def _loose(text: str) -> str:
    return r"\s*".join(["", *map(re.escape, text.split()), ""])


# --- the arguments, as far as they go -------------------------------------------------------------


def _json(form: CallForm, text: str) -> str:
    text = text.lstrip()
    if isinstance(form.arguments, JsonArguments) and form.arguments.as_text:
        text = _inside_string(text)
    try:
        _, end = json.JSONDecoder(strict=False).raw_decode(text)
    except (ValueError, RecursionError):
        return text
    return text[:end]


_CHARACTERS = re.compile(r'"((?:[^"\\]|\\(?:u[0-9a-fA-F]{4}|[^u]))*)', re.DOTALL)


def _inside_string(text: str) -> str:
    """The text of a JSON string, as far as it goes."""
    found = _CHARACTERS.match(text)
    return json.loads(f'"{found[1]}"', strict=False) if found is not None else text


def _tags(form: CallForm, text: str) -> str:
    """The parameters that are whole, and the last one, cut, if it is a text."""
    tags = form.arguments
    assert isinstance(tags, TagArguments)
    middles = "|".join(re.escape(one) for one in (tags.middle, tags.string_middle) if one)
    after = "(?P=key)".join(map(re.escape, tags.after.split("\0")))
    one = re.compile(
        f"{re.escape(tags.before)}(?P<key>.+?)(?P<middle>{middles})"
        f"(?P<value>.*?)(?P<after>{after}|\\Z)",
        re.DOTALL,
    )
    written: list[str] = []
    for found in one.finditer(text):
        is_raw = tags.raw_strings and found["middle"] == (tags.string_middle or tags.middle)
        value = _raw_value(found["value"]) if is_raw else found["value"]
        if is_raw and not found["after"]:
            value = dump(found["value"])[:-1]
        written.append(f"{dump(found['key'])}: {value}")
    return _object(written, is_whole=_ends_object(form, text))


def _raw_value(text: str) -> str:
    """A value of a notation without quotes: JSON where it is some, else a text."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return dump(text)
    return text


def _object(members: list[str], *, is_whole: bool) -> str:
    return "{" + ", ".join(members) + ("}" if is_whole else "")


def _ends_object(form: CallForm, text: str) -> bool:
    """Whether the text goes on after the arguments."""
    after = form.call[form.call.index(Slot.ARGUMENTS) + 1 :]
    closing = (str(after[0]) if after and isinstance(after[0], str) else form.close).strip()
    return bool(closing) and closing in text


_PYTHON = re.compile(
    r"""(?P<string>"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?)|(?P<key>[A-Za-z_][\w.-]*)=|(?P<word>\w+)"""
    r"|(?P<other>.)",
    re.DOTALL,
)
_WORDS: Mapping[str, str] = {"True": "true", "False": "false", "None": "null"}


def _python(form: CallForm, text: str) -> str:
    written: list[str] = ["{"]
    depth = 0
    for found in _PYTHON.finditer(text):
        if found["string"]:
            written.append(_quoted(found["string"]))
        elif found["key"]:
            written.append(f"{dump(found['key'])}: ")
        elif found["word"]:
            written.append(_WORDS.get(found["word"], found["word"]))
        else:
            depth += (found[0] in "([{") - (found[0] in ")]}")
            if depth < 0:
                return "".join(written) + "}"
            written.append(found[0])
    return "".join(written)


def _quoted(text: str) -> str:
    """A string in Python's quotes in JSON's, as far as it goes."""
    quote = text[0]
    if quote == '"':
        return text
    is_whole = len(text) > 1 and text.endswith(quote)
    inner = text[1:-1] if is_whole else text[1:]
    return dump(inner.replace("\\'", "'"))[: None if is_whole else -1]


def _braces(form: CallForm, text: str) -> str:
    notation = form.arguments
    assert isinstance(notation, BraceArguments)
    pieces = text.split(notation.quote)
    written: list[str] = []
    depth = 0
    for index, piece in enumerate(pieces):
        if index % 2:
            inner = dump(piece)
            written.append(inner if index < len(pieces) - 1 else inner[:-1])
            continue
        for char in _with_keys(piece):
            depth += (char in "[{") - (char in "]}")
            written.append(char)
            if depth == 0 and char == "}":
                return "".join(written)
    return "".join(written)


def _with_keys(text: str) -> Iterator[str]:
    """The pieces of a text outside of strings, its keys quoted."""
    at = 0
    for found in re.finditer(r"([A-Za-z_][\w.-]*):", text):
        yield from text[at : found.start()]
        yield f"{dump(found[1])}: "
        at = found.end()
    yield from text[at:]


_READERS: Mapping[type, Callable[[CallForm, str], str]] = {
    JsonArguments: _json,
    TagArguments: _tags,
    PythonArguments: _python,
    BraceArguments: _braces,
}
