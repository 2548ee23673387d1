"""Calls written as Python: `name(key="text", other=[1, 2])`."""

from __future__ import annotations

import json
import re
from typing import Any

from quire.messages import ToolCall
from quire.tools.json_calls import MAX_DEPTH
from quire.tools.stream import MAX_NAME, Grammar, Reading, Refuted, Source
from quire.tools.writing import dump, load

_WORDS = {
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

    Values may be Python's or JSON's. The closing quote of an argument is one after which the
    argument ends, so that quotes inside a text need no backslash.
    """

    def __init__(self, opener: str, closer: str) -> None:
        self._opener = opener
        self._closer = closer
        self.triggers = frozenset(opener[0])

    def read(self, source: Source) -> Reading[None]:
        yield from source.require(self._opener)
        yield from source.spaces()
        listed = yield from source.literal("[")
        yield from source.spaces()
        while True:
            yield from self._read_call(source)
            yield from source.spaces()
            if not listed or (yield from source.literal("]")):
                break
            yield from source.require(",")
            yield from source.spaces()
        source.skip() if listed else source.rewind()
        yield from source.closing(self._closer)

    def _read_call(self, source: Source) -> Reading[None]:
        arguments: dict[str, Any] = {}
        name = yield from source.name(_NOT_IN_KEYS)
        yield from source.require("(")
        yield from source.spaces()
        while not (yield from source.literal(")")):
            if arguments:
                yield from source.require(",")
                yield from source.spaces()
            key = yield from source.run(_NOT_IN_KEYS, MAX_NAME)
            yield from source.require("=")
            yield from source.spaces()
            arguments[key.strip()] = yield from self._read_argument(source)
            yield from source.spaces()
        source.accept(ToolCall(name, dump(arguments)))

    def _read_argument(self, source: Source) -> Reading[Any]:
        quote = yield from source.peek()
        if quote not in ('"', "'"):
            return (yield from _read_value(source, 1))
        source.at += 1
        start = source.at
        while True:
            yield from source.run(quote + "\\")
            if source.exhausted:
                raise Refuted
            if (yield from source.literal("\\")):
                yield from source.take()
            elif (yield from self._ends(source)):
                text = source.since(start)
                source.at += 1
                return unescape(text)
            else:
                source.at += 1

    def _ends(self, source: Source) -> Reading[bool]:
        """Whether the quote here ends its argument: the next one follows, or the call's end."""
        start = source.at
        source.at += 1
        yield from source.spaces()
        if (yield from source.literal(")")):
            yield from source.spaces()
            ends = (yield from source.peek()) in ("]", ",", "") or (
                yield from source.follows(self._closer)
            )
        elif (yield from source.literal(",")):
            yield from source.spaces()
            try:
                ends = bool((yield from source.run(_NOT_IN_KEYS, MAX_NAME)))
            except Refuted:
                ends = False
            ends = ends and (yield from source.peek()) == "="
        else:
            ends = False
        source.at = start
        return ends


def _read_value(source: Source, depth: int) -> Reading[Any]:
    """A value inside a list or a dictionary, or one that is no string."""
    char = yield from source.peek()
    if depth > MAX_DEPTH:
        raise Refuted
    if char == "{":
        return (yield from _read_dict(source, depth))
    if char in ("[", "("):
        return (yield from _read_items(source, depth, "]" if char == "[" else ")"))
    if char in ('"', "'"):
        return (yield from _read_string(source))
    word = yield from source.run(_NOT_IN_KEYS + ": \t\r")
    if word in _WORDS:
        return _WORDS[word]
    try:
        return load(word)
    except ValueError:
        raise Refuted from None


def _read_items(source: Source, depth: int, end: str) -> Reading[list[Any]]:
    items: list[Any] = []
    source.at += 1
    yield from source.spaces()
    while not (yield from source.literal(end)):
        items.append((yield from _read_value(source, depth + 1)))
        yield from source.spaces()
        if not (yield from source.follows(end)):
            yield from source.require(",")
            yield from source.spaces()
    return items


def _read_dict(source: Source, depth: int) -> Reading[dict[str, Any]]:
    members: dict[str, Any] = {}
    source.at += 1
    yield from source.spaces()
    while not (yield from source.literal("}")):
        key = yield from _read_string(source)
        yield from source.spaces()
        yield from source.require(":")
        yield from source.spaces()
        members[key] = yield from _read_value(source, depth + 1)
        yield from source.spaces()
        if not (yield from source.follows("}")):
            yield from source.require(",")
            yield from source.spaces()
    return members


def _read_string(source: Source) -> Reading[str]:
    quote = yield from source.peek()
    if quote not in ('"', "'"):
        raise Refuted
    source.at += 1
    start = source.at
    while True:
        yield from source.run(quote + "\\")
        if (yield from source.literal("\\")):
            yield from source.take()
            continue
        if source.exhausted:
            raise Refuted
        text = source.since(start)
        source.at += 1
        return unescape(text)


def unescape(text: str) -> str:
    """The text that Python's and JSON's escapes stand for; an unknown escape stays as it is."""
    return _ESCAPE.sub(_unescape_one, text)


def _unescape_one(match: re.Match[str]) -> str:
    units, byte, char = match.groups()
    if units:
        return str(json.loads(f'"\\{units}"'))  # joins the two halves of a surrogate pair
    if byte:
        return chr(int(byte, 16))
    return char if char in "\"'\\/" else _ESCAPES.get(char, "\\" + char)
