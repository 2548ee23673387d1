"""Reads a model's answer as it streams: special tokens hidden, thought and answer and calls apart.

Each reader is a tiny object with `add` and `flush`. Invariant: what goes in comes out in order, as
soon as it is certain which kind of text it is; only a possible marker at the end is held back.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from quire.messages import ToolCall
from quire.tools.base import ToolParser


@dataclass(frozen=True, slots=True)
class ReplyPart:
    """What one piece of the stream added: `text` is all of it, as it was written."""

    text: str = ""
    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


def held_back(text: str, markers: Collection[str]) -> int:
    """Return how many characters at the end of `text` could be the beginning of a marker."""
    longest = max((len(marker) for marker in markers), default=1)
    for length in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker in markers):
            return length
    return 0


class SpecialTokenFilter:
    """Takes the texts of special tokens out of a stream."""

    def __init__(self, special: Collection[str]) -> None:
        self._special = tuple(sorted(special, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        self._pending = ""

    def add(self, text: str) -> str:
        if not self._special:
            return text
        text = self._pattern.sub("", self._pending + text)
        keep = len(text) - held_back(text, self._special)
        self._pending = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        text, self._pending = self._pattern.sub("", self._pending), ""
        return text


class ReasoningSplitter:
    """Splits the thought at the beginning of an answer from the answer.

    A thought begins with the first thought word (or has begun in the prompt already) and ends with
    the second; the line breaks around the words belong to neither.
    """

    def __init__(self, thought_words: tuple[str, str], *, inside: bool = False) -> None:
        self._start, self._end = (word.strip() for word in thought_words)
        self._state = "inside" if inside else "before"
        self._fresh = True  # nothing but line breaks yet in this state: they are dropped
        self._pending = ""

    def add(self, text: str) -> tuple[str, str]:
        """Return (reasoning, content) that became certain."""
        self._pending += text
        reasoning = content = ""
        if self._state == "before":
            self._look_for_start()
        if self._state == "inside":
            reasoning = self._take_thought()
        if self._state == "after":
            content = self._take_answer()
        return reasoning, content

    def flush(self) -> tuple[str, str]:
        """The stream has ended: what was held back belongs to the part that it stands in."""
        rest, self._pending = self._pending, ""
        return (rest.rstrip("\n"), "") if self._state == "inside" else ("", rest)

    @property
    def is_past(self) -> bool:
        """Whether all that comes is answer, as it is."""
        return self._state == "after" and not self._fresh and not self._pending

    def _look_for_start(self) -> None:
        begun = self._pending.lstrip()
        if self._start and begun.startswith(self._start):
            self._pending = begun[len(self._start) :]
            self._state = "inside"
        elif not self._start or (begun and not self._start.startswith(begun)):
            self._state, self._fresh = "after", False

    def _take_thought(self) -> str:
        if self._fresh:
            self._pending = self._pending.lstrip("\n")
            self._fresh = not self._pending
        thought, found, rest = self._pending.partition(self._end)
        if found:
            self._pending, self._state, self._fresh = rest, "after", True
            return thought.rstrip("\n")
        keep = len(thought) - held_back(thought, (self._end,))
        keep = len(thought[:keep].rstrip("\n"))
        self._pending = thought[keep:]
        return thought[:keep]

    def _take_answer(self) -> str:
        if self._fresh:
            self._pending = self._pending.lstrip("\n")
            self._fresh = not self._pending
        content, self._pending = self._pending, ""
        return content


class ReplyReader:
    """Puts the three together for one completion."""

    def __init__(
        self,
        *,
        special: Collection[str],
        reasoning: ReasoningSplitter,
        tools: ToolParser | None,
    ) -> None:
        """`special`: texts of special tokens to hide; empty where the engine has hidden them."""
        self._shown = SpecialTokenFilter(special)
        self._thought = SpecialTokenFilter(special)
        self._answer = SpecialTokenFilter(special)
        self._splitter = reasoning
        self._tools = tools
        self._is_bare = not special and tools is None

    @property
    def passes_through(self) -> bool:
        """Whether text is content as it is from here to the end: nothing is hidden or taken out."""
        return self._is_bare and self._splitter.is_past

    def add(self, text: str) -> ReplyPart:
        reasoning, answer = self._splitter.add(text)
        content, calls = self._parse(answer)
        return ReplyPart(
            self._shown.add(text), self._thought.add(reasoning), self._answer.add(content), calls
        )

    def flush(self) -> ReplyPart:
        """The completion has ended: return all that was held back."""
        reasoning, answer = self._splitter.flush()
        content, calls = self._parse(answer, last=True)
        return ReplyPart(
            self._shown.flush(),
            self._thought.add(reasoning) + self._thought.flush(),
            self._answer.add(content) + self._answer.flush(),
            calls,
        )

    def _parse(self, answer: str, *, last: bool = False) -> tuple[str, tuple[ToolCall, ...]]:
        if self._tools is None:
            return answer, ()
        pieces = self._tools.add(answer) if answer else []
        if last:
            pieces = [*pieces, *self._tools.flush()]
        text = "".join(piece for piece in pieces if isinstance(piece, str))
        return text, tuple(piece for piece in pieces if isinstance(piece, ToolCall))
