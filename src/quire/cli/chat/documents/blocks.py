"""The text of a document, block by block, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from quire.errors import MediaError

MOST_TEXT = 5_000_000
"""Characters of a document."""
MOST_COLUMNS = 63
"""Columns that a cell may take: Word's own limit."""
_MOST_LEVEL = 6
_UNSEEN = re.compile("[\x7f-\x9f\ufeff]")
_BLANK = re.compile("[\t\n\r\u2028\u2029]")


def cleaned(text: str) -> str:
    """Text as it stands in a file, whose tabs and line breaks are elements of their own."""
    return _BLANK.sub(" ", _UNSEEN.sub("", text))


class Blocks:
    """Headings, paragraphs, items of lists and tables, in their order.

    `is_cell`: they stand in a table, which can hold no other.
    """

    def __init__(self, *, is_cell: bool = False) -> None:
        self._is_cell = is_cell
        self._blocks: list[tuple[str, bool]] = []
        self._length = 0

    def add(self, text: str, *, is_item: bool = False) -> None:
        """Add a block, unless it is blank; items of lists stand close together.

        Raises:
            MediaError: the document is too long.
        """
        text = _without_blank_ends(text)
        if not text:
            return
        self._length += len(text)
        if self._length > MOST_TEXT:
            raise too_long()
        self._blocks.append((text, is_item))

    def heading(self, level: int, text: str) -> None:
        """Add a heading, in one line."""
        if text.strip():
            self.add(f"{'#' * min(max(level, 1), _MOST_LEVEL)} {' '.join(text.split())}")

    def item(self, level: int, label: str, text: str) -> None:
        """Add an item of a list; its further lines stand below its text."""
        if text.strip():
            indent = "  " * min(max(level, 0), 9)
            lines = f"\n{indent}{' ' * (len(label) + 1)}"
            self.add(f"{indent}{label} {lines.join(text.strip().split(chr(10)))}", is_item=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Add a table; one of a single column is a frame around its text."""
        if sum(len(cell) for row in rows for cell in row) > MOST_TEXT:
            raise too_long()
        rows = [row for row in rows if any(cell.strip() for cell in row)]
        width = max(map(len, rows), default=0)
        if width < 2 or self._is_cell:
            for row in rows:
                self.add(" / ".join(cell.strip() for cell in row))
        else:
            head = [*rows[0], *[""] * (width - len(rows[0]))]
            self.add("\n".join(map(_row, [head, ["---"] * width, *rows[1:]])))

    def text(self) -> str:
        """All blocks."""
        pieces: list[str] = []
        was_item = False
        for text, is_item in self._blocks:
            if pieces:
                pieces.append("\n" if is_item and was_item else "\n\n")
            pieces.append(text)
            was_item = is_item
        return "".join(pieces)


def too_long() -> MediaError:
    """The error of a document that has more text than is read."""
    return MediaError(f"it has more than {MOST_TEXT:,} characters")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return re.sub(r"\n+ *", "<br>", text.strip().replace("|", "\\|"))


def _without_blank_ends(text: str) -> str:
    """Without blanks at the ends of lines, and blank lines around."""
    lines = [line.rstrip() for line in text.split("\n")]
    written = [at for at, line in enumerate(lines) if line]
    return "\n".join(lines[written[0] : written[-1] + 1]) if written else ""


def link(text: str, address: str | None) -> str:
    """A link's text with its address, where the text is not the address."""
    if (
        not address
        or not text.strip()
        or text.strip() in (address, address.removeprefix("mailto:"))
    ):
        return text
    return f"[{text}]({address})"


def note(mark: int, text: str) -> str:
    """A footnote's text."""
    lines = "\n    ".join(text.strip().split("\n"))
    return f"[^{mark}]: {lines}"
