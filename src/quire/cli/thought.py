"""A model's thought, shown dimmed while it streams."""

from __future__ import annotations

import re

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from quire.cli.terminal import Harmless

_LONGEST_HELD = 24
"""Characters of a word that are waited for, to break the line before it; some scripts have no blanks."""


class ThoughtStream:
    """Shows a thought word by word; what stands is never moved. `add` text, then `finish`."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._safe = Harmless()
        self._held = ""
        self._column = 0
        self._began = False

    def add(self, text: str) -> None:
        self._held += self._safe.add(text)
        if not self._began:
            self._held = self._held.lstrip()
            if not self._held:
                return
            self._began = True
            self._print("Thinking:\n")
        # Each part is a word with the blanks behind it; line breaks at the end may be the last.
        *parts, self._held = re.findall(r"\S*\s*", self._held)[:-1] or [""]
        if len(self._held) > _LONGEST_HELD and not self._held[-1].isspace():
            parts.append(self._held)
            self._held = ""
        self._print("".join(map(self._placed, parts)))

    def finish(self) -> None:
        """Print what is left, and a blank line if there was a thought at all."""
        if not self._began:
            return
        self._print(self._placed((self._held + self._safe.flush()).rstrip()) + "\n\n")
        self._held, self._column, self._began = "", 0, False

    def _placed(self, part: str) -> str:
        """The part, after a line break if it would not fit any more."""
        part, width = part.expandtabs(4), self._console.width
        breaks = self._column > 0 and self._column + cell_len(part.rstrip()) > width
        start = 0 if breaks else self._column
        *above, last = part.split("\n")
        self._column = cell_len(last) + (0 if above else start)
        if self._column > width:
            word = part.rstrip(" ")
            if start + cell_len(word) <= width and not above:  # blanks alone go over the edge
                part, self._column = word, width
            else:  # the terminal itself breaks the line
                self._column %= width
        return ("\n" if breaks else "") + part

    def _print(self, text: str) -> None:
        self._console.print(Text(text, style="dim italic"), end="", soft_wrap=True)
