"""Calls that are JSON objects with a name and arguments, as most formats write them."""

from __future__ import annotations

import re
from typing import Any

from quire.messages import ToolCall
from quire.tools.stream import Grammar, Reading, Refuted, Source
from quire.tools.writing import dump, load

MAX_DEPTH = 64
"""Deeper JSON is no call: readers and `json` itself are bounded by Python's stack."""

_CALL_KEYS = ("name", "parameters", "arguments", "type", "function", "id")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


class JsonCalls(Grammar):
    """One JSON object after another, or a list of them, after an opening tag or bare.

    Args:
        opener: the tag before the calls.
        closer: the tag after the calls, which may be missing.
        bare: also read objects with no tag before them; these must have a name and arguments, and
            no keys but a call's.
    """

    def __init__(self, opener: str, closer: str | None = None, *, bare: bool = False) -> None:
        self._opener = opener
        self._closer = closer
        self._bare = bare
        self.triggers = frozenset(opener[0] + ("{[" if bare else ""))

    def read(self, source: Source) -> Reading[None]:
        marked = yield from source.literal(self._opener)
        if not marked and not self._bare:
            raise Refuted
        yield from source.spaces()
        yield from self.read_calls(source, bare=not marked)

    def read_calls(self, source: Source, *, bare: bool) -> Reading[None]:
        """Read what stands after the tag: a list, or objects with nothing, `,` or `;` between."""
        if (yield from source.peek()) == "[":
            yield from _read_list(source, bare)
        else:
            yield from _read_call(source, bare)
            while (yield from _another(source)):
                yield from _read_call(source, bare)
        if self._closer is not None:
            yield from source.closing(self._closer)


def _read_list(source: Source, bare: bool) -> Reading[None]:
    yield from source.require("[")
    yield from source.spaces()
    while True:
        yield from _read_call(source, bare)
        yield from source.spaces()
        if (yield from source.literal("]")):
            source.skip()
            return
        yield from source.require(",")
        yield from source.spaces()


def _another(source: Source) -> Reading[bool]:
    """Go on to the next object, if one follows the last call."""
    yield from source.spaces()
    if (yield from source.peek()) in (",", ";"):
        source.at += 1
        yield from source.spaces()
    if (yield from source.peek()) == "{":
        return True
    source.rewind()
    return False


def _read_call(source: Source, bare: bool) -> Reading[None]:
    start = source.at
    yield from read_object(source, keys=_CALL_KEYS if bare else None)
    call = call_of(source.since(start), bare=bare)
    if call is None:
        raise Refuted
    source.accept(call)


def call_of(text: str, *, bare: bool = False) -> ToolCall | None:
    """The call that a JSON object is, under the names that models give to its fields; else None."""
    try:
        value = load(text)
    except ValueError:
        return None
    inner = value.get("function")
    if isinstance(inner, dict):
        value = {**value, **inner}
    name = value.get("name", inner)
    key = next((key for key in ("arguments", "parameters") if key in value), None)
    if not isinstance(name, str) or not name or (key is None and bare):
        return None
    identity = value.get("id")
    return ToolCall(
        name, _arguments(value.get(key)), identity if isinstance(identity, str) else None
    )


def _arguments(value: Any) -> str:
    """Arguments as JSON text; none are an empty object, and JSON inside a string is taken out."""
    if value is None:
        return "{}"
    if isinstance(value, str):
        try:
            inner = load(value)
        except ValueError:
            return dump(value)
        return dump(inner) if isinstance(inner, dict) else dump(value)
    return dump(value)


def read_arguments(source: Source) -> Reading[str]:
    """Take a JSON object and return it as arguments.

    Raises:
        Refuted: none follows.
    """
    start = source.at
    yield from read_object(source)
    try:
        return dump(load(source.since(start)))
    except ValueError:
        raise Refuted from None


def read_object(
    source: Source, depth: int = 0, keys: tuple[str, ...] | None = None
) -> Reading[None]:
    """Take a JSON object, all of whose keys are of `keys` if given.

    Raises:
        Refuted: at the first character that makes it none.
    """
    yield from source.require("{")
    yield from source.spaces()
    if (yield from source.literal("}")):
        return
    while True:
        yield from (_one_of(source, keys) if keys else read_string(source))
        yield from source.spaces()
        yield from source.require(":")
        yield from source.spaces()
        yield from _read_value(source, depth + 1)
        yield from source.spaces()
        if (yield from source.literal("}")):
            return
        yield from source.require(",")
        yield from source.spaces()


def _one_of(source: Source, keys: tuple[str, ...]) -> Reading[None]:
    for key in keys:
        if (yield from source.literal(f'"{key}"')):
            return
    raise Refuted


def _read_value(source: Source, depth: int) -> Reading[None]:
    char = yield from source.peek()
    if depth > MAX_DEPTH:
        raise Refuted
    if char == "{":
        yield from read_object(source, depth)
    elif char == "[":
        yield from _read_array(source, depth)
    elif char == '"':
        yield from read_string(source)
    elif char in ("t", "f", "n"):
        yield from source.require({"t": "true", "f": "false", "n": "null"}[char])
    else:
        yield from read_number(source)


def _read_array(source: Source, depth: int) -> Reading[None]:
    yield from source.require("[")
    yield from source.spaces()
    if (yield from source.literal("]")):
        return
    while True:
        yield from _read_value(source, depth + 1)
        yield from source.spaces()
        if (yield from source.literal("]")):
            return
        yield from source.require(",")
        yield from source.spaces()


def read_string(source: Source) -> Reading[None]:
    yield from source.require('"')
    while True:
        yield from source.run('"\\')
        if (yield from source.literal('"')):
            return
        yield from source.require("\\")
        char = yield from source.take()
        if char == "" or char not in '"\\/bfnrtu':
            raise Refuted


def read_number(source: Source) -> Reading[None]:
    start = source.at
    while (char := (yield from source.peek())) and char in "+-.eE0123456789":
        source.at += 1
    if not _NUMBER.fullmatch(source.since(start)):
        raise Refuted
