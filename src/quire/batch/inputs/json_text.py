"""JSON of any length: lines, a list, or objects one after another, each record by itself."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quire.batch.inputs.records import InputRecord, parse_record, read_fault, too_large
from quire.batch.inputs.streams import TextBytes

_SPACE = b" \t\r\n"
_READ = 1 << 16
_MESSAGES = re.compile(rb'\s*\[\s*\{\s*"(role|content)"')
_OUTSIDE = re.compile(rb'["\[\]{},]')
# JSON's strings hold no raw line break, so that one ends a string whose quotation mark is missing:
# the fault stays with its own record.
_INSIDE = re.compile(rb'\\.|["\n]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end. `content` is None where it is longer than the limit."""

    number: int
    byte: int
    content: bytes | None
    is_ended: bool


def read_lines(file: io.BufferedReader[Any], start: int, limit: int) -> Iterator[Line]:
    """The lines of a file, split at line feeds alone."""
    number, byte = 0, start
    while content := file.readline(limit + 2):
        number += 1
        length = len(content)
        is_ended = content.endswith(b"\n")
        if is_ended or length < limit + 2:
            body = content[:-1] if is_ended else content
            yield Line(number, byte, body if len(body) <= limit else None, is_ended)
        else:
            while not is_ended and (more := file.readline(_READ)):
                length += len(more)
                is_ended = more.endswith(b"\n")
            yield Line(number, byte, None, is_ended)
        byte += length


def read_json(text: TextBytes, limit: int, *, may_span_lines: bool) -> Iterator[InputRecord]:
    """The records of a JSON file: a list, or lines, whichever its first bytes show.

    Args:
        limit: the most bytes of a record.
        may_span_lines: whether a file that begins with an object may have objects of several lines.
    """
    skipped, found = _skip_space(text)
    if found.startswith(b"[") and not _is_line_of_list(found):
        yield from _Elements(text, limit, skipped, in_list=True).records()
    elif may_span_lines and found.startswith(b"{") and _spans_lines(found):
        yield from _Elements(text, limit, skipped, in_list=False).records()
    else:
        yield from _json_lines(text, limit, skipped)
    if text.damage:
        yield read_fault(
            f"The compressed file is damaged or cut off here: {text.damage}.", code="damaged_file"
        )


def _skip_space(text: TextBytes) -> tuple[int, bytes]:
    """Go to the first byte that is no space: the lines before it, and what is read ahead from it."""
    lines = 0
    while (ahead := text.file.peek(1)) and (space := len(ahead) - len(ahead.lstrip(_SPACE))):
        lines += text.file.read(space).count(b"\n")
        text.start += space
    return lines, ahead


def _json_lines(text: TextBytes, limit: int, skipped: int) -> Iterator[InputRecord]:
    for line in read_lines(text.file, text.start, limit):
        number = line.number + skipped
        if line.content is None:
            yield too_large(limit, number, line.byte)
        elif line.content.strip(_SPACE):
            torn = not line.is_ended
            yield parse_record(line.content, number, line.byte, torn=torn)


def _is_line_of_list(found: bytes) -> bool:
    """Whether a file that begins with `[` has a list on each line: a conversation, not all rows.

    Seen at its first line, which holds a whole list: of messages, or more lists follow it.
    """
    line, _, after = found.partition(b"\n")
    if _depth_after(line) != (0, False):
        return False
    return after.lstrip(_SPACE).startswith(b"[") or _MESSAGES.match(line) is not None


def _spans_lines(found: bytes) -> bool:
    """Whether the first object goes on after its first line, and is not torn there."""
    line, newline, _ = found.partition(b"\n")
    depth, in_string = _depth_after(line)
    return bool(newline) and depth > 0 and not in_string


def _depth_after(line: bytes) -> tuple[int, bool]:
    """How many brackets are open after a line, and whether a string is."""
    depth, position, in_string = 0, 0, False
    while match := (_INSIDE if in_string else _OUTSIDE).search(line, position):
        position, mark = match.end(), match[0]
        if mark == b'"':
            in_string = not in_string
        elif not in_string and mark != b",":
            depth += 1 if mark in b"[{" else -1
    return depth, in_string


class _Elements:
    """Finds the values of a list, or objects one after another, in a buffer that holds one of them.

    Only brackets and strings are told apart here; `parse_record` then reads each value.
    """

    def __init__(self, text: TextBytes, limit: int, skipped: int, *, in_list: bool) -> None:
        self._text, self._limit, self._in_list = text, limit, in_list
        self._buffer = b""
        self._start = self._position = 0  # of the value in the buffer, and of what is looked at
        self._begin, self._line = text.start, 1 + skipped  # the byte and the line of that start
        self._column = 0
        self._too_large, self._lost, self._lost_lines = False, 0, 0
        self._depth, self._in_string = 0, False

    def records(self) -> Iterator[InputRecord]:
        if self._in_list:
            self._fill()
            self._position = 1
            self._next_value()
        is_first = True
        while (mark := self._find_end()) is not None:
            is_last = self._in_list and mark == b"]"
            content = self._buffer[self._start : self._position - (mark in b",]")]
            if self._too_large:
                yield too_large(self._limit, self._line, self._begin)
            elif content.strip(_SPACE) or not (is_first and is_last):
                yield self._record(content)
            self._next_value()
            is_first = False
            if is_last:
                yield from self._after_list()
                return
        yield from self._cut_off()

    def _record(self, content: bytes, *, torn: bool = False) -> InputRecord:
        space = len(content) - len(content.lstrip(_SPACE))
        line, byte = self._line + content.count(b"\n", 0, space), self._begin + space
        column = space - 1 - content.rfind(b"\n", 0, space)
        column += self._column if line == self._line else 0
        if len(content) - space > self._limit:
            return too_large(self._limit, line, byte)
        if space == len(content):
            place = f"line {line}, column {column + 1}, byte {byte}"
            return read_fault(
                f"No valid JSON: a value is missing, or there is a comma too much, at {place}.",
                line,
                byte,
            )
        return parse_record(content[space:], line, byte, column=column, torn=torn)

    def _after_list(self) -> Iterator[InputRecord]:
        """After the list nothing may stand but space."""
        while not (rest := self._buffer[self._start :].lstrip(_SPACE)):
            self._position = len(self._buffer)
            self._next_value()
            if not self._fill():
                return
        self._position = len(self._buffer) - len(rest)
        self._next_value()
        yield read_fault(
            f"No valid JSON: the list ends before line {self._line}, byte {self._begin}, and more "
            "follows.",
            self._line,
            self._begin,
        )

    def _cut_off(self) -> Iterator[InputRecord]:
        """The file has ended before the list, or in an object."""
        content = self._buffer[self._start :]
        record = None
        if self._too_large:
            record = too_large(self._limit, self._line, self._begin)
        elif content.strip(_SPACE):
            record = self._record(content, torn=True)
        if record is not None:
            yield record
        if self._in_list and (record is None or record.error is None):
            line, byte = self._line + content.count(b"\n"), self._begin + len(content)
            reason = f"the file ends at line {line}, byte {byte}, without the list's ]"
            yield read_fault(f"No valid JSON: {reason}.", line, byte)

    def _find_end(self) -> bytes | None:
        """Go past the end of the value: its comma, the list's end, or the object's own end."""
        while True:
            pattern = _INSIDE if self._in_string else _OUTSIDE
            match = pattern.search(self._buffer, self._position)
            if match is None:
                # An escape may be cut in two at the buffer's end.
                is_cut = self._in_string and self._buffer.endswith(b"\\", self._position)
                self._position = len(self._buffer) - is_cut
                if not self._fill():
                    return None
                continue
            self._position, mark = match.end(), match[0]
            if self._in_string:
                self._in_string = len(mark) == 2
                if mark == b"\n" and self._ends_row_with_line():
                    self._depth = 0
                    return mark
            elif mark == b'"':
                self._in_string = True
            elif self._is_end(mark):
                return mark

    def _ends_row_with_line(self) -> bool:
        """Whether a string without its quotation mark looks as if its row ended with this line."""
        line = self._buffer[max(self._start, self._position - 80) : self._position]
        return self._in_list and line.rstrip(_SPACE + b",").endswith(b"}")

    def _is_end(self, mark: bytes) -> bool:
        if mark in b"[{":
            self._depth += 1
            return False
        if mark == b",":
            return self._in_list and self._depth == 0
        self._depth -= 1
        is_end = (self._depth < 0 and mark == b"]") if self._in_list else self._depth <= 0
        self._depth = 0 if is_end else max(self._depth, 0)
        return is_end

    def _next_value(self) -> None:
        """The next value begins where the last one was seen to end."""
        self._advance(self._position)
        self._begin += self._lost
        self._line += self._lost_lines
        self._too_large, self._lost, self._lost_lines = False, 0, 0

    def _advance(self, position: int) -> None:
        """Go on to a place in the buffer, and count its lines."""
        newline = self._buffer.rfind(b"\n", self._start, position)
        if newline < 0 and not self._lost_lines:
            self._column += self._lost + position - self._start
        else:
            self._column = position - 1 - max(newline, self._start - 1)
        self._line += self._buffer.count(b"\n", self._start, position)
        self._begin += position - self._start
        self._start = position

    def _fill(self) -> bool:
        """Read on. What is known to be a part of a value that is too large is not kept."""
        if self._position - self._start > self._limit + _READ:
            if not self._too_large:
                value = self._buffer[self._start : self._position]
                self._advance(self._start + len(value) - len(value.lstrip(_SPACE)))
            self._too_large = True
            self._lost += self._position - self._start
            self._lost_lines += self._buffer.count(b"\n", self._start, self._position)
            self._start = self._position
        kept = self._buffer[self._start :]
        content = self._text.file.read(max(_READ, len(kept)))
        self._buffer = kept + content
        self._position -= self._start
        self._start = 0
        return bool(content)
