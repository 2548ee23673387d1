"""The cells of a workbook (.xlsx): a sheet's rows are lines, with tabs between the cells."""

from __future__ import annotations

import math
import re
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Context
from xml.etree.ElementTree import Element

from quire.cli.chat.documents.archive import (
    DAMAGED,
    Archive,
    attribute,
    child,
    local,
    number,
    reference,
    relations,
)
from quire.cli.chat.documents.blocks import Blocks, cleaned, too_long
from quire.errors import MediaError

_MOST_COLUMNS = 16_384
_MOST_SEPARATORS = 5_000_000
_REFERENCE = re.compile(r"([A-Z]{1,3})[0-9]*")
_VALUE = re.compile(r"[+-]?[0-9]{1,20}(\.[0-9]{1,20})?(E[+-]?[0-9]{1,3})?", re.IGNORECASE)
_LITERAL = re.compile(r'"[^"]*"|\\.|\[[^\]]*\]')
_ELAPSED = re.compile(r"\[[hms]+\]", re.IGNORECASE)
_DATES = frozenset({*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)})
"""Formats of dates and times that Excel has of its own."""
_LAST_DAY = 2_958_466
_SECONDS = 86_400
_SHOWN = Context(prec=15, rounding=ROUND_HALF_UP)


def sheets_text(archive: Archive, part: str, workbook: Element) -> str:
    """The text of all sheets that are not hidden.

    Raises:
        MediaError: it is damaged, or too long.
    """
    blocks = Blocks()
    book = _Workbook(archive, part, workbook)
    sheets = child(workbook, "sheets")
    for one in () if sheets is None else sheets:
        root = book.sheet(one)
        if root is not None:
            blocks.heading(1, attribute(one, "name") or "")
            blocks.add(_lines(book.rows(root)))
    return blocks.text()


class _Workbook:
    """What the sheets of a workbook share."""

    def __init__(self, archive: Archive, part: str, workbook: Element) -> None:
        self._archive = archive
        self._related = relations(archive, part)
        parts = dict(self._related.values())
        strings = archive.xml_if_any(parts.get("sharedStrings"))
        self._strings = [_string(one) for one in (() if strings is None else strings)]
        self._dates = _date_styles(archive.xml_if_any(parts.get("styles")))
        since_1904 = attribute(child(workbook, "workbookPr"), "date1904") in ("1", "true")
        self._shift = 1462 if since_1904 else 0

    def sheet(self, entry: Element) -> Element | None:
        """A sheet's root element; None where it is hidden, or no sheet of cells."""
        if attribute(entry, "state") in ("hidden", "veryHidden"):
            return None
        kind, target = self._related.get(reference(entry) or "", ("", ""))
        return self._archive.xml_if_any(target) if kind == "worksheet" else None

    def rows(self, sheet: Element) -> list[dict[int, str]]:
        """The cells that are not empty, by columns, of each row that has any."""
        data = child(sheet, "sheetData")
        rows: list[dict[int, str]] = []
        for row in () if data is None else data:
            cells: dict[int, str] = {}
            column = -1
            for cell in row:
                column = _column(attribute(cell, "r"), column + 1)
                text = self._text(cell)
                if text.strip():
                    cells[column] = text.strip()
            if cells:
                rows.append(cells)
        return rows

    def _text(self, cell: Element) -> str:
        kind = attribute(cell, "t")
        if kind == "inlineStr":
            return _string(child(cell, "is"))
        found = child(cell, "v")
        value = "" if found is None else "".join(found.itertext())
        if kind == "s":
            index = number(value, -1)
            return self._strings[index] if 0 <= index < len(self._strings) else ""
        if kind == "b":
            return "TRUE" if value == "1" else "FALSE"
        if kind in (None, "n") and _VALUE.fullmatch(value):
            is_date = number(attribute(cell, "s")) in self._dates
            return _date(float(value), self._shift) or value if is_date else _number(value)
        return cleaned(value)


def _lines(rows: list[dict[int, str]]) -> str:
    first = min((min(row) for row in rows), default=0)
    if sum(max(row) - first for row in rows) > _MOST_SEPARATORS:
        raise too_long()
    return "\n".join(
        "\t".join(row.get(at, "") for at in range(first, max(row) + 1)) for row in rows
    )


def _column(name: str | None, default: int) -> int:
    """A cell's column, from 0 on; without a name it is the next one."""
    match = _REFERENCE.fullmatch(name or "")
    column = default
    if match:
        column = -1
        for letter in match[1]:
            column = (column + 1) * 26 + ord(letter) - ord("A")
    if column >= _MOST_COLUMNS:
        raise MediaError(DAMAGED)
    return column


def _string(element: Element | None) -> str:
    """A text with its runs, without what tells how it is pronounced."""
    if element is None:
        return ""
    runs = [child(one, "t") if local(one) == "r" else one for one in element]
    texts = ["".join(one.itertext()) for one in runs if one is not None and local(one) == "t"]
    return cleaned("".join(texts).replace("_x000D_", ""))


def _date_styles(styles: Element | None) -> frozenset[int]:
    """The cells' styles that show dates or times."""
    formats = child(styles, "numFmts")
    dates = set(_DATES)
    for one in () if formats is None else formats:
        code = (attribute(one, "formatCode") or "")[:255]
        if not _ELAPSED.search(code) and re.search(
            "[ymdhs]", _LITERAL.sub("", code), re.IGNORECASE
        ):
            dates.add(number(attribute(one, "numFmtId")))
    cells = child(styles, "cellXfs")
    found = [] if cells is None else [number(attribute(one, "numFmtId")) for one in cells]
    return frozenset(at for at, form in enumerate(found) if form in dates)


def _date(value: float, shift: int) -> str | None:
    """A day and a time, which Excel counts from the last day of 1899 on; None if it is none."""
    value += shift
    if not 0 <= value < _LAST_DAY:
        return None
    days = math.floor(value)
    seconds = math.floor((value - days) * _SECONDS + 0.5)
    time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    if days == 0:
        return time
    # Excel has a 29th of February 1900.
    day = date(1899, 12, 30 if days > 60 else 31) + timedelta(days)
    return f"{day.isoformat()} {time}" if seconds else day.isoformat()


def _number(text: str) -> str:
    """A number with the 15 digits that Excel shows of it, and without an exponent."""
    value = float(text)
    is_short = len(text) <= 15 and "e" not in text.lower()
    if is_short or not 1e-6 <= abs(value) < 1e15:
        return text
    return f"{_SHOWN.create_decimal_from_float(value).normalize():f}"
