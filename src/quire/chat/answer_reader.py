"""Reading a model's answer as it streams: special tokens are hidden, and its text becomes parts.

Each reader is a small object with `add` and `flush`. Invariant: text comes out in order, as soon as
its kind is certain; only what may be the beginning of a marker is held back at the end.
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
    """Removes the texts of special tokens from a stream."""

    def __init__(self, special: Collection[str]) -> None:
        self._special = tuple(sorted(special, key=len, reverse=True))
        self._pattern = re.compile("|".join(map(re.escape, self._special)) or r"(?!)")
        self._pending = ""

    def add(self, text: str) -> str:
        """Return the text that is certain to be shown, of all added so far."""
        if not self._special:
            return text
        text = self._pattern.sub("", self._pending + text)
        keep = len(text) - held_back(text, self._special)
        self._pending = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Return what was held back; the stream has ended."""
        text, self._pending = self._pattern.sub("", self._pending), ""
        return text


class ReasoningSplitter:
    """Splits the thought at the beginning of an answer from the answer.

    A thought starts with the first thought word, or has started in the prompt already (`inside`), and
    ends with the second. Line breaks next to the words belong to neither text.
    """

    def __init__(self, thought_words: tuple[str, str], *, inside: bool = False) -> None:
        self._start, self._end = thought_words[0].strip(), thought_words[1].strip()
        self.state: Literal["before", "inside", "after"] = "inside" if inside else "before"
        self.has_thought = inside
        self._fresh = True  # only line breaks so far in this state, which are dropped
        self._pending = ""

    def add(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content that became certain."""
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
        """Return (reasoning, content) of what was held back; the stream has ended."""
        rest, self._pending = self._pending, ""
        return (rest.rstrip("\n"), "") if self.state == "inside" else ("", rest)

    @property
    def is_past(self) -> bool:
        """Whether all further text is the answer's, unchanged."""
        return self.state == "after" and not self._fresh and not self._pending

    def thought_span(self, text: str, *, inside: bool) -> tuple[int, int]:
        """The start and end offset of the thought in the text of a whole answer, without markers."""
        begin = 0 if inside else text.find(self._start) + len(self._start)
        end = text.find(self._end, begin)
        return begin, len(text) if end < 0 else end

    def _look_for_start(self) -> None:
        text = self._pending.lstrip()
        if self._start and text.startswith(self._start):
            self._pending = text[len(self._start) :]
            self.state, self.has_thought = "inside", True
        elif not self._start or (text and not self._start.startswith(text)):
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
    """Reads one completion: adds parts to the deltas of an engine.

    Args:
        special: texts of special tokens to hide; empty where the engine has hidden them.
        thought_words: the markers that open and close a thought.
        inside: whether the prompt has opened the thought already.
        tools: finds tool calls in the answer; None where no tools were offered.
        decode: decodes token ids into text as the engine does.
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
        # A special token's text may be split between two deltas, of which the second belongs to
        # another kind of text; so each kind has a filter that holds back its own end.
        self._shown, self._thought, self._answer = (
            [SpecialTokenFilter(special) for _ in range(3)] if special else (None, None, None)
        )
        self._is_bare = not special and tools is None
        self._passes_through = False
        self._has_called = False
        self._begun = False
        self._reasoning_tokens = 0

    def read(self, delta: Delta) -> Delta:
        """Return the delta with its parts.

        Once the thought is past, and if no tools are offered, a delta is returned unchanged: its text
        is the answer's. This is the way of most tokens of most answers.
        """
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
        """The delta's usage, with the thought's token count."""
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
        """The parts that were held back; the completion has ended."""
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
        """Add what a filter holds back: a marker never spans text of two kinds."""
        hidden = self._answer if kind is TextPart else self._thought
        if hidden is not None and (text := hidden.flush()):
            parts.append(kind(text))

    def _count_thought(self, whole: Delta) -> int:
        """Count the tokens of the thought in an answer that came as a single delta.

        Its tokens carry no offsets, so prefixes are decoded to find the token that reaches each end of
        the thought. The text grows with the number of tokens, so a bisection is enough.
        """
        ids = whole.token_ids
        begin, end = (
            bisect_left(range(len(ids)), offset, key=lambda count: len(self._decode(ids[:count])))
            for offset in self._splitter.thought_span(whole.text, inside=self._inside)
        )
        return max(end - begin, 0)
