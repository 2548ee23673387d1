"""Markdown that grows while it is shown.

Finished blocks are printed for good and scroll away; only the growing end is redrawn, and never more
of it than fits the screen, so that nothing flickers and nothing is cut.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.segment import Segment

from quire.cli.markdown_blocks import Line, render, split_blocks
from quire.cli.terminal import Harmless, can_redraw


class Lines:
    """Lines that are rendered already. `ended`: the last one ends with a line break too."""

    def __init__(self, lines: Iterable[Line], *, ended: bool = False) -> None:
        self.lines = list(lines)
        self.ended = ended

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for place, line in enumerate(self.lines):
            if place:
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
        """`interval`: seconds between two drawings at least."""
        self._console = console
        self._interval = interval
        self._clock = clock
        self._next_draw = 0.0
        self._safe = Harmless()
        self._pending = ""
        self._printed = 0  # lines of the growing block that are printed for good
        self._any_block = False
        self._live: Live | None = None

    def add(self, text: str) -> None:
        self._pending += self._safe.add(text)
        now = self._clock()
        if now >= self._next_draw:
            self._draw()
            # Drawing must not take more than a fifth of the time, however long the block.
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
        lines = render(self._pending, self._console)[self._printed :]
        room = max(self._console.size.height - 3, 1)
        if len(lines) > room:
            over = len(lines) - room
            self._print_lines(lines[:over])
            self._printed += over
            lines = lines[over:]
        gap: list[Line] = [[]] if self._any_block and not self._printed and lines else []
        self._show([*gap, *lines])

    def _print_block(self, block: str) -> None:
        lines = render(block, self._console)[self._printed :]
        self._print_lines(lines)
        self._any_block = self._any_block or bool(lines) or self._printed > 0
        self._printed = 0

    def _print_lines(self, lines: list[Line]) -> None:
        if not lines:
            return
        self._show([])
        gap: list[Line] = [[]] if self._any_block and not self._printed else []
        self._console.print(Lines([*gap, *lines], ended=True), soft_wrap=True)

    def _show(self, lines: list[Line]) -> None:
        live = self._live
        if live is None:
            if not lines or not can_redraw(self._console):
                return
            live = self._live = Live(
                console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            live.start()
        live.update(Lines(lines), refresh=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
