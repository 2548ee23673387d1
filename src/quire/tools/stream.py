"""Reading calls out of a stream of text.

A format's grammar is written as if the whole answer were there: readers are generators that pause
where the text runs out. So a call is read alike however the text was cut, each character is looked
at a bounded number of times, and what is held back is only what may still become a call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TypeAlias, TypeVar

from quire.messages import ToolCall
from quire.tools.base import Piece, ToolParser

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
"""A reader: it yields where it needs more text, and returns a T."""

SPACES = " \t\r\n"
MAX_NAME = 256
"""A longer run of characters is no name, so text without an end is not held back for ever."""


class Refuted(Exception):
    """What was read is no call: all up to the source's position is text."""


class Source:
    """The characters that have come, and how far they are read.

    Invariant: `mark` <= `at`; what lies before `mark` was given out, what lies between them is held.
    """

    def __init__(self) -> None:
        self.at = 0
        self.mark = 0
        self.ended = False
        self.fresh = True
        """No text has been given out since the start, or since the last call."""
        self.called = False
        self._chars: list[str] = []  # a list: appending to a long string would copy it
        self._found: list[Piece] = []
        self._texts: list[str] = []  # given out after what was found, not yet joined
        self._given = 0

    def feed(self, text: str) -> None:
        self._chars.extend(text)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to read, for now or, if `ended`, for good."""
        return self.at >= len(self._chars)

    @property
    def place(self) -> int:
        """How many characters of the stream were read."""
        return self._given + self.at

    def advance(self, stops: str | frozenset[str]) -> None:
        """Read on up to one of `stops`, or as far as there is text."""
        chars, at, end = self._chars, self.at, len(self._chars)
        while at < end and chars[at] not in stops:
            at += 1
        self.at = at

    def since(self, start: int) -> str:
        """The text from `start` to the position."""
        return "".join(self._chars[start : self.at])

    def accept(self, call: ToolCall) -> None:
        """Give out a call; what was held before it was the format's own."""
        self._join_texts()
        self._found.append(call)
        self.called = True
        self.skip()

    def skip(self) -> None:
        """What was read belongs to the format: it is no text."""
        self.mark = self.at
        self.fresh = True

    def rewind(self) -> None:
        """Go back to the end of what was given out."""
        self.at = self.mark

    def release(self) -> None:
        """Give out all that was read as text. No reader may hold a position across this."""
        if self.at > self.mark:
            self._texts.append(self.since(self.mark))
            self.fresh = False
        self.mark = self.at
        if 2 * self.at >= len(self._chars):  # not each time: that would move the rest too often
            del self._chars[: self.at]
            self._given += self.at
            self.at = self.mark = 0

    def take_found(self) -> list[Piece]:
        """What was given out since the last time."""
        self._join_texts()
        found, self._found = self._found, []
        return found

    def _join_texts(self) -> None:
        if self._texts:
            self._found.append("".join(self._texts))
            self._texts = []

    def peek(self) -> Reading[str]:
        """The next character, not taken; empty at the end of the stream."""
        while self.exhausted and not self.ended:
            yield
        return "" if self.exhausted else self._chars[self.at]

    def take(self) -> Reading[str]:
        """The next character, taken; empty at the end of the stream."""
        char = yield from self.peek()
        self.at += len(char)
        return char

    def run(self, stops: str | frozenset[str], limit: int | None = None) -> Reading[str]:
        """Take characters up to one of `stops`, or to the end.

        Raises:
            Refuted: more than `limit` characters came.
        """
        start = self.at
        while True:
            self.advance(stops)
            if limit is not None and self.at - start > limit:
                self.at = start + limit + 1  # where it is known, however the text was cut
                raise Refuted
            if self.ended or not self.exhausted:
                return self.since(start)
            yield

    def spaces(self) -> Reading[None]:
        """Take whitespace."""
        while (char := (yield from self.peek())) and char in SPACES:
            self.at += 1

    def literal(self, text: str) -> Reading[bool]:
        """Take `text` if it follows; else take nothing."""
        start = self.at
        for char in text:
            if (yield from self.peek()) != char:
                self.at = start
                return False
            self.at += 1
        return True

    def follows(self, *texts: str) -> Reading[bool]:
        """Whether one of `texts` follows; nothing is taken."""
        start = self.at
        for text in texts:
            if (yield from self.literal(text)):
                self.at = start
                return True
        return False

    def require(self, text: str) -> Reading[None]:
        """Take `text`.

        Raises:
            Refuted: something else follows.
        """
        if not (yield from self.literal(text)):
            raise Refuted

    def until(self, end: str) -> Reading[str]:
        """Take all up to `end`, and `end`; return what stands before it.

        Raises:
            Refuted: the stream ends first.
        """
        start = self.at
        while True:
            yield from self.run(end[0])
            if self.exhausted:
                raise Refuted
            stop = self.at
            if (yield from self.literal(end)):
                return "".join(self._chars[start:stop])
            self.at += 1

    def name(self, stops: str) -> Reading[str]:
        """Take a name: at least one character, none of them whitespace or of `stops`.

        Raises:
            Refuted: there is none, or it is longer than `MAX_NAME`.
        """
        name = yield from self.run(stops + SPACES, MAX_NAME)
        if not name:
            raise Refuted
        return name

    def closing(self, *tags: str) -> Reading[None]:
        """After a call: take whitespace and then one of `tags`, if they follow, as no text."""
        yield from self.spaces()
        for tag in tags:
            if (yield from self.literal(tag)):
                self.skip()
                return
        self.rewind()


class Grammar(ABC):
    """How one format's calls are read."""

    triggers: frozenset[str]
    """The characters with which a call may begin in the middle of text."""

    @abstractmethod
    def read(self, source: Source) -> Reading[None]:
        """Read the calls that begin at the source's position, giving each to `source.accept`.

        It is tried at every trigger and wherever `source.fresh`; it may return early, with the
        rest unread.

        Raises:
            Refuted: no call stands here.
        """


class StreamParser(ToolParser):
    """Text up to where a call may begin, then what the grammar reads there, and so on.

    Whitespace next to a call with no other text beside it is the format's; other text is kept.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._source = Source()
        self._loop = self._read()

    def add(self, text: str) -> list[Piece]:
        if self._source.ended:
            raise ValueError("The stream has ended: a parser reads one answer.")
        self._source.feed(text)
        next(self._loop)
        return self._source.take_found()

    def flush(self) -> list[Piece]:
        self._source.ended = True
        next(self._loop, None)
        return self._source.take_found()

    def _read(self) -> Reading[None]:
        source = self._source
        while True:
            yield from self._text()
            if source.exhausted:
                return
            start = source.place
            try:
                yield from self._grammar.read(source)
            except Refuted:
                if source.place == start:
                    source.at += 1
                if not source.fresh or source.since(source.mark).strip(SPACES):
                    source.release()

    def _text(self) -> Reading[None]:
        """Give out text up to where a call may begin, or to the end of the stream."""
        source = self._source
        if source.fresh:
            yield from source.spaces()
            if not source.exhausted:
                return
            if source.called:
                source.skip()
        while True:
            source.advance(self._grammar.triggers)
            source.release()
            if source.ended or not source.exhausted:
                return
            yield
