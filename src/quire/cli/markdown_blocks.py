"""Blocks of Markdown, and the lines that they are on a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich import markdown
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.segment import Segment
from rich.syntax import Syntax

from quire.cli.terminal import harmless

Line = list[Segment]

# HTML would be swallowed; as text it is seen.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").enable("table")
_MAYBE_A_NUMBER = re.compile(r"\s{0,3}\d{1,9}[.)]?")


def split_blocks(text: str) -> tuple[list[str], str]:
    """Split Markdown into the blocks that are finished and the one that may still grow."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map]
    starts = sorted(set(starts))
    lines = text.split("\n")
    if starts and starts[-1] == len(lines) - 1 and _MAYBE_A_NUMBER.fullmatch(lines[-1]):
        starts.pop()  # the list above may go on with it
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
    # Markdown decodes entities and percent signs: what was harmless before may not be any more.
    lines = [
        _without_padding([Segment(harmless(part.text), part.style) for part in line])
        for line in rendered
    ]
    filled = [place for place, line in enumerate(lines) if line]
    return lines[filled[0] : filled[-1] + 1] if filled else []


class _Heading(markdown.Heading):
    """All headings stand at the left."""

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
    """Models write verses and lists of lines; CommonMark would join them."""
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        _keep_line_breaks(token.children or ())


def _without_padding(line: Line) -> Line:
    """Leave out blanks at the end that nobody sees, but who copies the text would get."""
    while line and (line[-1].style is None or line[-1].style.bgcolor is None):
        last = line.pop()
        if kept := last.text.rstrip(" "):
            return [*line, Segment(kept, last.style)]
    return line
