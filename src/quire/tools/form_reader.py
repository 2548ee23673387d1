"""Reading the calls of a form: see `call_form`.

Models leave out white space and closing tags, and add some. So what a form writes is looked for
without its white space, and what closes a call may be missing where something else shows its end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from quire.messages import ToolCall
from quire.tools.base import dump, load
from quire.tools.call_form import (
    BraceArguments,
    CallForm,
    JsonArguments,
    PythonArguments,
    Slot,
    TagArguments,
)
from quire.tools.gemma4 import read_members
from quire.tools.json_calls import MAX_DEPTH, JsonCalls, read_arguments, read_string
from quire.tools.python_calls import PythonCalls
from quire.tools.stream import MAX_NAME, SPACES, CharStream, Grammar, Reading, Refuted
from quire.tools.tag_calls import Schemas, value_of

_TAG_ENDS = re.compile("(?<=>)(?=</)")
"""Between the ends of two tags, as in `</function></tool_call>`."""


class AnyCalls(Grammar):
    """What one of several grammars reads."""

    def __init__(self, *grammars: Grammar) -> None:
        self._grammars = grammars
        self.triggers = frozenset[str]().union(*(one.triggers for one in grammars))

    def read(self, stream: CharStream) -> Reading[None]:
        farthest = start = stream.at
        for grammar in self._grammars:
            begun = stream.position
            try:
                yield from grammar.read(stream)
            except Refuted:
                if stream.mark > start or stream.position - begun < 0:
                    raise  # it has emitted something: the rest is text
                farthest = max(farthest, stream.at)
                stream.at = start
            else:
                return
        stream.at = farthest
        raise Refuted


def grammar_of(form: CallForm, tools: Sequence[Mapping[str, Any]]) -> Grammar:
    """The reader of a form's calls."""
    opener = (form.begin + form.open).strip()
    if isinstance(form.arguments, PythonArguments):
        opener = opener.removesuffix("[").rstrip()
        closer = form.end.strip().removeprefix("]").strip() or form.close.strip()
        return PythonCalls(opener, closer, Schemas(tools))
    if isinstance(form.arguments, JsonArguments) and _is_object(form):
        opener = opener.removesuffix("[").rstrip()
        closers = _runs(form.close + form.end.replace("]", " "))
        return JsonCalls(
            opener,
            *closers,
            bare=not opener,
            name_is_key=_name_is_key(form),
            keys=(_key_of(form, Slot.NAME, "name"), _key_of(form, Slot.ARGUMENTS, "arguments")),
        )
    return FormCalls(form, tools)


def _is_object(form: CallForm) -> bool:
    """Whether a call is one JSON object, its name in it."""
    return isinstance(form.call[0], str) and form.call[0].lstrip().startswith("{")


def _name_is_key(form: CallForm) -> bool:
    return form.call[0] == '{"'


def _key_of(form: CallForm, slot: Slot, usual: str) -> str:
    """The key under which a slot stands in a call's JSON object."""
    at = form.call.index(slot) if slot in form.call else 0
    before = form.call[at - 1] if at else ""
    found = re.search(r'"([^"\\]+)"\s*:\s*"?$', before) if isinstance(before, str) else None
    return found[1] if found else usual


def _runs(text: str) -> tuple[str, ...]:
    """The pieces of a text between which white space may stand."""
    return tuple(piece for run in text.split() for piece in _TAG_ENDS.split(run))


class FormCalls(Grammar):
    """Calls of a name and arguments of any kind, each after its opening text."""

    def __init__(self, form: CallForm, tools: Sequence[Mapping[str, Any]]) -> None:
        self._form = form
        self._schemas = Schemas(tools)
        self._arguments = form.arguments
        first = form.call[0]
        head = first if isinstance(first, str) else ""
        self._rest = form.call[1:] if head else form.call
        self._openers = _openers(form, head)
        tail = form.call[-1]
        closing = (tail if isinstance(tail, str) and len(form.call) > 1 else "") + form.close
        self._closers = tuple(dict.fromkeys(_runs(f"{closing} {form.end}")))
        self._between = form.between.strip()
        starts = [*self._openers, *filter(None, (self._between,))]
        self.triggers = frozenset(text[0] for text in starts)

    def read(self, stream: CharStream) -> Reading[None]:
        yield from self._open(stream)
        yield from self._read_call(stream)
        while (yield from self._another(stream)):
            yield from self._read_call(stream)

    def _open(self, stream: CharStream) -> Reading[None]:
        for opener in self._openers:
            if (yield from stream.loosely(opener)):
                return
        if self._form.begin.strip() or self._form.open.strip():
            raise Refuted
        # No text opens a call, so only a tool's name at the beginning does, or what stands between two.
        if not (self._between and (yield from stream.literal(self._between))) and not stream.fresh:
            raise Refuted

    def _another(self, stream: CharStream) -> Reading[bool]:
        """Go on to the next call, if one follows the last."""
        yield from stream.spaces()
        if self._between and (yield from stream.loosely(self._between)):
            yield from stream.spaces()
        for opener in self._openers:
            if (yield from stream.loosely(opener)):
                return True
        stream.rewind()
        return False

    def _read_call(self, stream: CharStream) -> Reading[None]:
        name, identity, arguments = "", None, "{}"
        for index, part in enumerate(self._rest):
            if part is Slot.NAME:
                found = yield from stream.name(self._stops(index))
                name = name or found
            elif part is Slot.ID:
                identity = yield from stream.name(self._stops(index))
            elif part is Slot.INDEX:
                yield from self._read_index(stream)
            elif part is Slot.ARGUMENTS:
                arguments = yield from self._read_arguments(stream, name)
            elif index < len(self._rest) - 1:
                yield from self._read_text(stream, part, index)
        if not self._openers and name not in self._schemas:
            raise Refuted
        if identity is not None and not name:
            name = _name_in(identity)
        closed = yield from self._closes(stream)
        if not closed and not isinstance(self._arguments, JsonArguments):
            raise Refuted
        stream.accept(ToolCall(name, arguments, identity))
        yield from stream.close(self._closers)

    def _read_text(self, stream: CharStream, text: str, index: int) -> Reading[None]:
        """Take the form's own text; a number and what stands before it may be missing."""
        taken = yield from stream.loosely(text)
        following = self._rest[index + 1]
        if not taken and following is not Slot.INDEX and text.strip():
            raise Refuted

    def _read_index(self, stream: CharStream) -> Reading[None]:
        while (char := (yield from stream.peek())) and char in "0123456789":
            stream.at += 1

    def _stops(self, index: int) -> str:
        """The characters that end a name: those that the texts after it begin with."""
        stops = "<>[]{}()\"'"
        for part in self._rest[index + 1 :]:
            if part is Slot.ARGUMENTS:
                break
            if isinstance(part, str) and part.strip():
                stops += part.strip()[0]
        return stops

    def _closes(self, stream: CharStream) -> Reading[bool]:
        """Whether the call's end follows: what closes it, another call, or the answer's end."""
        start = stream.at
        yield from stream.spaces()
        closes = not self._closers or (yield from stream.follows(*self._closers))
        closes = closes or (yield from stream.follows(*self._openers))
        stream.at = start
        return closes

    # ---- arguments

    def _read_arguments(self, stream: CharStream, name: str) -> Reading[str]:
        yield from stream.spaces()
        kind = self._arguments
        if isinstance(kind, TagArguments):
            return (yield from self._read_tags(stream, kind, name))
        if isinstance(kind, BraceArguments):
            return dump((yield from read_members(stream, kind.quote)))
        if (yield from stream.peek()) == '"':
            start = stream.at
            yield from read_string(stream)
            return _inner_object(stream.since(start))
        return (yield from read_arguments(stream))

    def _read_tags(self, stream: CharStream, kind: TagArguments, name: str) -> Reading[str]:
        before, middle = kind.before.strip(), kind.middle.strip()
        arguments: dict[str, Any] = {}
        while not (yield from stream.follows(*self._closers)) and (
            yield from stream.literal(before)
        ):
            key = yield from stream.run(middle[0], MAX_NAME)
            if stream.exhausted:
                raise Refuted
            is_string = yield from self._read_middle(stream, kind)
            text = yield from self._value(stream, kind, key)
            arguments[key.strip()] = self._typed(name, key.strip(), text, is_string)
            yield from stream.spaces()
        return dump(arguments)

    def _read_middle(self, stream: CharStream, kind: TagArguments) -> Reading[bool | None]:
        """Take what stands between a key and its value; whether it says that this is a string."""
        if kind.string_middle is None:
            if not (yield from stream.loosely(kind.middle)):
                raise Refuted
            return None if kind.raw_strings else False
        head = _shared_beginning(kind.middle, kind.string_middle)
        end = _shared_beginning(kind.middle[::-1], kind.string_middle[::-1])[::-1]
        yield from stream.require(head)
        word = yield from stream.until(end)
        return word == kind.string_middle[len(head) : len(kind.string_middle) - len(end)]

    def _value(self, stream: CharStream, kind: TagArguments, key: str) -> Reading[str]:
        """A value up to its closing tag, which counts only where something of the form follows.

        So a value may hold the closing tag itself. Where the tag is missing, the next parameter on a
        line of its own, or the call's end, closes the value.
        """
        after = kind.after.replace("\0", key).strip()
        ends = "".join({after[0], *(closer[0] for closer in self._closers), kind.before.strip()[0]})
        start = stream.at
        while True:
            yield from stream.run(ends)
            if stream.exhausted:
                raise Refuted
            value = stream.at
            if (yield from stream.literal(after)):
                stop = stream.at
                yield from stream.spaces()
                at_end = (yield from stream.peek()) == "" and not self._closers
                if at_end or (yield from self._follows_value(stream, kind)):
                    return self._inner(stream, start, value, stop, kind)
                stream.at = value
            if (yield from self._ends_without_tag(stream, kind, start)):
                return self._inner(stream, start, value, value, kind)
            stream.at = value + 1

    def _follows_value(self, stream: CharStream, kind: TagArguments) -> Reading[bool]:
        return (yield from stream.follows(kind.before.strip(), *self._closers))

    def _ends_without_tag(
        self, stream: CharStream, kind: TagArguments, start: int
    ) -> Reading[bool]:
        """Whether the next parameter, or the call's end, stands here on a line of its own."""
        own_line = stream.begins_line(start)
        return own_line and (yield from self._follows_value(stream, kind))

    def _inner(
        self, stream: CharStream, start: int, value: int, stop: int, kind: TagArguments
    ) -> str:
        """The value, without the line breaks that the form writes around it."""
        stream.at = value
        text = stream.since(start)
        stream.at = stop
        if kind.middle.endswith("\n"):
            text = text.removeprefix("\n")
        if kind.after.startswith("\n") or stop == value:
            text = text.removesuffix("\n")
        return text

    def _typed(self, name: str, key: str, text: str, is_string: bool | None) -> Any:
        if text.startswith(_CDATA[0]) and text.endswith(_CDATA[1]):
            return text[len(_CDATA[0]) : -len(_CDATA[1])]
        if is_string:
            return text
        kind = self._arguments
        if isinstance(kind, TagArguments) and "\0" in kind.after:
            nested = _nested(text, kind)
            if nested is not None:
                return nested
        if is_string is None:
            return self._schemas.value(name, key, text)
        try:
            return load(text)
        except ValueError:
            return text


_CDATA = ("<![CDATA[", "]]>")
"""What stands around a string with XML's own characters in it."""


def _nested(text: str, kind: TagArguments, depth: int = 0) -> Any:
    """The object or list that a value is which is written in tags of its keys; None for any other.

    An item of a list stands in a tag `item`.
    """
    if depth > MAX_DEPTH:
        return None
    lead = re.escape(kind.after.partition("</")[0])
    pattern = re.compile(rf"\s*{lead}<([\w.-]+)>(.*?){lead}</\1>\s*", re.DOTALL)
    found: list[tuple[str, Any]] = []
    at = 0
    while at < len(text):
        match = pattern.match(text, at)
        if match is None:
            return None
        inner = _nested(match[2], kind, depth + 1)
        found.append((match[1], value_of(match[2], {}) if inner is None else inner))
        at = match.end()
    if not found:
        return None
    return [value for _, value in found] if {key for key, _ in found} == {"item"} else dict(found)


def _openers(form: CallForm, head: str) -> tuple[str, ...]:
    """The texts that may open a call, the longest first, without their white space at the ends."""
    own = form.open + head
    found = [form.begin + own, own, head]
    if form.open.rstrip(SPACES + ".abcdefghijklmnopqrstuvwxyz") != form.open.rstrip():
        # Kimi's `functions.`.
        found.append(form.open.rstrip(SPACES + ".abcdefghijklmnopqrstuvwxyz"))
    return tuple(dict.fromkeys(text.strip() for text in found if text.strip()))


def _name_in(identity: str) -> str:
    """The function's name in an id, as in Kimi K2's `functions.NAME:INDEX`."""
    return identity.removeprefix("functions.").rpartition(":")[0] or identity


def _inner_object(text: str) -> str:
    """The arguments that a JSON string holds."""
    try:
        value = load(load(text))
    except (ValueError, TypeError):
        raise Refuted from None
    if not isinstance(value, dict):
        raise Refuted
    return dump(value)


def _shared_beginning(one: str, other: str) -> str:
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(pair[0] for pair in pairs)
