"""Calls that are JSON objects with a name and arguments, as most formats write them."""

from __future__ import annotations

import re
from typing import Any

from quire.messages import ToolCall
from quire.tools.base import dump, load
from quire.tools.stream import CharStream, Grammar, Reading, Refuted

MAX_DEPTH = 64
"""Deeper JSON is no call: readers, and `json` itself, recurse on Python's stack."""

_NAMES = ("name", "tool_name")
_ARGUMENTS = ("arguments", "parameters")
_IDS = ("id", "tool_call_id")
_OTHERS = (*_IDS, "type", "function")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class JsonCalls(Grammar):
    """One JSON object after another, or a list of them, after an opening tag or bare.

    Args:
        opener: the text before the calls.
        closers: the texts after a call and after all of them; each may be missing.
        bare: also read objects with no tag before them; these must have a name and arguments, and
            no keys but a call's, since an answer may well be a JSON object.
        name_is_key: an object is `{"name": {...}}`.
        keys: the keys of a call's name and of its arguments, beside the usual ones.
    """

    def __init__(
        self,
        opener: str,
        *closers: str,
        bare: bool = False,
        name_is_key: bool = False,
        keys: tuple[str, str] = ("name", "arguments"),
    ) -> None:
        self._opener = opener
        self._closers = closers
        self._bare = bare
        self._name_is_key = name_is_key
        name, arguments = keys
        self._names = (name, *(one for one in _NAMES if one != name))
        self._arguments = (arguments, *(one for one in _ARGUMENTS if one != arguments))
        self.triggers = frozenset(opener[:1] + ("{[" if bare else ""))

    def read(self, stream: CharStream) -> Reading[None]:
        marked = bool(self._opener) and (yield from stream.loosely(self._opener))
        if not marked and not self._bare:
            raise Refuted
        yield from stream.spaces()
        yield from self.read_calls(stream, bare=not marked)

    def read_calls(self, stream: CharStream, *, bare: bool) -> Reading[None]:
        """Read what stands after the tag: a list, or objects with nothing, `,` or `;` between."""
        if (yield from stream.peek()) == "[":
            yield from self._read_list(stream, bare)
        else:
            yield from self._read_call(stream, bare)
            while (yield from _another(stream)):
                yield from self._read_call(stream, bare)
        yield from stream.close(self._closers)

    def _read_list(self, stream: CharStream, bare: bool) -> Reading[None]:
        yield from stream.require("[")
        yield from stream.spaces()
        while True:
            yield from self._read_call(stream, bare)
            yield from stream.spaces()
            if (yield from stream.literal("]")):
                stream.skip()
                return
            yield from stream.require(",")
            yield from stream.spaces()

    def _read_call(self, stream: CharStream, bare: bool) -> Reading[None]:
        start = stream.at
        keys = (*self._names, *self._arguments, *_OTHERS) if bare else None
        yield from read_object(stream, keys=keys)
        text = stream.since(start)
        if self._name_is_key:
            call = _named_by_key(text)
        else:
            call = call_of(text, bare=bare, names=self._names, arguments=self._arguments)
        if call is None:
            raise Refuted
        stream.accept(call)


def _another(stream: CharStream) -> Reading[bool]:
    """Go on to the next object, if one follows the last call."""
    yield from stream.spaces()
    if (yield from stream.peek()) in (",", ";"):
        stream.at += 1
        yield from stream.spaces()
    if (yield from stream.peek()) == "{":
        return True
    stream.rewind()
    return False


def call_of(
    text: str,
    *,
    bare: bool = False,
    names: tuple[str, ...] = _NAMES,
    arguments: tuple[str, ...] = _ARGUMENTS,
) -> ToolCall | None:
    """The call that a JSON object is, under the names that models give to its fields; else None."""
    try:
        value = load(text)
    except ValueError:
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = {**value, **inner}
    name = next((value[key] for key in names if key in value), inner)
    key = next((key for key in arguments if key in value), None)
    if not isinstance(name, str) or not name or (key is None and bare):
        return None
    identity = next((value[key] for key in _IDS if key in value), None)
    return ToolCall(
        name, _arguments(value.get(key)), identity if isinstance(identity, str) else None
    )


def _named_by_key(text: str) -> ToolCall | None:
    """The call that a JSON object of one key is."""
    try:
        value = load(text)
    except ValueError:
        return None
    name, arguments = next(iter(value.items()), ("", None))
    return ToolCall(name, _arguments(arguments)) if name and len(value) == 1 else None


def _arguments(value: Any) -> str:
    """Arguments as JSON text; None becomes an empty object, and JSON inside a string is unwrapped."""
    if value is None:
        return "{}"
    if isinstance(value, str):
        try:
            inner = load(value)
        except ValueError:
            return dump(value)
        return dump(inner) if isinstance(inner, dict) else dump(value)
    return dump(value)


def read_arguments(stream: CharStream) -> Reading[str]:
    """Take a JSON object and return it as arguments.

    Raises:
        Refuted: none follows.
    """
    start = stream.at
    yield from read_object(stream)
    try:
        return dump(load(stream.since(start)))
    except ValueError:
        raise Refuted from None


def read_object(
    stream: CharStream, depth: int = 0, keys: tuple[str, ...] | None = None
) -> Reading[None]:
    """Take a JSON object, all of whose keys are of `keys` if given.

    Raises:
        Refuted: at the first character that makes it none.
    """
    yield from stream.require("{")
    yield from stream.spaces()
    if (yield from stream.literal("}")):
        return
    while True:
        yield from (_one_of(stream, keys) if keys else read_string(stream))
        yield from stream.spaces()
        yield from stream.require(":")
        yield from stream.spaces()
        yield from _read_value(stream, depth + 1)
        yield from stream.spaces()
        if (yield from stream.literal("}")):
            return
        yield from stream.require(",")
        yield from stream.spaces()


def _one_of(stream: CharStream, keys: tuple[str, ...]) -> Reading[None]:
    for key in keys:
        if (yield from stream.literal(f'"{key}"')):
            return
    raise Refuted


def _read_value(stream: CharStream, depth: int) -> Reading[None]:
    char = yield from stream.peek()
    if depth > MAX_DEPTH:
        raise Refuted
    if char == "{":
        yield from read_object(stream, depth)
    elif char == "[":
        yield from _read_array(stream, depth)
    elif char == '"':
        yield from read_string(stream)
    elif char in ("t", "f", "n"):
        yield from stream.require({"t": "true", "f": "false", "n": "null"}[char])
    else:
        yield from read_number(stream)


def _read_array(stream: CharStream, depth: int) -> Reading[None]:
    yield from stream.require("[")
    yield from stream.spaces()
    if (yield from stream.literal("]")):
        return
    while True:
        yield from _read_value(stream, depth + 1)
        yield from stream.spaces()
        if (yield from stream.literal("]")):
            return
        yield from stream.require(",")
        yield from stream.spaces()


def read_string(stream: CharStream) -> Reading[None]:
    yield from stream.require('"')
    while True:
        yield from stream.run('"\\')
        if (yield from stream.literal('"')):
            return
        yield from stream.require("\\")
        char = yield from stream.take()
        if char == "" or char not in '"\\/bfnrtu':
            raise Refuted


def read_number(stream: CharStream) -> Reading[None]:
    start = stream.at
    while (char := (yield from stream.peek())) and char in "+-.eE0123456789":
        stream.at += 1
    if not _NUMBER.fullmatch(stream.since(start)):
        raise Refuted
