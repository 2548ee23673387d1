"""Reading a model's answer as it streams: special tokens are hidden, and its text becomes parts.

Each reader is a small object with `add` and `flush`. Invariant: text comes out in order, as soon as
its kind is certain; only what may be the beginning of a marker is held back at the end.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from quire.chat.answer_stops import TurnEnds, held_back
from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, FinishReason, TextPart, ThoughtPart, Usage
from quire.tools.harmony import HarmonyReader
from quire.tools.stream import ToolParser


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


class TextMarks:
    """Takes what stands around an answer's text out of a stream, as `<|START_RESPONSE|>` does.

    Args:
        before: texts of which one may begin the answer.
        after: texts that may stand anywhere after it.
        thought_words: what opens and closes a thought; one without text is dropped wherever it stands.
    """

    def __init__(
        self,
        before: Sequence[str],
        after: Sequence[str],
        thought_words: tuple[str, str] = ("", ""),
    ) -> None:
        marked = [text.lstrip() for text in before if text.strip()]
        # With the white space at its end, and without what a model may leave out of it.
        self._before = tuple(dict.fromkeys(one for text in marked for one in (text, text.rstrip())))
        opening, close = (word.strip() for word in thought_words)
        empty = rf"{re.escape(opening)}\s*{re.escape(close)}" if opening and close else ""
        marks = list(filter(None, (text.strip() for text in after)))
        self._pattern = re.compile(
            "|".join(filter(None, [*map(re.escape, marks), empty])) or r"(?!)"
        )
        self._opening, self._close = (opening, close) if empty else ("", "")
        self._marks = (*marks, *filter(None, (self._opening,)))
        self._first = re.compile("|".join({re.escape(mark[0]) for mark in self._marks}) or r"(?!)")
        self._begins = bool(self._before)
        self._pending = ""

    def passes(self, text: str) -> bool:
        """Whether this further text is shown as it is, since no mark can begin in it."""
        return not (self._begins or self._pending or self._first.search(text))

    def add(self, text: str) -> str:
        """Return the text that is certain to be shown, of all added so far."""
        self._pending += text
        if self._begins and not self._has_begun():
            return ""
        text = self._pattern.sub("", self._pending)
        keep = len(text) - self._held(text)
        self._pending = text[keep:]
        return text[:keep]

    def flush(self) -> str:
        """Return what was held back; the stream has ended."""
        text, self._pending = self._pattern.sub("", self._pending), ""
        return text

    def _has_begun(self) -> bool:
        """Whether it is certain what the answer begins with, which is dropped."""
        text = self._pending.lstrip()
        found = [mark for mark in self._before if text.startswith(mark)]
        if any(mark.startswith(text) and mark not in found for mark in self._before):
            return False
        self._begins = False
        if found:
            self._pending = text[len(max(found, key=len)) :]
        return True

    def _held(self, text: str) -> int:
        """How many characters at the end may be the beginning of what is dropped."""
        begun = text.rfind(self._opening) if self._opening else -1
        if begun >= 0:
            inner = text[begun + len(self._opening) :].lstrip()
            if self._close.startswith(inner):
                return len(text) - begun
        return held_back(text, self._marks)


class ReasoningSplitter:
    """Splits the thought at the beginning of an answer from the answer.

    A thought starts with the first thought word, or has started in the prompt already (`inside`), and
    ends with the second. Line breaks next to the words belong to neither text.

    Models forget to close a thought before they call a tool. So where one of `openings` stands in a
    thought, what follows is held back: with nothing but calls up to the answer's end it is calls; else
    it is thought. `calls` makes a parser of them.
    """

    def __init__(
        self,
        thought_words: tuple[str, str],
        *,
        inside: bool = False,
        continues: bool = False,
        openings: Sequence[str] = (),
        calls: Callable[[], ToolParser] | None = None,
    ) -> None:
        """`continues`: whether the prompt holds the beginning of the thought, or of the answer."""
        self._start, self._end = thought_words[0].strip(), thought_words[1].strip()
        self._openings = tuple(openings) if calls is not None else ()
        self._new_parser = calls
        self._parser: ToolParser | None = None  # of what may be calls, which begins `_pending`
        self._called = False
        before = "after" if continues else "before"
        self.state: Literal["before", "inside", "after"] = "inside" if inside else before
        self.has_thought = self._may_reopen = inside
        self._fresh = not continues  # only line breaks so far in this state, which are dropped
        self._pending = ""

    def add(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content that became certain."""
        self._pending += text
        reasoning = content = ""
        if self.state == "before":
            self._look_for_start()
        if self.state == "inside":
            reasoning = self._take_thought(text)
        if self.state == "after":
            content = self._take_answer()
        return reasoning, content

    def flush(self) -> tuple[str, str]:
        """Return (reasoning, content) of what was held back; the stream has ended."""
        rest, self._pending = self._pending, ""
        if self._parser is not None and self._only_calls("", last=True) and self._called:
            return "", rest
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
        elif self._start and text.startswith(self._end):  # of a thought that was not begun
            self._pending, self.state = text[len(self._end) :], "after"
        elif not self._start or (
            text and not self._start.startswith(text) and not self._end.startswith(text)
        ):
            self.state, self._fresh = "after", False

    def _take_thought(self, text: str) -> str:
        if self._fresh:
            self._pending = self._pending.lstrip("\n")
            if self._may_reopen and self._start:  # a model may open what its prompt has opened
                if self._pending.startswith(self._start):
                    self._pending = self._pending[len(self._start) :].lstrip("\n")
                    self._may_reopen = False
                elif self._start.startswith(self._pending):
                    return ""
            self._fresh = not self._pending
        thought, end, rest = self._pending.partition(self._end)
        if end:
            self._pending, self.state, self._fresh = rest, "after", True
            self._parser = None
            return thought.rstrip("\n")
        if self._parser is not None:
            if self._only_calls(text):
                return ""
            self._parser = None
            begun = len(self._pending)  # so much is thought, whatever opens in it
        else:
            begun = 0
        found = [at for one in self._openings if (at := thought.find(one, begun)) >= 0]
        if found:
            keep = len(thought[: min(found)].rstrip())
            self._pending = thought[keep:]
            self._parser = self._new_parser() if self._new_parser is not None else None
            self._called = False
            self._only_calls(self._pending)
            return thought[:keep]
        keep = len(thought) - held_back(thought, (self._end, *self._openings))
        keep = len(thought[:keep].rstrip("\n"))
        self._pending = thought[keep:]
        return thought[:keep]

    def _only_calls(self, text: str, *, last: bool = False) -> bool:
        """Whether what is held back may be calls and nothing else, with this further text."""
        assert self._parser is not None
        pieces = [*self._parser.add(text), *(self._parser.flush() if last else ())]
        self._called |= any(isinstance(piece, ToolCall) for piece in pieces)
        return not any(isinstance(piece, str) and piece.strip() for piece in pieces)

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
        marks: takes out what stands around the answer's text; None where nothing does.
        tools: makes a parser that finds tool calls; None where no tools were offered.
        begun: the answer's text in the prompt, which may hold the beginning of a call.
        openings: control strings with which calls begin, even in a thought that was not closed.
        messages: reads an answer that is harmony's messages, in place of all of these.
        turn_ends: finds the turn's end in the answer's text; None where tokens alone end it.
        min_tokens: so many tokens come before that.
        decode: decodes token ids into text as the engine does.
    """

    def __init__(
        self,
        *,
        special: Collection[str] = (),
        thought_words: tuple[str, str] = ("", ""),
        inside: bool = False,
        continues: bool = False,
        marks: TextMarks | None = None,
        tools: Callable[[], ToolParser] | None = None,
        begun: str = "",
        openings: Sequence[str] = (),
        messages: HarmonyReader | None = None,
        turn_ends: TurnEnds | None = None,
        min_tokens: int = 0,
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self._splitter = ReasoningSplitter(
            thought_words, inside=inside, continues=continues, openings=openings, calls=tools
        )
        self._inside, self._decode, self._marks = inside, decode, marks
        self._messages = messages
        self._turn_ends, self._min_tokens, self._tokens = turn_ends, min_tokens, 0
        self._tools = tools() if tools is not None else None
        self._unshown = self._read_begun(begun)
        self._shown = SpecialTokenFilter(special) if special else None  # for the text as a whole
        # One filter for all parts: where the kind changes, what it holds back ends the part before.
        self._hidden = SpecialTokenFilter(special) if special else None
        self._kind: type[TextPart] | type[ThoughtPart] | None = None  # None after a call
        self._is_bare = not special and tools is None and turn_ends is None
        self._passes_through = False
        self._has_called = False
        self._begun = False
        self.reasoning_tokens = 0
        """The tokens of the thought so far."""
        self.ended = False
        """Whether the turn has ended in its text: nothing that comes after it is to be read."""

    def read(self, delta: Delta) -> Delta:
        """Return the delta with its parts.

        Once the thought is past, and if no tools are offered, a delta is returned unchanged: its text
        is the answer's. This is the way of most tokens of most answers.
        """
        ends = delta.finish_reason is not None
        if self._passes_through and (self._marks is None or self._marks.passes(delta.text)):
            if ends and self.reasoning_tokens:
                return replace(delta, usage=self._usage(delta))
            return delta
        text, was_inside = delta.text, self._in_thought
        self._tokens += len(delta.token_ids)
        if self._messages is None:
            parts = self._split(self._splitter, delta)
            dropped = self._turn_ends.dropped if self._turn_ends is not None else 0
        else:
            parts = self._read_messages(self._messages, delta)
            dropped = self._messages.dropped
        if self.ended:
            text, ends = text[: max(len(text) - dropped, 0)], True
        if self._hidden is not None:
            parts = self._without_special(self._hidden, parts, ends)
        if self._shown is not None:
            text = self._shown.add(text) + (self._shown.flush() if ends else "")
        if was_inside and self._in_thought:
            self.reasoning_tokens += len(delta.token_ids)
        elif ends and not self._begun:
            self.reasoning_tokens = self._count_thoughts(delta)
        self._begun = True
        reason: FinishReason | None = delta.finish_reason
        if self.ended and reason in (None, "length"):
            reason = "stop"
        if reason == "stop" and self._has_called:
            reason = "tool_calls"
        usage = self._usage(delta) if self.reasoning_tokens else delta.usage
        return replace(delta, text=text, parts=tuple(parts), finish_reason=reason, usage=usage)

    def _usage(self, delta: Delta) -> Usage | None:
        """The delta's usage, with the thought's token count."""
        if delta.usage is None:
            return None
        return replace(delta.usage, reasoning_tokens=self.reasoning_tokens)

    @property
    def _in_thought(self) -> bool:
        if self._messages is not None:
            return self._messages.in_thought
        return self._splitter.state == "inside"

    def _read_messages(self, messages: HarmonyReader, delta: Delta) -> list[AnswerPart]:
        parts = messages.add(delta.text)
        self.ended = messages.ended
        if delta.finish_reason is not None or self.ended:
            parts += messages.flush(cut=not self.ended and delta.finish_reason != "stop")
        self._has_called |= any(isinstance(part, ToolCall) for part in parts)
        return parts

    def _split(self, splitter: ReasoningSplitter, delta: Delta) -> list[AnswerPart]:
        """The parts of a delta, in which the thought comes before the answer."""
        ends = delta.finish_reason is not None
        reasoning, answer = splitter.add(delta.text)
        if ends:
            last_reasoning, last_answer = splitter.flush()
            reasoning, answer = reasoning + last_reasoning, answer + last_answer
        if self._turn_ends is not None:
            answer = self._up_to_end(self._turn_ends, answer, ends=ends)
            ends = ends or self.ended
        parts: list[AnswerPart] = [ThoughtPart(reasoning)] if reasoning else []
        if self._marks is not None:
            answer = self._marks.add(answer) + (self._marks.flush() if ends else "")
        if self._tools is not None:
            pieces = list(self._tools.add(answer)) if answer else []
            if ends:
                pieces += self._tools.flush()
            for piece in self._without_begun(pieces) if self._unshown else pieces:
                parts.append(TextPart(piece) if isinstance(piece, str) else piece)
                self._has_called |= isinstance(piece, ToolCall)
        elif answer:
            parts.append(TextPart(answer))
        self._passes_through = self._is_bare and splitter.is_past
        return parts

    def _up_to_end(self, turn_ends: TurnEnds, answer: str, *, ends: bool) -> str:
        shown = turn_ends.add(answer, armed=self._tokens >= self._min_tokens)
        shown += turn_ends.flush() if ends else ""
        self.ended = turn_ends.ended
        return shown

    def _read_begun(self, begun: str) -> int:
        """Have the calls of a text found that the prompt has begun; return what it holds back."""
        if self._tools is None or not begun:
            return 0
        shown = [piece for piece in self._tools.add(begun) if isinstance(piece, str)]
        return max(len(begun) - sum(map(len, shown)), 0)

    def _without_begun(self, pieces: Sequence[str | ToolCall]) -> Iterator[str | ToolCall]:
        """The pieces without what the prompt holds of them; a call is given whole."""
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._unshown = 0
                yield piece
                continue
            rest = piece[self._unshown :]
            self._unshown = max(self._unshown - len(piece), 0)
            if rest:
                yield rest

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

    def _thought_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """The start and end offset of each thought in the text of a whole answer."""
        if self._messages is not None:
            return self._messages.thoughts
        if not self._splitter.has_thought:
            return ()
        return (self._splitter.thought_span(text, inside=self._inside),)

    def _count_thoughts(self, whole: Delta) -> int:
        """Count the tokens of the thoughts in an answer that came as a single delta.

        Its tokens carry no offsets, so prefixes are decoded to find the token that reaches each end of
        a thought. The text grows with the number of tokens, so a bisection is enough.
        """
        ids, count = whole.token_ids, 0
        for span in self._thought_spans(whole.text):
            begin, end = (
                bisect_left(range(len(ids)), offset, key=lambda n: len(self._decode(ids[:n])))
                for offset in span
            )
            count += max(end - begin, 0)
        return count
