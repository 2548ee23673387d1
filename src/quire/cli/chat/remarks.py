"""How quire's own remarks are laid out: wrapped between words, and names with their meaning beside them.

A word that is longer than the terminal is wide is left to the terminal to wrap: a path, above all, is
then copied whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from rich.cells import cell_len

_WORDS = re.compile(r"[ \t]*[^ \t]+")
"""Words with the blanks before them; those at the end of a line show nothing."""


def wrapped_remark(text: str, width: int) -> str:
    """The text with line breaks between words that would not fit any more."""
    return "\n".join(part for line in text.split("\n") for part in _wrapped_line(line, width))


def two_columns(rows: Mapping[str, str], width: int, between: str = "  ") -> str:
    """Names, and what there is to say of each beside them.

    On a narrow terminal it stands below the name, or behind it where a sign is `between` them.
    """
    widest = max(map(cell_len, rows))
    column = widest + cell_len(between)
    is_narrow = width < 2 * column
    indent = 2 if is_narrow else column
    lines: list[str] = []
    for name, text in rows.items():
        told = wrapped_remark(text, width - 1 - indent).split("\n")
        if not is_narrow:
            lines.append(f"{name}{' ' * (widest - cell_len(name))}{between}{told.pop(0)}")
        elif between.strip():
            first, *told = wrapped_remark(f"{name}{between}{text}", width - 1).split("\n")
            lines.append(first)
        else:
            lines.append(name)
        lines += [f"{'':{indent}}{line}" for line in told]
    return "\n".join(lines)


def _wrapped_line(line: str, width: int) -> Iterator[str]:
    built, column = "", 0
    for word in _WORDS.findall(line):
        cells = cell_len(word)
        if column + cells > width and cell_len(word.strip()) <= width:
            if built:
                yield built
            word = word.lstrip()
            built, column = "", 0
            cells = cell_len(word)
        built += word
        column = (column + cells) % max(width, 1) if column + cells > width else column + cells
    yield built
