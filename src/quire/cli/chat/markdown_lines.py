"""Markdown as lines of a terminal, in which every word of it stands, in its order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.syntax import Syntax
from rich.text import Text

from quire.characters import harmless
from quire.cli.chat.colours import CodeTheme
from quire.cli.chat.markdown_parser import parse

Line = list[Segment]

_NARROWEST = 10
"""Columns that indentation leaves for words; what is nested deeper is not indented any further."""
_GAP = "  "
"""Between the columns of a table."""
_IDEOGRAPHS = "\u2e80-\u312f\u3190-\ua4cf\uf900-\ufaff\ufe30-\uff60\U00020000-\U0003ffff"
_PIECES = re.compile(rf"\s+|[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")
"""Blanks, words, and the characters of scripts without blanks: a line may end between any two."""


@dataclass(frozen=True)
class DrawnRow:
    """Lines that belong together: one of a text, or all of a table's row.

    `content` are the characters of the Markdown in them, without blanks. All rows of a text together
    have the same content at any width of the terminal.
    """

    content: str
    lines: tuple[Line, ...]
    prefix: int = 0
    """Characters before the content in each line: bullets, indentation, headings."""
    whole: Line | None = None
    """A line of code as it is, for the terminal itself to wrap: so it is copied whole, tabs and all.
    `lines` are what can be drawn over, folded at the terminal's edge."""

    @property
    def printed(self) -> tuple[Line, ...]:
        """The lines to print for good."""
        return self.lines if self.whole is None else (self.whole,)


@dataclass
class Printed:
    """What was printed of a block, however it was laid out then."""

    content: str = ""
    blanks: int = 0
    """Rows without content behind it."""

    def add(self, rows: Iterable[DrawnRow]) -> None:
        for row in rows:
            self.content += row.content
            self.blanks = 0 if row.content else self.blanks + 1

    def rest(self, rows: Sequence[DrawnRow]) -> Sequence[DrawnRow]:
        """The rows that were not printed yet.

        Where lines end elsewhere than they did, since the window was resized, what was printed of a
        line is blank in it. Where the text itself reads otherwise, since a star has become emphasis
        only later, all from the first difference on is shown again: twice is better than never.
        """
        done = 0
        for index, row in enumerate(rows):
            if done == len(self.content):
                blanks = 0
                for following in rows[index : index + self.blanks]:
                    if following.content:
                        break
                    blanks += 1
                return rows[index + blanks :]
            if self.content.startswith(row.content, done):
                done += len(row.content)
            elif row.content.startswith(self.content[done:]) and len(row.lines) == 1:
                return [_blanked(row, len(self.content) - done), *rows[index + 1 :]]
            else:
                self.content, self.blanks = self.content[:done], 0
                return rows[index:]
        return []


def _blanked(row: DrawnRow, count: int) -> DrawnRow:
    """The row with the first `count` characters of its content overwritten by blanks."""
    line: Line = []
    prefix, left = row.prefix, count
    for text, style, _ in row.lines[0]:
        written = ""
        for character in text:
            if prefix:
                prefix -= 1
            elif left and not character.isspace():
                left -= 1
                character = " " * cell_len(character)
            written += character
        line.append(Segment(written, style))
    return replace(row, content=row.content[count:], lines=(line,))


def render(text: str, console: Console) -> list[DrawnRow]:
    """Render Markdown as wide as the console is; nothing in the rows can command the terminal."""
    renderer = _Renderer(console)
    rows: list[DrawnRow] = []
    for block in _blocks(parse(text)):
        if rows:
            rows.append(DrawnRow("", ([],)))
        rows += renderer.block(block, console.width)
    filled = [index for index, row in enumerate(rows) if any(row.lines)]
    return rows[filled[0] : filled[-1] + 1] if filled else []


def _blocks(tokens: Sequence[Token]) -> Iterator[Sequence[Token]]:
    """The tokens of each block, from its opening to its closing one."""
    depth = start = 0
    for index, token in enumerate(tokens):
        depth += token.nesting
        if depth == 0:
            yield tokens[start : index + 1]
            start = index + 1


class _Renderer:
    def __init__(self, console: Console) -> None:
        self._console = console

    def block(self, tokens: Sequence[Token], width: int) -> list[DrawnRow]:
        first, inner = tokens[0], tokens[1:-1]
        match first.type:
            case "fence" | "code_block":
                return self._code(first, width)
            case "hr":
                return [DrawnRow("", ([Segment("─" * width)],))]
            case "blockquote_open":
                return self._quote(inner, width)
            case "bullet_list_open" | "ordered_list_open":
                return self._list(first, inner, width)
            case "table_open":
                return self._table(inner, width)
            case _:
                text = inline_text(inner[0].children or ())
                if first.type == "heading_open":
                    text.stylize(f"markdown.{first.tag}")
                return self._flow(text, width)

    def _flow(self, text: Text, width: int, heading: int = 0) -> list[DrawnRow]:
        """Text wrapped to rows; its first `heading` characters, blanks aside, are no content."""
        rows: list[DrawnRow] = []
        for line in wrapped(text, width):
            prefix, heading = _skip(line.plain, heading)
            rows.append(DrawnRow(_content(line.plain[prefix:]), (self._segments(line),), prefix))
        return rows

    def _segments(self, text: Text) -> Line:
        text.end = ""
        return _without_padding(text.render(self._console))

    # --- code, quotes, lists

    def _code(self, token: Token, width: int) -> list[DrawnRow]:
        """Code with nothing around it, so that it can be copied; above it stands what it is called."""
        info = harmless(token.info).strip()
        rows = self._flow(_styled(info, "dim"), width)
        if (
            not info
        ):  # a name of ours, which is no content: code is told from text without colours, too
            rows = [DrawnRow("", (self._segments(_styled("code", "dim")),))]
        text = self._highlighted(harmless(token.content).rstrip(), info.partition(" ")[0])
        for line in text.split("\n", allow_blank=True):
            whole = self._segments(line.copy())
            line.expand_tabs(8)  # as terminals do
            folded = [self._segments(part) for part in line.divide(_edges(line.plain, width))]
            rows.append(DrawnRow(_content(line.plain), tuple(folded), whole=whole))
        return rows

    def _highlighted(self, code: str, name: str) -> Text:
        # With any other size of tabs, Pygments would replace them.
        syntax = Syntax(code, name or "text", theme=CodeTheme(self._console), tab_size=0)
        if name in ("", "text", "txt", "plain") or syntax.lexer is None:
            return _styled(code, "markdown.code_block")
        text = syntax.highlight(code)
        text.rstrip()
        if _content(text.plain) == _content(code):
            return text
        return _styled(code, "markdown.code_block")  # the language's lexer has dropped something

    def _quote(self, tokens: Sequence[Token], width: int) -> list[DrawnRow]:
        bar = [Segment("▌ ", self._console.get_style("markdown.block_quote", default="none"))]
        return self._behind(bar, bar, tokens, width)

    def _list(self, first: Token, tokens: Sequence[Token], width: int) -> list[DrawnRow]:
        items = list(_blocks(tokens))
        start = int(first.attrs.get("start", 1))
        digits = len(str(start + len(items)))
        rows: list[DrawnRow] = []
        for number, item in enumerate(items, start):
            if first.type == "bullet_list_open":
                marker = Segment(" • ", self._console.get_style("markdown.item.bullet"))
            else:
                style = self._console.get_style("markdown.item.number")
                marker = Segment(f"{number:>{digits + 1}} ", style)
            space = Segment(" " * len(marker.text))
            rows += self._behind([marker], [space], item[1:-1], width)
        return rows

    def _behind(
        self, marker: Line, space: Line, tokens: Sequence[Token], width: int
    ) -> list[DrawnRow]:
        """Blocks behind a marker in their first line, and behind space in the others."""
        taken = sum(len(segment.text) for segment in marker)
        room = width - taken
        if room < _NARROWEST:
            room, taken = width, 0
        blocks = [self.block(block, room) for block in _blocks(tokens)]
        rows = [row for block in blocks for row in block] or [DrawnRow("", ([],))]
        if not taken:
            return [DrawnRow("", (_without_padding(marker),)), *rows]
        moved: list[DrawnRow] = []
        lead = marker
        for row in rows:
            lines: list[Line] = []
            first = lead
            for line in row.lines:
                lines.append(_without_padding([*lead, *line]))
                lead = space
            whole = None if row.whole is None else _without_padding([*first, *row.whole])
            moved.append(replace(row, lines=tuple(lines), prefix=row.prefix + taken, whole=whole))
        return moved

    # --- tables

    def _table(self, tokens: Sequence[Token], width: int) -> list[DrawnRow]:
        sides = [str(token.attrs.get("style", "")) for token in tokens if token.type == "th_open"]
        cells = [inline_text(token.children or ()) for token in tokens if token.type == "inline"]
        for cell in cells:
            cell.expand_tabs(4)
        table = [cells[start : start + len(sides)] for start in range(0, len(cells), len(sides))]
        for heading in table[0]:
            heading.stylize("markdown.table.header")
        widths = _column_widths(table, width - len(_GAP) * (len(sides) - 1))
        if widths is None:
            return self._records(table, width)
        rows = [self._table_row(row, widths, sides) for row in table]
        rule = [Segment("─" * (sum(widths) + len(_GAP) * (len(widths) - 1)))]
        rows[0] = replace(rows[0], lines=(*rows[0].lines, rule))
        if any(len(row.lines) > 1 for row in rows[1:]):  # where a row ends must be seen
            rows[1:-1] = [_with_blank(row) for row in rows[1:-1]]
        return rows

    def _table_row(
        self, cells: Sequence[Text], widths: Sequence[int], sides: Sequence[str]
    ) -> DrawnRow:
        folded = [wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
        lines: list[Line] = []
        for pieces in zip_longest(*folded):
            line: Line = []
            for piece, width, side in zip(pieces, widths, sides, strict=True):
                written = self._segments(piece) if piece else []
                free = max(width - sum(segment.cell_length for segment in written), 0)
                before = free if "right" in side else free // 2 if "center" in side else 0
                line += [Segment(" " * before), *written, Segment(" " * (free - before) + _GAP)]
            lines.append(_without_padding(line))
        return DrawnRow(_contents(cells), tuple(lines))

    def _records(self, table: Sequence[Sequence[Text]], width: int) -> list[DrawnRow]:
        """A table that does not fit: below its headings, each row as lines of a heading and a cell."""
        headings, *records = table
        titles = self._flow(Text(" · ").join(headings), width)
        rule = [Segment("─" * width)]
        rows = [DrawnRow(_contents(headings), (*(row.lines[0] for row in titles), rule))]
        for number, record in enumerate(records, 1):
            for heading, cell in zip(headings, record, strict=True):
                if not cell.plain.strip():
                    continue
                named = Text.assemble(heading, ": ") if heading.plain.strip() else Text()
                named_length = len(_content(named.plain))
                rows += self._flow(named.append_text(cell), width, named_length)
            if number < len(records):
                rows[-1] = _with_blank(rows[-1])
        return rows


def _column_widths(table: Sequence[Sequence[Text]], room: int) -> list[int] | None:
    """The columns' widths; None where a word would have to be broken."""
    columns = list(zip(*table, strict=True))
    wanted = [max(_widest(cell.plain.split("\n")) for cell in column) for column in columns]
    if sum(wanted) <= room:
        return wanted
    least = [max(_widest(_PIECES.findall(cell.plain)) for cell in column) for column in columns]
    spare, lacking = room - sum(least), sum(wanted) - sum(least)
    if spare < 0:
        return None
    return [low + spare * (high - low) // lacking for low, high in zip(least, wanted, strict=True)]


def _widest(pieces: Sequence[str]) -> int:
    return max(map(cell_len, pieces), default=0)


def _with_blank(row: DrawnRow) -> DrawnRow:
    return replace(row, lines=(*row.lines, []))


# --- text within blocks ------------------------------------------------------------------------------


def inline_text(tokens: Iterable[Token]) -> Text:
    """A paragraph's text with its styles; the addresses of links and images stand behind them."""
    text = Text()
    opened: list[tuple[int, Token]] = []
    for token in tokens:
        if token.type in ("softbreak", "hardbreak"):  # models write verses, and lists of lines
            text.append("\n")
        elif token.type == "image":
            label = inline_text(token.children or ()).plain.strip()
            text.append(label or "image", "markdown.link")
            _append_address(text, token, "src")
        elif token.nesting == 1:
            opened.append((len(text), token))
        elif token.nesting == -1:
            start, opening = opened.pop()
            is_link = opening.type == "link_open"
            text.stylize("markdown.link" if is_link else f"markdown.{opening.tag}", start)
            if is_link and opening.info != "auto":
                _append_address(text, opening, "href")
            if is_link and (address := safe_address(str(opening.attrs.get("href", "")))):
                text.stylize(Style(link=address), start)
        else:
            text.append(harmless(token.content), "markdown.code" if token.tag == "code" else None)
    return text


_ADDRESS = re.compile(
    r"https?://[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?(?:[/?#][!-~]*)?", re.IGNORECASE
)
_LONGEST_ADDRESS = 2000


def safe_address(address: str) -> str | None:
    """The address, if a terminal may be told to open it (OSC 8).

    Only the web's, of printable ASCII: nothing in it ends the command that it stands in, no other
    program is opened, and the host is neither behind a name and password nor of letters that look like
    others.
    """
    if len(address) > _LONGEST_ADDRESS or not _ADDRESS.fullmatch(address):
        return None
    return address


def _append_address(text: Text, token: Token, name: str) -> None:
    address, title = (harmless(str(token.attrs.get(key, ""))) for key in (name, "title"))
    told = " ".join(filter(None, (address, f'"{title}"' if title else "")))
    if told:
        text.append(" (").append(told, "markdown.link_url").append(")")


def wrapped(text: Text, width: int) -> list[Text]:
    """Text as lines of at most `width` columns, of which only blanks at a line's end are lost."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        line.expand_tabs(4)
        for part in line.divide(_breaks(line.plain, max(width, 1))):
            part.rstrip()
            lines.append(part)
    return lines


def _breaks(line: str, width: int) -> Iterator[int]:
    """Where the line is broken: before a piece that does not fit, and within those that never do."""
    column = 0
    for piece in _PIECES.finditer(line):
        cells = cell_len(piece[0])
        if piece[0].isspace():
            column += cells
            continue
        if column and column + cells > width:
            yield piece.start()
            column = 0
        if cells <= width:
            column += cells
            continue
        for place, character in enumerate(piece[0], piece.start()):
            if column and column + cell_len(character) > width:
                yield place
                column = 0
            column += cell_len(character)


def _styled(text: str, style: str) -> Text:
    """A text with a span of this style: rich forgets the style of a text without spans."""
    return Text.assemble((text, style))


def _edges(line: str, width: int) -> Iterator[int]:
    """Where a terminal wraps the line: in the middle of a word, too."""
    column = 0
    for place, character in enumerate(line):
        cells = cell_len(character)
        if column and column + cells > max(width, 1):
            yield place
            column = 0
        column += cells


def _content(text: str) -> str:
    return "".join(text.split())


def _contents(cells: Iterable[Text]) -> str:
    return "".join(_content(cell.plain) for cell in cells)


def _skip(text: str, count: int) -> tuple[int, int]:
    """Where `count` characters of the text end, blanks aside; and how many it did not have."""
    if not count:
        return 0, 0
    for index, character in enumerate(text, 1):
        count -= not character.isspace()
        if not count:
            return index, 0
    return len(text), count


def _without_padding(line: Iterable[Segment]) -> Line:
    """Leave out blanks at the end: nobody sees them, but whoever copies the text would get them."""
    kept = list(line)
    while kept and (kept[-1].style is None or kept[-1].style.bgcolor is None):
        last = kept.pop()
        if text := last.text.rstrip(" "):
            return [*kept, Segment(text, last.style)]
    return kept
