"""Which log-probabilities are of a text."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, TypeAlias

Described: TypeAlias = dict[str, Any]
"""A token's log-probability in the API's form; `token` is its text."""


class TextLogprobs:
    """Finds those of an answer's texts, piece by piece.

    A slow reader gets the tokens of several steps at once: what ended the thought before the text
    may be among them, and so may the end of the turn, a call and the text after it, or what the
    engine still holds back.
    """

    def __init__(self) -> None:
        self._begun = False
        self._left: list[Described] = []

    def begin(self) -> None:
        """A new text begins; what is left of the tokens before it may be its own."""
        self._begun = False

    def of(self, text: str, described: Sequence[Described]) -> list[Described]:
        """Those of the next piece; what comes after it is kept for the one that follows."""
        tokens = [*self._left, *described]
        if not self._begun:
            self._begun = True
            start = _start(tokens, text)
            tokens = tokens[len(self._left) if start is None else start :]
        end = _end(tokens, text)
        self._left = tokens[end:]
        return tokens[:end]


def _start(tokens: Sequence[Described], text: str) -> int | None:
    """Where the text begins; None where the tokens do not tell. White space may be cut off it."""
    joined = "".join(one["token"] for one in tokens)
    offsets = [0, *accumulate(len(one["token"]) for one in tokens)][: len(tokens)]
    for index, offset in enumerate(offsets):
        if joined.startswith(text, offset):
            return index
    for index in reversed(range(len(offsets))):
        offset = offsets[index]
        while offset < len(joined) and joined[offset].isspace():
            offset += 1
        if joined.startswith(text, offset):
            return index
    return None


def _end(tokens: Sequence[Described], text: str) -> int:
    """Where the text ends; after all where no number of tokens is just it, as in half characters."""
    length = 0
    joined = "".join(one["token"] for one in tokens)
    for index, one in enumerate(tokens, start=1):
        length += len(one["token"])
        if length == len(text):
            return index if joined.startswith(text) else len(tokens)
    return len(tokens)
