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

    def __init__(
        self, thought_words: tuple[str, str], *, inside: bool = False, continues: bool = False
    ) -> None:
        """`continues`: whether the prompt holds the beginning of the thought, or of the answer."""
        self._start, self._end = thought_words[0].strip(), thought_words[1].strip()
        before = "after" if continues else "before"
        self.state: Literal["before", "inside", "after"] = "inside" if inside else before
        self.has_thought = inside
        self._fresh = not continues  # only line breaks so far in this state, which are dropped
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
        continues: whether the prompt holds the beginning of what is read.
        tools: finds tool calls in the answer; None where no tools were offered.
        decode: decodes token ids into text as the engine does.
    """

    def __init__(
        self,
        *,
        special: Collection[str] = (),
        thought_words: tuple[str, str] = ("", ""),
        inside: bool = False,
        continues: bool = False,
        tools: ToolParser | None = None,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._splitter = ReasoningSplitter(thought_words, inside=inside, continues=continues)
        self._inside, self._tools, self._decode = inside, tools, decode
        self._shown = SpecialTokenFilter(special) if special else None  # for the text as a whole
        # One filter for all parts: where the kind changes, what it holds back ends the part before.
        self._hidden = SpecialTokenFilter(special) if special else None
        self._kind: type[TextPart] | type[ThoughtPart] | None = None  # None after a call
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
        reasoning, answer = splitter.add(text)
        if ends:
            last_reasoning, last_answer = splitter.flush()
            reasoning, answer = reasoning + last_reasoning, answer + last_answer
        parts = self._parts(reasoning, answer, ends)
        if self._shown is not None:
            text = self._shown.add(text) + (self._shown.flush() if ends else "")
        if was_inside and splitter.state == "inside":
            self._reasoning_tokens += len(delta.token_ids)
        elif ends and not self._begun and splitter.has_thought:
            self._reasoning_tokens = self._count_thought(delta)
        self._begun = True
        self._passes_through = self._is_bare and splitter.is_past
        reason: FinishReason | None = delta.finish_reason
        if reason == "stop" and self._has_called:
            reason = "tool_calls"
        usage = self._usage(delta) if self._reasoning_tokens else delta.usage
        return replace(delta, text=text, parts=tuple(parts), finish_reason=reason, usage=usage)

    def _usage(self, delta: Delta) -> Usage | None:
        """The delta's usage, with the thought's token count."""
        if delta.usage is None:
            return None
        return replace(delta.usage, reasoning_tokens=self._reasoning_tokens)

    def _parts(self, reasoning: str, answer: str, ends: bool) -> list[AnswerPart]:
        """The parts of these texts, in which the thought comes before the answer."""
        parts: list[AnswerPart] = [ThoughtPart(reasoning)] if reasoning else []
        if self._tools is not None:
            pieces = list(self._tools.add(answer)) if answer else []
            if ends:
                pieces += self._tools.flush()
            for piece in pieces:
                parts.append(TextPart(piece) if isinstance(piece, str) else piece)
                self._has_called |= isinstance(piece, ToolCall)
        elif answer:
            parts.append(TextPart(answer))
        return parts if self._hidden is None else self._without_special(self._hidden, parts, ends)

    def _without_special(
        self, hidden: SpecialTokenFilter, parts: Sequence[AnswerPart], ends: bool
    ) -> list[AnswerPart]:
        """The parts without special tokens, of which none spans text of two kinds."""
        kept: list[AnswerPart] = []
        for part in parts:
            kind = None if isinstance(part, ToolCall) else type(part)
            if kind is not self._kind:
                self._flush(hidden, kept)
                self._kind = kind
            if isinstance(part, ToolCall):
                kept.append(part)
            elif text := hidden.add(part.text):
                kept.append(type(part)(text))
        if ends:
            self._flush(hidden, kept)
        return kept

    def _flush(self, hidden: SpecialTokenFilter, kept: list[AnswerPart]) -> None:
        """Add what the filter holds back to the last part's kind; nothing is held after a call."""
        if self._kind is not None and (rest := hidden.flush()):
            kept.append(self._kind(rest))

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
