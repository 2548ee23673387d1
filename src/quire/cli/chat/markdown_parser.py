"""The Markdown that answers are read as: CommonMark and tables, of which no word is dropped.

The page reads answers by the same rules (`server/page/js/markdown_rules.js`).
"""

from __future__ import annotations

import re

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock, table
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

_DEEPEST = 16
"""Quotes and lists within each other; markdown-it drops what stands deeper than its own limit."""

_OPENERS = re.compile(r"\\\(|\\\[|\\begin\{([A-Za-z]+\*?)\}")
_DOLLARS = re.compile(
    r"\$\$(?:\\.|[^$\\])+\$\$|\$(?![\s$])(?:\\.|[^$\\])*?(?:\\.|[^$\\\s])\$(?!\d)", re.DOTALL
)
_DISPLAY = re.compile(r"\\\[|\$\$|\\begin\{([A-Za-z]+\*?)\}")
_CLOSERS = {r"\(": r"\)", r"\[": r"\]", "$$": "$$"}


def parse(text: str) -> list[Token]:
    """Markdown as tokens; the text of a formula is one token, `math`."""
    return _PARSER.parse(text)


def code_blocks(text: str) -> list[str]:
    """The content of each block of code, in order."""
    return [token.content for token in parse(text) if token.type in ("fence", "code_block")]


# --- formulas ----------------------------------------------------------------------------------------
#
# Their backslashes are no escapes, their stars and underscores no emphasis, and their lines no lists.


def _math(state: StateInline, silent: bool) -> bool:
    end = _math_end(state.src, state.pos, state.posMax)
    if end is None:
        return False
    if not silent:
        token = state.push("math", "", 0)
        token.content = state.src[state.pos : end]
    state.pos = end
    return True


def _math_end(text: str, start: int, limit: int) -> int | None:
    """Where the formula ends that starts here; one that is not closed (yet) goes on to the end."""
    if text[start] == "$":
        dollars = _DOLLARS.match(text, start, limit)
        return dollars.end() if dollars else None
    if text.startswith((r"\)", r"\]"), start):
        return start + 2  # its beginning may stand in another paragraph
    opener = _OPENERS.match(text, start, limit)
    if opener is None:
        return None
    closer = _closer(opener)
    end = text.find(closer, opener.end(), limit)
    return limit if end < 0 else end + len(closer)


def _closer(opener: re.Match[str]) -> str:
    return _CLOSERS.get(opener[0]) or rf"\end{{{opener[1]}}}"


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A paragraph that begins with a displayed formula: no line of that ends it."""
    if state.is_code_block(start):
        return False
    opener = _DISPLAY.match(_line(state, start))
    if opener is None:
        return False
    if silent:
        return True
    closer, last, at = _closer(opener), start, opener.end()
    while closer not in _line(state, last)[at:]:
        following = last + 1
        if following >= end or state.isEmpty(following):
            break
        if state.sCount[following] < state.blkIndent:
            break
        last, at = following, 0
    _push_paragraph(state, start, last + 1)
    return True


# --- what markdown-it would drop ---------------------------------------------------------------------


def _table(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A table; cells that a row has beyond the header's are added to the row's last cell."""
    first = len(state.tokens)
    if not table(state, start, end, silent):
        return False
    width = sum(token.type == "th_open" for token in state.tokens[first:])
    cells: list[Token] = []
    for token in state.tokens[first:]:
        if token.type == "tr_open":
            cells = []
        elif token.type == "inline":
            cells.append(token)
        elif token.type == "tr_close" and cells[-1].map:
            written = _cells(_line(state, cells[-1].map[0]))
            cells[-1].content = " | ".join([cells[-1].content, *written[width:]])
    return True


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip())
    if cells and not cells[0]:
        cells.pop(0)
    if cells and not cells[-1]:
        cells.pop()
    return [cell.replace("\\|", "|").strip() for cell in cells]


def _too_deep(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """What is nested deeper than anyone reads is plain text."""
    if silent or state.level < _DEEPEST:
        return False
    _push_paragraph(state, start, end)
    return True


# --- the parser --------------------------------------------------------------------------------------


def _line(state: StateBlock, line: int) -> str:
    return state.src[state.bMarks[line] + state.tShift[line] : state.eMarks[line]]


def _push_paragraph(state: StateBlock, start: int, end: int) -> None:
    token = state.push("paragraph_open", "p", 1)
    token.map = [start, end]
    token = state.push("inline", "", 0)
    token.content = state.getLines(start, end, state.blkIndent, False).strip()
    token.map, token.children = [start, end], []
    state.push("paragraph_close", "p", -1)
    state.line = end


class _AsWritten(MarkdownIt):
    """Shows addresses as they were written; percent signs would hide words."""

    def normalizeLink(self, url: str) -> str:
        return url


def _make_parser() -> MarkdownIt:
    # HTML would be swallowed, and so would the definitions of references: as text they are seen.
    parser = _AsWritten("commonmark", {"html": False}).enable(["strikethrough", "table"])
    parser.disable("reference")
    block = parser.block.ruler
    block.at("table", _table, {"alt": ["paragraph"]})
    block.before("table", "math", _math_block, {"alt": ["paragraph", "blockquote", "list"]})
    block.before("math", "too_deep", _too_deep)
    parser.inline.ruler.before("escape", "math", _math)
    return parser


_PARSER = _make_parser()
