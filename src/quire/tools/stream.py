"""Reading calls out of a stream of text.

A format's grammar is written as if the whole answer were there: readers are generators that pause
where the text runs out. So a call is read in the same way however the text was cut, each character
is read a bounded number of times, and only what may still become a call is held back. A parser that
matched a regular expression against all text so far would read it anew with each token.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

from quire.messages import ToolCall

T = TypeVar("T")
Reading: TypeAlias = Generator[None, None, T]
"""A reader: it yields where it needs more text, and returns a T."""

SPACES = " \t\r\n"
MAX_NAME = 256
"""A longer run of characters is no name. Without a limit, text without an end would be held back."""


class Refuted(Exception):
    """What was read is no call: everything up to the stream's position is text."""


Piece: TypeAlias = str | ToolCall
"""What a parser emits: text that belongs to the answer, or a whole call."""


class ToolParser(ABC):
    """Reads a model's answer as it streams.

    Invariant: text is emitted as soon as it cannot be part of a call, and its order never changes.
    What is not a complete call when the stream ends is emitted as text by `flush`.
    """

    @abstractmethod
    def add(self, text: str) -> list[Piece]:
        """Take the next text of the stream; return what is now certain."""

    @abstractmethod
    def flush(self) -> list[Piece]:
        """End the stream; return what was held back."""


class CharStream:
    """The characters that have come, and how far they are read.

    Invariant: `mark` <= `at`. What lies before `mark` was emitted, what lies between them is held.
    """

    def __init__(self) -> None:
        self.at = 0
        self.mark = 0
        self.ended = False
        self.fresh = True
        """No text has been emitted since the start, or since the last call."""
        self.called = False
        self._chars: list[str] = []  # a list: appending to a long string would copy it
        self._pieces: list[Piece] = []  # emitted and not yet taken
        self._texts: list[str] = []  # emitted after these pieces, not yet joined to one
        self._dropped = 0  # characters before those in `_chars`

    def feed(self, text: str) -> None:
        self._chars.extend(text)

    @property
    def exhausted(self) -> bool:
        """Nothing is left to read, for now or, if `ended`, for good."""
        return self.at >= len(self._chars)

    @property
    def position(self) -> int:
        """The number of characters of the stream that were read."""
        return self._dropped + self.at

    def advance(self, stops: str | frozenset[str]) -> None:
        """Read on up to one of `stops`, or as far as there is text."""
        chars, at, end = self._chars, self.at, len(self._chars)
        while at < end and chars[at] not in stops:
            at += 1
        self.at = at

    def begins_line(self, start: int) -> bool:
        """Whether a line break stands right before `at`, after `start`."""
        return self.at > start and self._chars[self.at - 1] == "\n"

    def since(self, start: int) -> str:
        """The text from `start` to `at`."""
        return "".join(self._chars[start : self.at])

    def accept(self, call: ToolCall) -> None:
        """Emit a call; what was held before it is part of the format."""
        self._join_texts()
        self._pieces.append(call)
        self.called = True
        self.skip()

    def skip(self) -> None:
        """Drop what was read: it is part of the format, not text."""
        self.mark = self.at
        self.fresh = True

    def rewind(self) -> None:
        """Go back to the end of what was emitted."""
        self.at = self.mark

    def release(self) -> None:
        """Emit everything that was read as text. No reader may hold an index across this."""
        if self.at > self.mark:
            self._texts.append(self.since(self.mark))
            self.fresh = False
        self.mark = self.at
        if 2 * self.at >= len(self._chars):  # not each time: that would move the rest too often
            del self._chars[: self.at]
            self._dropped += self.at
            self.at = self.mark = 0

    def take_pieces(self) -> list[Piece]:
        """What was emitted since the last time."""
        self._join_texts()
        pieces, self._pieces = self._pieces, []
        return pieces

    def _join_texts(self) -> None:
        if self._texts:
            self._pieces.append("".join(self._texts))
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
                self.at = start + limit + 1  # the same position however the text was cut
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
        """Take everything up to `end`, and `end`; return what stands before it.

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

    def loosely(self, text: str) -> Reading[bool]:
        """Take `text`, with any white space where it has some; else take nothing."""
        start = self.at
        if text[:1].isspace():
            yield from self.spaces()
        for index, run in enumerate(text.split()):
            if index:
                yield from self.spaces()
            if not (yield from self.literal(run)):
                self.at = start
                return False
        if text[-1:].isspace():
            yield from self.spaces()
        return True

    def close(self, texts: Sequence[str]) -> Reading[None]:
        """After a call: take those of `texts` that follow, in their order, as no text."""
        left = list(texts)
        while left:
            yield from self.spaces()
            for index, text in enumerate(left):
                if (yield from self.literal(text)):
                    self.skip()
                    left = left[index + 1 :]
                    break
            else:
                break
        self.rewind()

    def closing(self, *tags: str) -> Reading[None]:
        """After a call: take whitespace and then one of `tags`, if they follow, as no text."""
        yield from self.spaces()
        for tag in tags:
            if (yield from self.literal(tag)):
                self.skip()
                return
        self.rewind()


class Grammar(ABC):
    """How the calls of one format are read."""

    triggers: frozenset[str]
    """The characters with which a call may begin in the middle of text."""

    @abstractmethod
    def read(self, stream: CharStream) -> Reading[None]:
        """Read the calls that begin at the stream's position, giving each to `stream.accept`.

        It is tried at every trigger and wherever `stream.fresh`; it may return early, with the
        rest unread.

        Raises:
            Refuted: no call stands here.
        """


class StreamParser(ToolParser):
    """Emits text up to where a call may begin, then what the grammar reads there, and so on.

    White space between a call and the next one, or an end, is part of the format; other text is kept.
    """

    def __init__(self, grammar: Grammar) -> None:
        self._grammar = grammar
        self._stream = CharStream()
        self._loop = self._read()

    def add(self, text: str) -> list[Piece]:
        if self._stream.ended:
            raise ValueError("The stream has ended: a parser reads one answer.")
        self._stream.feed(text)
        next(self._loop)
        return self._stream.take_pieces()

    def flush(self) -> list[Piece]:
        self._stream.ended = True
        next(self._loop, None)
        return self._stream.take_pieces()

    def _read(self) -> Reading[None]:
        stream = self._stream
        while True:
            yield from self._text()
            if stream.exhausted:
                return
            start = stream.position
            try:
                yield from self._grammar.read(stream)
            except Refuted:
                if stream.position == start:
                    stream.at += 1
                if not stream.fresh or stream.since(stream.mark).strip(SPACES):
                    stream.release()

    def _text(self) -> Reading[None]:
        """Emit text up to where a call may begin, or to the end of the stream."""
        stream = self._stream
        if stream.fresh:
            yield from stream.spaces()
            if not stream.exhausted:
                return
            if stream.called:
                stream.skip()
        while True:
            stream.advance(self._grammar.triggers)
            stream.release()
            if stream.ended or not stream.exhausted:
                return
            yield
