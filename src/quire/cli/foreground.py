"""What is drawn again and again, while this program is the one that has the terminal.

A program that was started with `&`, or goes on with `bg`, shares the terminal with a shell: a line that is
drawn over would be drawn over the shell's.
"""

from __future__ import annotations

import os
from io import StringIO
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from quire.characters import harmless

_FRAMES = 12.5  # a second


def is_in_foreground(stream: IO[str]) -> bool:
    """Whether this program is the one that has the terminal that `stream` writes to."""
    if not hasattr(os, "tcgetpgrp"):  # Windows knows no background
        return True
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal, or one that was closed
        return True


class ForegroundLive(Live):
    """A live display that writes nothing while its program is in the background.

    It begins with the first `start` in the foreground: whoever updates it calls `start` too.
    """

    def start(self, refresh: bool = False) -> None:
        """Begin to draw, where that has not begun yet and nobody else has the terminal."""
        if is_in_foreground(self.console.file):
            super().start(refresh)

    def refresh(self) -> None:
        """Draw it anew."""
        if is_in_foreground(self.console.file):
            super().refresh()

    def stop(self) -> None:
        """End it, and take it away where it was drawn."""
        file = self.console.file
        if is_in_foreground(file):
            super().stop()
            return
        self.console.file = StringIO()
        try:
            super().stop()
        finally:
            self.console.file = file


class SpinningLine(ForegroundLive):
    """One line of text behind a sign that turns; it leaves no trace."""

    def __init__(self, console: Console) -> None:
        self._spinner = Spinner("dots", style="status.spinner")
        super().__init__(self._spinner, console=console, transient=True, refresh_per_second=_FRAMES)

    def tell(self, text: str) -> None:
        """Show another text."""
        self._spinner.update(text=Text(harmless(text)))
        self.start()
