"""Which log-probabilities are of a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Described: TypeAlias = dict[str, Any]
"""A token's log-probability in the API's form; `token` is its text."""


class TextLogprobs:
    """Finds those of one text, piece by piece.

    A slow reader gets the tokens of several steps at once: what ended the thought before the text
    may be among them, and so may the end of the turn, or what the engine still holds back.
    """

    def __init__(self) -> None:
        self._begun = False
        self._left: list[Described] = []

    def of(self, text: str, described: Sequence[Described]) -> list[Described]:
        """Those of the next piece; what comes after it is kept for the one that follows."""
        tokens = [*self._left, *described]
        if not self._begun:
            self._begun = True
            tokens = tokens[_start(tokens, text) :]
        end = _end(tokens, text)
        self._left = tokens[end:]
        return tokens[:end]


def _start(tokens: Sequence[Described], text: str) -> int:
    """Where the text begins; 0 where the tokens do not tell. White space may be cut off it."""
    rests = ["".join(one["token"] for one in tokens[place:]) for place in range(len(tokens))]
    for place, rest in enumerate(rests):
        if rest.startswith(text):
            return place
    for place in reversed(range(len(rests))):
        if rests[place].lstrip().startswith(text):
            return place
    return 0


def _end(tokens: Sequence[Described], text: str) -> int:
    """Where the text ends; after all where no number of tokens is just it, as in half characters."""
    joined = ""
    for place, one in enumerate(tokens, start=1):
        joined += one["token"]
        if joined == text:
            return place
    return len(tokens)
