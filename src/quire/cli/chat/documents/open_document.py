"""The text of an OpenDocument text (.odt), as LibreOffice writes it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from quire.cli.chat.documents.archive import (
    Archive,
    attribute,
    check_depth,
    child,
    local,
    number,
)
from quire.cli.chat.documents.blocks import MOST_COLUMNS, Blocks, cleaned, link, note
from quire.cli.chat.documents.numbering import LEVELS, LONGEST_LABEL, Counters, written

_WITHOUT_TEXT = frozenset({
    "tracked-changes", "annotation", "hidden-text", "hidden-paragraph", "ruby-text", "note-citation",
    "forms", "sequence-decls",
})  # fmt: skip
_DRAWN = frozenset({
    "frame", "custom-shape", "g", "rect", "ellipse", "circle", "polygon", "path", "line", "polyline",
    "connector", "caption", "control",
})  # fmt: skip
_FORMS = {"a": "lowerLetter", "A": "upperLetter", "i": "lowerRoman", "I": "upperRoman", "": "none"}
_MOST_BLANKS = 1000


class OpenDocumentText:
    """Reads a document once: numbers and notes are counted."""

    def __init__(self, archive: Archive) -> None:
        content = archive.xml("content.xml")
        parts = [archive.xml_if_any("styles.xml"), content]
        styles = [one for part in parts if part is not None for one in part]
        self._lists = {
            attribute(style, "name") or "": _levels(style)
            for group in styles
            for style in group
            if local(style) == "list-style"
        }
        self._hidden = {
            attribute(style, "name")
            for group in styles
            for style in group
            if attribute(child(style, "text-properties"), "display") == "none"
        }
        outline = (one for group in styles for one in group if local(one) == "outline-style")
        self._outline = _levels(next(outline, None))
        self._outlined = Counters()
        self._counters: dict[str, Counters] = {}
        self._notes: list[Element] = []
        self._boxes: list[Element] = []
        self._body = child(content, "body", "text")

    def read(self) -> str:
        """All of its text.

        Raises:
            MediaError: it is too long, or nested too deeply.
        """
        blocks = Blocks()
        if self._body is not None:
            self._read_blocks(self._body, blocks, 0)
        for index, one in enumerate(self._notes):
            within = Blocks()
            self._read_blocks(one, within, 0)
            blocks.add(note(index + 1, within.text()))
        return blocks.text()

    def _read_blocks(self, parent: Element, blocks: Blocks, depth: int) -> None:
        check_depth(depth)
        for one in parent:
            name = local(one)
            if name in ("p", "h"):
                self._read_paragraph(one, blocks, depth)
            elif name == "list":
                self._read_list(one, None, 0, blocks, depth + 1)
            elif name == "table":
                self._read_table(one, blocks, depth + 1)
            elif name not in _WITHOUT_TEXT:  # sections, indexes, frames
                self._read_blocks(one, blocks, depth + 1)

    def _read_paragraph(
        self, element: Element, blocks: Blocks, depth: int, level: int = 0, label: str = ""
    ) -> None:
        text = self._line(element, depth)
        if local(element) == "h":
            outline = number(attribute(element, "outline-level"), 1)
            label = label or self._outline_label(element, outline)
            blocks.heading(outline, f"{label} {text}" if label not in ("", "-") else text)
        elif label:
            blocks.item(level, label, text)
        else:
            blocks.add(text)
        boxes, self._boxes = self._boxes, []
        for box in boxes:
            self._read_blocks(box, blocks, depth + 1)

    def _outline_label(self, heading: Element, level: int) -> str:
        if attribute(heading, "is-list-header") == "true" or level - 1 not in self._outline:
            return ""
        return _label(self._outline, self._outlined, level - 1)

    # --- lists -----------------------------------------------------------------------------------

    def _read_list(
        self, element: Element, style: str | None, level: int, blocks: Blocks, depth: int
    ) -> None:
        check_depth(depth)
        around, style = style, attribute(element, "style-name") or style or ""
        goes_on = attribute(element, "continue-numbering") == "true"
        if style != around and not goes_on and attribute(element, "continue-list") is None:
            self._counters[style] = Counters()
        for one in element:
            if local(one) in ("list-item", "list-header"):
                self._read_item(one, style, min(level, LEVELS - 1), blocks, depth + 1)

    def _read_item(self, item: Element, style: str, level: int, blocks: Blocks, depth: int) -> None:
        counters = self._counters.setdefault(style, Counters())
        start = attribute(item, "start-value")
        is_labelled = local(item) == "list-header"
        for one in item:
            name = local(one)
            if name == "list":
                self._read_list(one, style, level + 1, blocks, depth + 1)
            elif name not in ("p", "h"):
                continue
            elif is_labelled:
                self._read_paragraph(one, blocks, depth)
            else:
                if start is not None:
                    counters.values[level] = number(start, 1) - 1
                label = _label(self._lists.get(style, {}), counters, level)
                self._read_paragraph(one, blocks, depth, level, label)
                is_labelled = True

    # --- what stands in a line -------------------------------------------------------------------

    def _line(self, element: Element, depth: int) -> str:
        line: list[str] = []
        if attribute(element, "style-name") not in self._hidden:
            self._read_inline(element, line, depth)
        return "".join(line)

    def _read_inline(self, parent: Element, line: list[str], depth: int) -> None:
        check_depth(depth)
        _say(line, parent.text)
        for one in parent:
            self._read_within(one, local(one), line, depth + 1)
            _say(line, one.tail)

    def _read_within(self, one: Element, name: str, line: list[str], depth: int) -> None:
        if name == "s":
            blanks = number(attribute(one, "c"), 1)
            line.append(" " * min(max(blanks, 0), _MOST_BLANKS))
        elif name in ("tab", "line-break"):
            line.append("\t" if name == "tab" else "\n")
        elif name == "note":
            body = child(one, "note-body")
            if body is not None:
                self._notes.append(body)
                line.append(f"[^{len(self._notes)}]")
        elif name == "a":
            within: list[str] = []
            self._read_inline(one, within, depth)
            address = attribute(one, "href") or ""
            line.append(link("".join(within), None if address.startswith("#") else address))
        elif name in _DRAWN:
            self._boxes.append(one)
        elif name not in _WITHOUT_TEXT and attribute(one, "style-name") not in self._hidden:
            self._read_inline(one, line, depth)

    # --- tables ----------------------------------------------------------------------------------

    def _read_table(self, table: Element, blocks: Blocks, depth: int) -> None:
        rows: list[list[str]] = []
        for row in _rows(table, depth):
            cells: list[str] = []
            for cell in row:
                if local(cell) in ("table-cell", "covered-table-cell"):
                    within = Blocks(is_cell=True)
                    self._read_blocks(cell, within, depth + 1)
                    times = number(attribute(cell, "number-columns-repeated"), 1)
                    cells += [within.text()] * min(max(times, 1), MOST_COLUMNS)
            rows.append(cells)
        blocks.table(rows)


def _rows(parent: Element, depth: int) -> Iterator[Element]:
    check_depth(depth)
    for one in parent:
        if local(one) == "table-row":
            yield one
        elif local(one) in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _rows(one, depth + 1)


def _levels(style: Element | None) -> dict[int, Element]:
    """The levels of a list's style, from 0 on."""
    found = [] if style is None else [one for one in style if attribute(one, "level") is not None]
    return {number(attribute(one, "level"), 1) - 1: one for one in found}


def _at(levels: dict[int, Element], level: int) -> Element | None:
    """A level; the first one stands for those that are not told."""
    return levels.get(level, levels.get(0))


def _label(levels: dict[int, Element], counters: Counters, level: int) -> str:
    one = _at(levels, level)
    level = min(max(level, 0), LEVELS - 1)
    counters.advance(level, number(attribute(one, "start-value"), 1))
    if one is None or local(one) in ("list-level-style-bullet", "list-level-style-image"):
        return "-"
    shown = number(attribute(one, "display-levels"), 1)
    numbers = [
        written(_value(levels, counters, at), _form(_at(levels, at)))
        for at in range(max(0, level - shown + 1), level + 1)
    ]
    text = ".".join(text for text in numbers if text)
    if not text:
        return ""
    label = f"{attribute(one, 'num-prefix') or ''}{text}{attribute(one, 'num-suffix') or ''}"
    return label[:LONGEST_LABEL].strip()


def _value(levels: dict[int, Element], counters: Counters, level: int) -> int:
    value = counters.values[level]
    return number(attribute(_at(levels, level), "start-value"), 1) if value is None else value


def _form(level: Element | None) -> str:
    form = attribute(level, "num-format") or ""
    return _FORMS.get(form, "decimal")


def _say(line: list[str], text: str | None) -> None:
    """Blanks and line breaks of the file are one blank, and none before a text: others are elements."""
    if text:
        text = re.sub(" +", " ", cleaned(text))
        line.append(text if line else text.lstrip(" "))
