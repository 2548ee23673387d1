"""Reads a model's answer as it streams: special tokens hidden, thought and answer and calls apart.

Each reader is a tiny object with `add` and `flush`. Invariant: what goes in comes out in order, as
soon as it is certain which kind of text it is; only a possible marker at the end is held back.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Literal

from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, FinishReason, TextPart, ThoughtPart, Usage
from quire.tools.base import ToolParser


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
        self._start, self._end = thought_words[0].strip(), thought_words[1].strip()
        self.state: Literal["before", "inside", "after"] = "inside" if inside else "before"
        self.has_thought = inside
        self._fresh = True  # nothing but line breaks yet in this state: they are dropped
        self._pending = ""

    def add(self, text: str) -> tuple[str, str]:
        """Return (reasoning, content) that became certain."""
        self._pending += text
        reasoning = content = ""
        if self.state == "before":
            self._look_for_start()
        if self.state == "inside":
            reasoning = self._take_thought()
        if self.state == "after":
            content = self._take_answer()
        return reasoning, content

    def flush(self) -> tuple[str, str]:
        """The stream has ended: what was held back belongs to the part that it stands in."""
        rest, self._pending = self._pending, ""
        return (rest.rstrip("\n"), "") if self.state == "inside" else ("", rest)

    @property
    def is_past(self) -> bool:
        """Whether all that comes is answer, as it is."""
        return self.state == "after" and not self._fresh and not self._pending

    def thought_span(self, text: str, *, inside: bool) -> tuple[int, int]:
        """Where the thought of a whole answer begins and ends in its text, markers left out."""
        begin = 0 if inside else text.find(self._start) + len(self._start)
        end = text.find(self._end, begin)
        return begin, len(text) if end < 0 else end

    def _look_for_start(self) -> None:
        begun = self._pending.lstrip()
        if self._start and begun.startswith(self._start):
            self._pending = begun[len(self._start) :]
            self.state, self.has_thought = "inside", True
        elif not self._start or (begun and not self._start.startswith(begun)):
            self.state, self._fresh = "after", False

    def _take_thought(self) -> str:
        if self._fresh:
            self._pending = self._pending.lstrip("\n")
            self._fresh = not self._pending
        thought, end, rest = self._pending.partition(self._end)
        if end:
            self._pending, self.state, self._fresh = rest, "after", True
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


class AnswerReader:
    """Reads one completion: each delta of an engine becomes one with parts.

    Args:
        special: texts of special tokens to hide; empty where the engine has hidden them.
        thought_words: what opens and closes a thought.
        inside: whether the prompt has opened the thought already.
        tools: reads calls out of the answer; None where no tools were offered.
        decode: the text of token ids, as the engine gives it.
    """

    def __init__(
        self,
        *,
        special: Collection[str] = (),
        thought_words: tuple[str, str] = ("", ""),
        inside: bool = False,
        tools: ToolParser | None = None,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._splitter = ReasoningSplitter(thought_words, inside=inside)
        self._inside, self._tools, self._decode = inside, tools, decode
        # A marker may be cut anywhere, so each kind of text has a filter that waits for its own rest.
        self._shown, self._thought, self._answer = (
            [SpecialTokenFilter(special) for _ in range(3)] if special else (None, None, None)
        )
        self._is_bare = not special and tools is None
        self._passes_through = False
        self._has_called = False
        self._begun = False
        self._reasoning_tokens = 0

    def read(self, delta: Delta) -> Delta:
        """The delta with its parts; most deltas are text alone, and are given back as they are."""
        ends = delta.finish_reason is not None
        if self._passes_through:
            if ends and self._reasoning_tokens:
                return replace(delta, usage=self._usage(delta))
            return delta
        splitter, text = self._splitter, delta.text
        was_inside = splitter.state == "inside"
        parts = self._parts(*splitter.add(text))
        if self._shown is not None:
            text = self._shown.add(text)
        if ends:
            parts += self._rest()
            text += "" if self._shown is None else self._shown.flush()
        if was_inside and splitter.state == "inside":
            self._reasoning_tokens += len(delta.token_ids)
        elif ends and not self._begun and splitter.has_thought:
            self._reasoning_tokens = self._count_thought(delta)
        self._begun = True
        self._passes_through = self._is_bare and splitter.is_past
        reason: FinishReason | None = delta.finish_reason
        if reason == "stop" and self._has_called:
            reason = "tool_calls"
        return replace(
            delta, text=text, parts=tuple(parts), finish_reason=reason, usage=self._usage(delta)
        )

    def _usage(self, delta: Delta) -> Usage | None:
        """The delta's usage, with the thought's tokens counted."""
        if delta.usage is None or not self._reasoning_tokens:
            return delta.usage
        return replace(delta.usage, reasoning_tokens=self._reasoning_tokens)

    def _parts(self, reasoning: str, answer: str) -> list[AnswerPart]:
        parts: list[AnswerPart] = []
        if reasoning:
            self._add(parts, ThoughtPart, reasoning)
        if answer:
            self._flush(parts, ThoughtPart)
            if self._tools is None:
                self._add(parts, TextPart, answer)
            else:
                self._add_pieces(parts, self._tools.add(answer))
        return parts

    def _rest(self) -> list[AnswerPart]:
        """What was held back, once the completion has ended."""
        parts = self._parts(*self._splitter.flush())
        self._flush(parts, ThoughtPart)
        if self._tools is not None:
            self._add_pieces(parts, self._tools.flush())
        self._flush(parts, TextPart)
        return parts

    def _add_pieces(self, parts: list[AnswerPart], pieces: Sequence[str | ToolCall]) -> None:
        for piece in pieces:
            if isinstance(piece, str):
                self._add(parts, TextPart, piece)
            else:
                self._flush(parts, TextPart)
                self._has_called = True
                parts.append(piece)

    def _add(
        self, parts: list[AnswerPart], kind: type[TextPart] | type[ThoughtPart], text: str
    ) -> None:
        hidden = self._answer if kind is TextPart else self._thought
        if hidden is not None:
            text = hidden.add(text)
        if text:
            parts.append(kind(text))

    def _flush(self, parts: list[AnswerPart], kind: type[TextPart] | type[ThoughtPart]) -> None:
        """Add what a filter holds back: no marker goes on beyond text of one kind."""
        hidden = self._answer if kind is TextPart else self._thought
        if hidden is not None and (text := hidden.flush()):
            parts.append(kind(text))

    def _count_thought(self, whole: Delta) -> int:
        """The tokens of the thought of an answer that has come in one delta.

        Tokens are counted up to the first whose end lies at the marker or after it. Text grows with
        the number of its tokens, so that it is found by bisection.
        """
        ids = whole.token_ids
        begin, end = (
            bisect_left(range(len(ids)), offset, key=lambda count: len(self._decode(ids[:count])))
            for offset in self._splitter.thought_span(whole.text, inside=self._inside)
        )
        return max(end - begin, 0)
