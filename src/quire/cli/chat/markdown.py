"""Markdown that grows while it is shown.

Finished blocks are printed for good and scroll away; only the growing end is redrawn, and never more
of it than fits the screen, so that nothing flickers and nothing is cut.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from quire.cli.chat.markdown_lines import DrawnRow, Line, Printed, render
from quire.cli.chat.markdown_parser import parse
from quire.cli.signals import Suspension
from quire.cli.terminal import Harmless, can_redraw

_MAYBE_A_NUMBER = re.compile(r"\s{0,3}\d{1,9}[.)]?")


class RenderedLines:
    """Lines that are rendered already; where `ended`, a line break follows the last one too."""

    def __init__(self, lines: Iterable[Line], *, ended: bool = False) -> None:
        self.lines = list(lines)
        self.ended = ended

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for index, line in enumerate(self.lines):
            if index:
                yield Segment.line()
            yield from line
        if self.ended:
            yield Segment.line()


class MarkdownStream:
    """Shows Markdown on a terminal while it arrives. `add` text, then `finish`."""

    def __init__(
        self,
        console: Console,
        *,
        interval: float = 1 / 15,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Draw at most every `interval` seconds."""
        self._console = console
        self._interval = interval
        self._clock = clock
        self._next_draw = 0.0
        self._safe = Harmless()
        self._pending = ""
        self._printed = Printed()  # what of the growing block is printed for good
        self._any_block = False
        self._live: Live | None = None
        self._drawn: list[int] = []  # the columns of each line that can be drawn over
        self._drawn_width = 0  # of the terminal, then
        self._suspension = Suspension()

    def add(self, text: str) -> None:
        """Take the next text, and draw it if the last drawing is long enough ago."""
        self._pending += self._safe.add(text)
        now = self._clock()
        if now >= self._next_draw:
            self._draw()
            # A long block takes long to draw: at most a fifth of the time goes into drawing, so that
            # the terminal never slows the model down.
            self._next_draw = max(now + self._interval, now + 5 * (self._clock() - now))

    def finish(self) -> None:
        """Print what is left, and leave the terminal as it was."""
        self._pending += self._safe.flush()
        try:
            blocks, tail = split_blocks(self._pending)
            for block in [*blocks, tail]:
                self._print_block(block)
        finally:
            self._pending = ""
            self._stop_live()

    def _draw(self) -> None:
        blocks, self._pending = split_blocks(self._pending)
        for block in blocks:
            self._print_block(block)
        rows = self._printed.rest(render(self._pending, self._console))
        room = max(self._console.size.height - 3, 1)
        height, over = sum(len(row.lines) for row in rows), 0
        while height > room and over < len(rows) - 1:  # the last row still grows
            height -= len(rows[over].lines)
            over += 1
        self._print_rows(rows[:over])
        lines = _lines(rows[over:])[-room:]
        self._show([*self._gap(lines), *lines])

    def _print_block(self, block: str) -> None:
        rows = render(block, self._console)
        self._print_rows(self._printed.rest(rows))
        self._any_block = self._any_block or bool(rows)
        self._printed = Printed()

    def _print_rows(self, rows: Sequence[DrawnRow]) -> None:
        if not rows:
            return
        self._show([])
        lines = [line for row in rows for line in row.printed]
        self._console.print(RenderedLines([*self._gap(lines), *lines], ended=True), soft_wrap=True)
        self._printed.add(rows)

    def _gap(self, lines: Sequence[Line]) -> list[Line]:
        """A blank line before a block's first."""
        return [[]] if lines and self._any_block and self._printed == Printed() else []

    def _show(self, lines: list[Line]) -> None:
        live = self._live
        if live is None:
            if not lines or not can_redraw(self._console):
                return
            live = self._live = Live(
                console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            live.start()
        self._begin_below_others()
        self._go_up_what_was_wrapped()
        live.update(RenderedLines(lines), refresh=True)
        self._drawn = [Segment.get_line_length(line) for line in lines]
        self._drawn_width = self._console.width

    def _begin_below_others(self) -> None:
        """After a suspension leave what others have written: what is drawn begins on this line anew.

        rich goes up as many rows as it has drawn; so that many are put between.
        """
        if self._suspension.has_been():
            self._console.file.write("\n" * (len(self._drawn) - 1))
            self._console.show_cursor(False)
            self._drawn_width = self._console.width

    def _go_up_what_was_wrapped(self) -> None:
        """Erase the rows by which the lines that stand have grown, since a narrower terminal wraps them.

        rich goes up as many rows as it has drawn.
        """
        width = self._console.width
        if width >= self._drawn_width or not _wraps_again():
            return
        more = sum((columns - 1) // width for columns in self._drawn if columns)
        erase = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
        self._console.control(Control(ControlType.CARRIAGE_RETURN, *erase * more))

    def _stop_live(self) -> None:
        if self._live is not None:
            self._begin_below_others()
            self._live.stop()
            self._live = None


def _wraps_again() -> bool:
    """Whether the terminal wraps what stands in it when it becomes narrower; all but a few old ones do."""
    term = os.environ.get("TERM", "")
    is_screen = term.startswith("screen") and "TMUX" not in os.environ
    return "XTERM_VERSION" not in os.environ and not is_screen and term != "linux"


def _lines(rows: Iterable[DrawnRow]) -> list[Line]:
    return [line for row in rows for line in row.lines]


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into the blocks that are finished and the one that may still grow."""
    starts = [token.map[0] for token in parse(text) if token.level == 0 and token.map]
    starts = sorted(set(starts))
    lines = text.split("\n")
    if starts and starts[-1] == len(lines) - 1 and _MAYBE_A_NUMBER.fullmatch(lines[-1]):
        starts.pop()  # "2" may become "2.", the next item of the list above it
    if len(starts) < 2:
        return [], text
    blocks = ["\n".join(lines[start:end]) for start, end in pairwise(starts)]
    return blocks, "\n".join(lines[starts[-1] :])
