"""Markdown that grows while it is shown.

Finished blocks are printed for good and scroll away; only the growing end is redrawn, and never more
of it than fits the screen, so that nothing flickers and nothing is cut.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import markdown
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.syntax import Syntax

from quire.cli.terminal import Harmless, can_redraw, harmless

Line = list[Segment]

# HTML would be swallowed; as text it is seen.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
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
        self._printed = 0  # lines of the growing block that are printed for good
        self._any_block = False
        self._live: Live | None = None

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
        self._console.print(RenderedLines([*gap, *lines], ended=True), soft_wrap=True)

    def _show(self, lines: list[Line]) -> None:
        live = self._live
        if live is None:
            if not lines or not can_redraw(self._console):
                return
            live = self._live = Live(
                console=self._console, auto_refresh=False, transient=True, vertical_overflow="crop"
            )
            live.start()
        live.update(RenderedLines(lines), refresh=True)

    def _stop_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


# --- blocks, and the lines that they are on a terminal ---------------------------------------------


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into the blocks that are finished and the one that may still grow."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map]
    starts = sorted(set(starts))
    lines = text.split("\n")
    if starts and starts[-1] == len(lines) - 1 and _MAYBE_A_NUMBER.fullmatch(lines[-1]):
        starts.pop()  # "2" may become "2.", the next item of the list above it
    if len(starts) < 2:
        return [], text
    blocks = ["\n".join(lines[start:end]) for start, end in pairwise(starts)]
    return blocks, "\n".join(lines[starts[-1] :])


def render(text: str, console: Console) -> list[Line]:
    """Render one block to lines; nothing in them can command the terminal."""
    content = _Markdown("", code_theme="ansi_dark", hyperlinks=False)
    content.parsed = _PARSER.parse(text)
    _keep_line_breaks(content.parsed)
    rendered = console.render_lines(content, console.options.update(height=None), pad=False)
    # Made harmless only now: Markdown decodes entities and percent signs, which may give controls.
    lines = [
        _without_padding([Segment(harmless(part.text), part.style) for part in line])
        for line in rendered
    ]
    filled = [index for index, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []


class _Heading(markdown.Heading):
    """A heading at the left; rich would centre it."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _CodeBlock(markdown.CodeBlock):
    """Code with nothing around it, so that it can be copied as it is."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True)


class _Markdown(markdown.Markdown):
    elements: ClassVar[dict[str, type[Any]]] = {
        **markdown.Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
    }


def _keep_line_breaks(tokens: Iterable[Token]) -> None:
    """Keep single line breaks, which CommonMark would join: models write verses, and lists of lines."""
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_line_breaks(token.children or ())


def _without_padding(line: Line) -> Line:
    """Leave out blanks at the end: nobody sees them, but whoever copies the text would get them."""
    while line and (line[-1].style is None or line[-1].style.bgcolor is None):
        last = line.pop()
        if kept := last.text.rstrip(" "):
            return [*line, Segment(kept, last.style)]
    return line
