"""Known calls, written as a folder declares its model's calls, and what is learned of that."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quire.messages import ToolCall
from quire.tools.base import mapping, sequence
from quire.tools.call_form import CallForm
from quire.tools.learning import learn_form
from quire.tools.patterns import SPACE, Group, Piece, UnreadPatternError, pieces, read_pattern

THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""The names under which declarations have the thought."""

Path = tuple[str, ...]
"""Keys that lead to a part of a call."""

_OPEN_TAG = re.compile(r"<([A-Za-z_][\w:.-]*+)[^<>/]*>")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a folder declares of its model's answers; texts are empty where it declares none."""

    form: CallForm | None = None
    thought: tuple[str, str] | None = None
    """What opens and closes a thought; the first is empty where the prompt opens it."""
    before_text: str = ""
    after_text: str = ""
    """What stands around the text of an answer, where something opens it."""
    unread: tuple[str, ...] = ()
    """The fields that cannot be followed, each with the reason."""


class UnreadDeclarationError(ValueError):
    """A declaration that cannot be followed."""


@dataclass
class DeclaredCalls:
    """How calls are written: what stands around each, and what inside."""

    opening: Sequence[Piece]
    closing: str
    body: Callable[[ToolCall], str]
    is_list: bool = False
    """Whether the bodies of all calls are one list, opened and closed once."""
    between: str | None = None
    """What opens each call but the first, where that is something else."""
    end: str = ""
    """What may stand after the last call."""

    def write(self, calls: Sequence[ToolCall]) -> str:
        """The text of these calls."""
        if self.is_list:
            bodies = ", ".join(map(self.body, calls))
            return f"{text_of(self.opening)}[{bodies}]{self.closing}"
        written = ""
        for index, call in enumerate(calls):
            opening = text_of(self.opening, call, self.between if index else None)
            body = self.body(call)
            written += opening + body + _left_open(opening, self.closing) + self.closing
        return written + self.end


def _left_open(opening: str, closing: str) -> str:
    """The ends of the tags that are opened before a call's arguments, and that its end leaves out.

    A reader of regions skips them.
    """
    names = [name for name in _OPEN_TAG.findall(opening) if f"</{name}>" not in closing]
    return "".join(f"</{name}>" for name in reversed(names))


def shown(value: Any) -> str:
    return repr(value)[:60]


def text_of(parts: Sequence[Piece], call: ToolCall | None = None, head: str | None = None) -> str:
    """The text of pieces with what a call has in them; `head` in place of the first text.

    Raises:
        UnreadDeclarationError: a group stands for something else.
    """
    known = {} if call is None else {"name": call.name, "id": call.id or ""}
    text = ""
    for index, part in enumerate(parts):
        if isinstance(part, str):
            text += part if head is None or index else head
        elif part.name in known:
            text += known[part.name]
        elif part.name is not None or (any(parts[:index]) and any(parts[index + 1 :])):
            raise UnreadDeclarationError(
                "its pattern has a part that is neither text nor a call's name"
            )
    return _spaced(text)


def _spaced(text: str) -> str:
    """A text with one kind of the white space that may be in it.

    It is a space after JSON's signs, a line break between tags, and nothing elsewhere.
    """
    text = re.sub(f"(?<=[:,]){SPACE}", " ", text)
    return re.sub(f"(?<=>){SPACE}(?=<)", "\n", text).replace(SPACE, "")


@dataclass
class DeclaredFields:
    """What was read so far."""

    stops: Collection[str]
    markers: Collection[str]
    form: CallForm | None = None
    thought: tuple[str, str] | None = None
    around_text: tuple[str, str] = ("", "")
    unread: list[str] = field(default_factory=list)

    def declared(self) -> Declared:
        before, after = self.around_text
        return Declared(self.form, self.thought, before, after, tuple(self.unread))

    def attempt(self, name: str, read: Callable[[], None]) -> None:
        """Read one field; keep the reason where it cannot be followed."""
        try:
            read()
        except UnreadDeclarationError as error:
            self.unread.append(f"{name}: {error}")
        except UnreadPatternError:
            self.unread.append(f"{name}: its pattern cannot be followed")

    def learn_calls(self, calls: DeclaredCalls) -> None:
        """Learn the form of calls from their writing."""
        calls.closing = self.without_stop(calls.closing)
        self.form = learn_form(calls.write, self.markers)
        if self.form is None:
            raise UnreadDeclarationError("how it writes calls cannot be seen")

    def without_stop(self, text: str) -> str:
        """A text up to the token that ends the turn, which is in no answer."""
        places = [text.find(stop) for stop in self.stops if stop and stop in text]
        return text[: min(places)].rstrip() if places else text

    def set_thought(self, opening: str, closing: str) -> None:
        if not closing.strip():
            raise UnreadDeclarationError("nothing closes a thought")
        self.thought = (opening, closing)

    def set_text(self, opening: str, closing: str) -> None:
        if opening.strip():
            self.around_text = (opening, self.without_stop(closing))


# --- bodies of calls ------------------------------------------------------------------------------


def object_writer(name: Path, arguments: Path, identity: Path) -> Callable[[ToolCall], str]:
    """Writes a call as one JSON object, with its parts at these paths."""
    if not name or not arguments:
        raise UnreadDeclarationError("its transform tells no name and arguments of a call")

    def write(call: ToolCall) -> str:
        value: dict[str, Any] = {}
        parts = ((identity, call.id), (name, call.name), (arguments, json.loads(call.arguments)))
        for path, part in parts:
            if path:
                _put(value, path, part)
        return json.dumps(value)

    return write


def _put(value: dict[str, Any], path: Path, part: Any) -> None:
    for key in path[:-1]:
        value = value.setdefault(key, {})
        if not isinstance(value, dict):
            raise UnreadDeclarationError("its transform takes one part of a call out of another")
    value[path[-1]] = part


def json_writer(dialect: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """Writes arguments as JSON, or with keys and strings of another notation."""
    delimiters = sequence(dialect.get("string_delims"))
    if not delimiters and not dialect.get("unquoted_keys"):
        return lambda call: call.arguments
    pair = list(sequence(delimiters[0])) if delimiters else ['"', '"']
    if len(pair) != 2 or pair[0] != pair[1] or not dialect.get("unquoted_keys"):
        raise UnreadDeclarationError("its notation of arguments is not known")
    return brace_writer(str(pair[0]))


def brace_writer(quote: str) -> Callable[[ToolCall], str]:
    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        return "{" + ",".join(f"{key}:{_quoted(one, quote)}" for key, one in values.items()) + "}"

    return write


def _quoted(value: Any, quote: str) -> str:
    return f"{quote}{value}{quote}" if isinstance(value, str) else json.dumps(value)


def tag_writer(pattern: str, parser: Mapping[str, Any]) -> Callable[[ToolCall], str]:
    """Writes arguments one by one, as a pattern has each."""
    parts = pieces(read_pattern(pattern))
    names = [part.name for part in parts if isinstance(part, Group)]
    if names != ["key", "value"]:
        raise UnreadDeclarationError("its tag_pattern is not a key and then a value")
    texts = [part for part in parts if isinstance(part, str)]
    before, middle, after = _spaced(texts[0]), texts[1], texts[2]
    arguments = mapping(parser.get("args"))
    if not before + after and middle == "=":
        pair = next(iter(sequence(arguments.get("string_delims"))), ('"', '"'))
        return _keyword_writer(str(sequence(pair)[0]) if sequence(pair) else '"')
    # White space beside a value belongs to the form: most write a line break.
    if middle.endswith(SPACE):
        middle = middle[:-1] + "\n"
    if after.startswith(SPACE):
        after = "\n" + after[1:]
    middle, after = _spaced(middle), _spaced(after)
    is_json = parser.get("name") == "json" and not arguments.get("allow_non_json")

    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        written = [
            f"{before}{key}{middle}{json.dumps(one) if is_json else one}{after}"
            for key, one in values.items()
        ]
        return "".join(written)

    return write


def _keyword_writer(quote: str) -> Callable[[ToolCall], str]:
    def write(call: ToolCall) -> str:
        values = json.loads(call.arguments)
        return ", ".join(f"{key}={_quoted(one, quote)}" for key, one in values.items())

    return write
