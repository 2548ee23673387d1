"""Calls written as Python: `name(key="text", other=[1, 2])`."""

from __future__ import annotations

import json
import re
from typing import Any

from quire.messages import ToolCall
from quire.tools.base import dump, load
from quire.tools.json_calls import MAX_DEPTH
from quire.tools.stream import MAX_NAME, CharStream, Grammar, Reading, Refuted
from quire.tools.tag_calls import Schemas

PYTHON_WORDS = {
    "true": True,
    "True": True,
    "false": False,
    "False": False,
    "null": None,
    "None": None,
}
_ESCAPE = re.compile(
    r"\\(?:((?:u[0-9a-fA-F]{4})(?:\\u[0-9a-fA-F]{4})*)|x([0-9a-fA-F]{2})|(.))", re.DOTALL
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "\n": ""}
_NOT_IN_KEYS = "=()[]{}\"'<>,\n"


class PythonCalls(Grammar):
    """A list of calls between an opening tag and a closing one, which may be missing.

    Without an opening tag, a list of calls of `known` tools is read.

    Values may be Python's or JSON's. A quote closes an argument only if the next argument, or the
    call's end, follows: models write quotes inside a text without a backslash.
    """

    def __init__(self, opener: str, closer: str, known: Schemas | None = None) -> None:
        self._opener = opener
        self._closer = closer
        self._known = known
        self.triggers = frozenset(opener[:1] or "[")

    def read(self, stream: CharStream) -> Reading[None]:
        yield from stream.require(self._opener)
        yield from stream.spaces()
        listed = yield from stream.literal("[")
        if not listed and not self._opener:
            raise Refuted
        yield from stream.spaces()
        while True:
            yield from self._read_call(stream)
            yield from stream.spaces()
            if listed and (yield from stream.literal("]")):
                break
            if not listed and not (yield from self._goes_on(stream)):
                break
            if listed:
                yield from stream.require(",")
                yield from stream.spaces()
        stream.skip() if listed else stream.rewind()
        if self._closer:
            yield from stream.closing(self._closer)

    def _goes_on(self, stream: CharStream) -> Reading[bool]:
        """Whether another call follows in a section without brackets, one on each line."""
        if not self._closer or (yield from stream.follows(self._closer)):
            return False
        return bool((yield from stream.peek()))

    def _read_call(self, stream: CharStream) -> Reading[None]:
        arguments: dict[str, Any] = {}
        name = yield from stream.name(_NOT_IN_KEYS)
        if not self._opener and self._known is not None and name not in self._known:
            raise Refuted  # without an opening text, only a tool's name tells a call from a list
        yield from stream.require("(")
        yield from stream.spaces()
        while not (yield from stream.literal(")")):
            if arguments:
                yield from stream.require(",")
                yield from stream.spaces()
            key = yield from stream.run(_NOT_IN_KEYS, MAX_NAME)
            yield from stream.require("=")
            yield from stream.spaces()
            value = yield from self._read_argument(stream)
            if isinstance(value, str) and self._known is not None:
                value = self._known.coerced(name, key.strip(), value)
            arguments[key.strip()] = value
            yield from stream.spaces()
        stream.accept(ToolCall(name, dump(arguments)))

    def _read_argument(self, stream: CharStream) -> Reading[Any]:
        quote = yield from stream.peek()
        if quote not in ('"', "'"):
            return (yield from self._read_bare(stream))
        stream.at += 1
        start = stream.at
        if (yield from stream.literal(2 * quote)):  # a text between three quotes
            return unescape((yield from stream.until(3 * quote)))
        while True:
            yield from stream.run(quote + "\\")
            if stream.exhausted:
                raise Refuted
            if (yield from stream.literal("\\")):
                yield from stream.take()
            elif (yield from self._ends(stream)):
                text = stream.since(start)
                stream.at += 1
                return unescape(text)
            else:
                stream.at += 1

    def _read_bare(self, stream: CharStream) -> Reading[Any]:
        """A value without quotes; words that are no value are a string, up to the argument's end."""
        start = stream.at
        try:
            value = yield from _read_value(stream, 1)
            if (yield from self._ends(stream, 0)):
                return value
        except Refuted:
            pass
        stream.at = start
        while not (yield from self._ends(stream, 0)):
            yield from stream.run(",)\n")
            if (yield from stream.peek()) in ("", "\n"):
                raise Refuted
            if not (yield from self._ends(stream, 0)):
                stream.at += 1
        text = stream.since(start).strip()
        if not text:
            raise Refuted
        return text

    def _ends(self, stream: CharStream, quote: int = 1) -> Reading[bool]:
        """Whether an argument ends here, after its quote: the next one follows, or the call's end."""
        start = stream.at
        stream.at += quote
        yield from stream.spaces()
        if (yield from stream.literal(")")):
            after = stream.at
            yield from stream.spaces()
            next_line = "\n" in stream.since(after)
            ends = next_line or (yield from stream.peek()) in ("]", ",", "")
            ends = ends or bool(self._closer and (yield from stream.follows(self._closer)))
        elif (yield from stream.literal(",")):
            yield from stream.spaces()
            try:
                ends = bool((yield from stream.run(_NOT_IN_KEYS, MAX_NAME)))
            except Refuted:
                ends = False
            ends = ends and (yield from stream.peek()) == "="
        else:
            ends = False
        stream.at = start
        return ends


def _read_value(stream: CharStream, depth: int) -> Reading[Any]:
    """A value inside a list or a dictionary, or one that is no string."""
    char = yield from stream.peek()
    if depth > MAX_DEPTH:
        raise Refuted
    if char == "{":
        return (yield from _read_dict(stream, depth))
    if char in ("[", "("):
        return (yield from _read_items(stream, depth, "]" if char == "[" else ")"))
    if char in ('"', "'"):
        return (yield from _read_string(stream))
    word = yield from stream.run(_NOT_IN_KEYS + ": \t\r")
    if word in PYTHON_WORDS:
        return PYTHON_WORDS[word]
    try:
        return load(word)
    except ValueError:
        raise Refuted from None


def _read_items(stream: CharStream, depth: int, end: str) -> Reading[list[Any]]:
    items: list[Any] = []
    stream.at += 1
    yield from stream.spaces()
    while not (yield from stream.literal(end)):
        items.append((yield from _read_value(stream, depth + 1)))
        yield from stream.spaces()
        if not (yield from stream.follows(end)):
            yield from stream.require(",")
            yield from stream.spaces()
    return items


def _read_dict(stream: CharStream, depth: int) -> Reading[dict[str, Any]]:
    members: dict[str, Any] = {}
    stream.at += 1
    yield from stream.spaces()
    while not (yield from stream.literal("}")):
        key = yield from _read_string(stream)
        yield from stream.spaces()
        yield from stream.require(":")
        yield from stream.spaces()
        members[key] = yield from _read_value(stream, depth + 1)
        yield from stream.spaces()
        if not (yield from stream.follows("}")):
            yield from stream.require(",")
            yield from stream.spaces()
    return members


def _read_string(stream: CharStream) -> Reading[str]:
    quote = yield from stream.peek()
    if quote not in ('"', "'"):
        raise Refuted
    stream.at += 1
    start = stream.at
    while True:
        yield from stream.run(quote + "\\")
        if (yield from stream.literal("\\")):
            yield from stream.take()
            continue
        if stream.exhausted:
            raise Refuted
        text = stream.since(start)
        stream.at += 1
        return unescape(text)


def unescape(text: str) -> str:
    """The text with Python's and JSON's escapes resolved; an unknown escape stays as it is."""
    return _ESCAPE.sub(_unescape_one, text)


def _unescape_one(match: re.Match[str]) -> str:
    units, byte, char = match.groups()
    if units:
        return str(json.loads(f'"\\{units}"'))  # joins the two halves of a surrogate pair
    if byte:
        return chr(int(byte, 16))
    return char if char in "\"'\\/" else _ESCAPES.get(char, "\\" + char)
