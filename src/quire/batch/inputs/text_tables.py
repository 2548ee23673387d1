"""Files of plain text: CSV, in which all cells are text, and lines of text."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from quire.batch.inputs.json_text import Line, read_lines
from quire.batch.inputs.records import InputRecord, read_fault, too_large
from quire.batch.inputs.streams import TextBytes
from quire.errors import ConfigError


def read_txt(text: TextBytes, limit: int) -> Iterator[InputRecord]:
    """A row for each line, with the column `text`."""
    for line in read_lines(text.file, text.start, limit):
        if line.content is None:
            yield too_large(limit, line.number, line.byte)
            continue
        content = line.content.removesuffix(b"\r")
        try:
            value = {"text": content.decode("utf-8")}
        except UnicodeDecodeError as error:
            yield _not_utf8(line.number, line.byte + error.start)
            continue
        yield InputRecord(value, line=line.number, byte=line.byte, text_cells=True)
    if text.damage:
        yield _damaged(text)


def read_csv(text: TextBytes, limit: int, path: Path) -> Iterator[InputRecord]:
    """A row for each record after the first, which names the columns.

    Raises:
        ConfigError: the first line names no columns, or one twice.
    """
    csv.field_size_limit(max(csv.field_size_limit(), limit))
    lines = _CsvLines(read_lines(text.file, text.start, limit), limit)
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            break
        except (_RowTooLarge, csv.Error) as error:
            if header is None:
                raise ConfigError(f"{path}: the first line names no columns: {error}.") from None
            if isinstance(error, _RowTooLarge):  # it has ended the reader
                reader = csv.reader(lines, strict=True)
            yield _csv_fault(error, limit, lines)
            continue
        if not cells:  # an empty line
            continue
        if header is None:
            header = _checked_header(cells, path)
        else:
            yield _csv_record(header, cells, lines)
    if text.damage:
        yield _damaged(text)


class _RowTooLarge(Exception):
    """A row of CSV, of one line or of many, is larger than the limit."""

    def __init__(self) -> None:
        super().__init__("it is too long (max_line_bytes)")


class _CsvLines:
    """The lines of one CSV record after the other, and where it begins."""

    def __init__(self, lines: Iterator[Line], limit: int) -> None:
        self._lines, self._limit = lines, limit
        self._size = 0
        self.first, self.byte = 1, 0
        self._is_begun = False

    def begin(self) -> None:
        """The next line begins a record."""
        self._size, self._is_begun = 0, False

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        if not self._is_begun:
            self.first, self.byte, self._is_begun = line.number, line.byte, True
        self._size += len(line.content or b"")
        if line.content is None or self._size > self._limit:
            raise _RowTooLarge
        # Surrogates mark bytes that are no UTF-8, so that the fault stays with its record.
        content = line.content.decode("utf-8", "surrogateescape")
        return f"{content}\n" if line.is_ended else content


def _csv_fault(error: Exception, limit: int, lines: _CsvLines) -> InputRecord:
    if isinstance(error, _RowTooLarge):
        return too_large(limit, lines.first, lines.byte)
    place = f"line {lines.first}, byte {lines.byte}"
    return read_fault(
        f"No valid CSV at {place}: {error}.", lines.first, lines.byte, "invalid_csv_row"
    )


def _checked_header(cells: list[str], path: Path) -> list[str]:
    repeated = sorted({name for name in cells if cells.count(name) > 1})
    if repeated:
        names = ", ".join(map(repr, repeated))
        raise ConfigError(f"{path}: the first line names a column twice: {names}.")
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigError(f"{path}: the first line is not UTF-8.") from None
    return cells


def _csv_record(header: list[str], cells: list[str], lines: _CsvLines) -> InputRecord:
    if len(cells) != len(header):
        return read_fault(
            f"The row at line {lines.first} has {len(cells)} cells, and the first line names "
            f"{len(header)} columns.",
            lines.first,
            lines.byte,
            "invalid_csv_row",
        )
    try:
        "".join(cells).encode("utf-8")
    except UnicodeEncodeError:
        return _not_utf8(lines.first, lines.byte)
    value = dict(zip(header, cells, strict=True))
    return InputRecord(value, line=lines.first, byte=lines.byte, text_cells=True)


def _not_utf8(line: int, byte: int) -> InputRecord:
    return read_fault(f"Not UTF-8 at line {line}, byte {byte}.", line, byte, "invalid_text")


def _damaged(text: TextBytes) -> InputRecord:
    return read_fault(
        f"The compressed file is damaged or cut off here: {text.damage}.", code="damaged_file"
    )
