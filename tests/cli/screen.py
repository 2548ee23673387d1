"""A terminal as far as rich uses one: what was written becomes lines that can be looked at."""

from __future__ import annotations

import re

from rich.cells import cell_len

_SEQUENCE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])")
_LINK = re.compile(r"\x1b\]8;(?:id=[\d-]+)?;([!-~]*)\x1b\\")


class Screen:
    """Lines of `width` cells, of which the last `height` can still be drawn over."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.rows: list[list[str]] = [[]]
        self.row = self.column = 0
        self.links: list[str] = []

    def feed(self, text: str) -> None:
        place = 0
        while place < len(text):
            if match := _SEQUENCE.match(text, place):
                self._obey(match[1], match[2])
                place = match.end()
                continue
            if match := _LINK.match(text, place):
                self.links += [match[1]] if match[1] else []
                place = match.end()
                continue
            self._write(text[place])
            place += 1

    @property
    def text(self) -> str:
        """All lines, those that scrolled away too, without blanks at their ends."""
        lines = ["".join(row).rstrip() for row in self.rows]
        while lines and not lines[-1]:
            lines.pop()
        return "\n".join(lines)

    def narrow(self, width: int) -> None:
        """Become narrower: lines are wrapped again, and the cursor stays behind its character."""
        assert self.column >= len(self.rows[self.row]), "the cursor is behind the row's end"
        wrapped: list[list[list[str]]] = [
            [row[start : start + width] for start in range(0, len(row), width)] or [[]]
            for row in self.rows
        ]
        self.width = width
        self.rows = [part for row in wrapped for part in row]
        self.row = sum(map(len, wrapped[: self.row + 1])) - 1
        self.column = len(self.rows[self.row])

    def _obey(self, numbers: str, letter: str) -> None:
        count = int(numbers) if numbers.isdigit() else 1
        if letter == "A":
            self.row = max(self.row - count, len(self.rows) - self.height, 0)
        elif letter == "B":
            self.row = min(self.row + count, len(self.rows) - 1)
        elif letter == "K":
            assert numbers == "2", f"erase {numbers!r}"
            self.rows[self.row] = []
        elif letter == "m" or numbers.startswith("?25"):
            return
        else:
            raise AssertionError(f"an unexpected command: {numbers}{letter}")

    def _write(self, character: str) -> None:
        if character == "\r":
            self.column = 0
        elif character == "\n":
            self._next_row()
        elif character == "\t":
            self.column = min(self.column // 8 * 8 + 8, self.width - 1)
        else:
            assert character >= " ", f"a control character: {character!r}"
            cells = cell_len(character)
            if self.column + cells > self.width:
                self._next_row()
            row = self.rows[self.row]
            row += [" "] * (self.column - len(row))
            row[self.column : self.column + cells] = [character] + [""] * (cells - 1)
            self.column += cells

    def _next_row(self) -> None:
        self.row, self.column = self.row + 1, 0
        if self.row == len(self.rows):
            self.rows.append([])
