"""The text of a Word document (Office Open XML), as it is read once all changes are accepted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from quire.cli.chat.documents.archive import (
    DEEPEST,
    Archive,
    attribute,
    branch,
    check_depth,
    child,
    local,
    number,
    relations,
)
from quire.cli.chat.documents.blocks import MOST_COLUMNS, Blocks, cleaned, link, note
from quire.cli.chat.documents.word_styles import WordLists, WordStyles, heading_level, is_on

_AROUND = frozenset({"sdt", "sdtContent", "customXml", "smartTag", "ins", "moveTo", "body"})
"""What stands around blocks, rows and cells, and is none itself."""
_WITHOUT_TEXT = frozenset({"del", "moveFrom", "delText", "rPr", "pPr", "sdtPr", "rt", "rubyPr"})
_SIGNS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}
_DRAWN = frozenset({"drawing", "pict", "object"})
_ADDRESS = re.compile(r'\s*HYPERLINK\s+(?:"([^"]*)"|([^\s"\\]\S*))', re.IGNORECASE)


@dataclass
class _Field:
    """A field that is open: its code, then its result from a place of a line on."""

    code: str = ""
    line: list[str] | None = None
    start: int = 0


class WordText:
    """Reads a document once: numbers and notes are counted."""

    def __init__(self, archive: Archive, part: str, document: Element) -> None:
        related = relations(archive, part)
        parts = dict(related.values())
        self._addresses = {one: to for one, (kind, to) in related.items() if kind == "hyperlink"}
        self._styles = WordStyles(archive.xml_if_any(parts.get("styles")))
        self._lists = WordLists(archive.xml_if_any(parts.get("numbering")), self._styles)
        self._notes = {
            kind: _notes(archive.xml_if_any(parts.get(f"{kind}s")))
            for kind in ("footnote", "endnote")
        }
        self._noted: list[Element] = []
        self._fields: list[_Field] = []
        self._boxes: list[Element] = []
        self._is_hidden = False
        self._body = child(document, "body")

    def read(self) -> str:
        """All of its text.

        Raises:
            MediaError: it is too long, or nested too deeply.
        """
        blocks = Blocks()
        if self._body is not None:
            self._read_blocks(self._body, blocks, 0)
        # A note may refer to another.
        for index, one in enumerate(self._noted):
            within = Blocks()
            self._read_blocks(one, within, 0)
            blocks.add(note(index + 1, within.text()))
        return blocks.text()

    def _read_blocks(self, parent: Element, blocks: Blocks, depth: int) -> None:
        line: list[str] = []
        for one in _flat(parent, depth):
            if local(one) == "tbl":
                self._read_table(one, blocks, depth + 1)
            elif local(one) == "p":
                self._read_line(one, line, depth + 1)
                if not _goes_on(one):
                    self._add_paragraph(one, "".join(line), blocks)
                    line = []
                self._read_boxes(blocks, depth + 1)
        blocks.add("".join(line))

    def _read_boxes(self, blocks: Blocks, depth: int) -> None:
        """Text boxes stand behind the paragraph that holds them."""
        boxes, self._boxes = self._boxes, []
        for box in boxes:
            self._read_blocks(box, blocks, depth)

    # --- paragraphs ------------------------------------------------------------------------------

    def _add_paragraph(self, paragraph: Element, text: str, blocks: Blocks) -> None:
        properties = child(paragraph, "pPr")
        style = attribute(child(properties, "pStyle"), "val")
        level, label = self._label(properties, style)
        heading = self._heading(properties, style)
        if heading is not None:
            blocks.heading(heading, f"{label} {text}" if label not in ("", "-") else text)
        elif label:
            blocks.item(level, label, text)
        else:
            blocks.add(text)

    def _heading(self, properties: Element | None, style: str | None) -> int | None:
        outline = attribute(child(properties, "outlineLvl"), "val")
        return self._styles.heading(style) if outline is None else heading_level(outline)

    def _label(self, properties: Element | None, style: str | None) -> tuple[int, str]:
        numbered = child(properties, "numPr")
        list_id = attribute(child(numbered, "numId"), "val")
        level = attribute(child(numbered, "ilvl"), "val")
        by_style = self._styles.list_of(style)
        if list_id is None and by_style is not None:
            name, list_id, told = by_style
            level = level or told or str(self._lists.level_of(list_id, name))
        if list_id is None:
            return 0, ""
        return number(level), self._lists.label(list_id, number(level))

    # --- what stands in a line -------------------------------------------------------------------

    def _read_line(self, paragraph: Element, line: list[str], depth: int) -> None:
        style = attribute(child(paragraph, "pPr", "pStyle"), "val")
        before, self._is_hidden = self._is_hidden, self._styles.is_hidden(style)
        self._read_inline(paragraph, line, depth)
        self._is_hidden = before
        for one in self._fields:  # a code whose end is missing hides no other paragraph
            if one.line is None:
                one.line = line

    def _read_inline(self, parent: Element, line: list[str], depth: int) -> None:
        check_depth(depth)
        for one in parent:
            name = local(one)
            if name == "r":
                self._read_run(one, line, depth + 1)
            elif name == "t":
                self._say(line, cleaned("".join(one.itertext())))
            elif name in _SIGNS:
                self._say(line, _SIGNS[name])
            elif name == "sym":
                self._say(line, _symbol(attribute(one, "char")))
            elif name == "instrText":
                if self._fields:
                    self._fields[-1].code += "".join(one.itertext())
            elif name == "fldChar":
                self._pass_field_sign(attribute(one, "fldCharType"), line)
            elif name in ("footnoteReference", "endnoteReference"):
                self._refer(self._notes[name.removesuffix("Reference")], one, line)
            elif name in ("hyperlink", "fldSimple"):
                self._read_link(one, line, depth + 1)
            elif name in _DRAWN:
                self._find_boxes(one, depth + 1)
            elif name == "AlternateContent":
                self._read_inline(branch(one), line, depth + 1)
            elif name in _MATHS:
                self._read_maths(one, _MATHS[name], line, depth + 1)
            elif name not in _WITHOUT_TEXT:
                self._read_inline(one, line, depth + 1)

    def _read_run(self, run: Element, line: list[str], depth: int) -> None:
        properties = child(run, "rPr")
        hidden = is_on(child(properties, "vanish"))
        style = attribute(child(properties, "rStyle"), "val")
        before = self._is_hidden
        if hidden is not None:
            self._is_hidden = hidden
        elif style is not None:
            self._is_hidden = before or self._styles.is_hidden(style)
        self._read_inline(run, line, depth)
        self._is_hidden = before

    def _say(self, line: list[str], text: str) -> None:
        """Add to a line, unless it is hidden, or part of a field's code."""
        if not self._is_hidden and all(one.line is not None for one in self._fields):
            line.append(text)

    def _pass_field_sign(self, kind: str | None, line: list[str]) -> None:
        if kind == "begin" and len(self._fields) < DEEPEST:
            self._fields.append(_Field())
        elif kind == "separate" and self._fields:
            self._fields[-1].line, self._fields[-1].start = line, len(line)
        elif kind == "end" and self._fields:
            ended = self._fields.pop()
            if ended.line is line:  # else it is of several paragraphs
                text = "".join(line[ended.start :])
                line[ended.start :] = [link(text, _address(ended.code))]

    def _read_link(self, element: Element, line: list[str], depth: int) -> None:
        within: list[str] = []
        self._read_inline(element, within, depth)
        code = attribute(element, "instr")
        address = (
            self._addresses.get(attribute(element, "id") or "") if code is None else _address(code)
        )
        line.append(link("".join(within), address))

    def _refer(self, notes: dict[str, Element], reference: Element, line: list[str]) -> None:
        found = notes.pop(attribute(reference, "id") or "", None)
        if found is not None:
            self._noted.append(found)
            self._say(line, f"[^{len(self._noted)}]")

    def _find_boxes(self, parent: Element, depth: int) -> None:
        check_depth(depth)
        for one in parent:
            if local(one) == "txbxContent":
                self._boxes.append(one)
            else:
                self._find_boxes(
                    branch(one) if local(one) == "AlternateContent" else one, depth + 1
                )

    def _read_maths(self, element: Element, form: str, line: list[str], depth: int) -> None:
        """A formula in one line."""
        for piece in _FORM.findall(form):
            if piece[0].islower():
                part = child(element, piece)
                if part is not None:
                    self._read_inline(part, line, depth)
            else:
                self._say(line, piece)

    # --- tables ----------------------------------------------------------------------------------

    def _read_table(self, table: Element, blocks: Blocks, depth: int) -> None:
        rows: list[list[str]] = []
        for row in _flat(table, depth):
            properties = child(row, "trPr")
            if local(row) == "tr" and child(properties, "del") is None:
                before = number(attribute(child(properties, "gridBefore"), "val"))
                rows.append([""] * min(max(before, 0), MOST_COLUMNS))
                for cell in _flat(row, depth):
                    if local(cell) == "tc":
                        self._read_cell(cell, rows[-1], depth + 1)
        blocks.table(rows)

    def _read_cell(self, cell: Element, row: list[str], depth: int) -> None:
        properties = child(cell, "tcPr")
        merged = child(properties, "vMerge")
        within = Blocks(is_cell=True)
        if merged is None or attribute(merged, "val") == "restart":
            self._read_blocks(cell, within, depth)
        span = number(attribute(child(properties, "gridSpan"), "val"), 1)
        row += [within.text(), *[""] * (min(span, MOST_COLUMNS) - 1)]


_MATHS = {
    "f": "(num)/(den)",
    "sSup": "e^(sup)",
    "sSub": "e_(sub)",
    "sSubSup": "e_(sub)^(sup)",
    "rad": "√(e)",
}
_FORM = re.compile(r"[a-z]+|[^a-z]+")


def _flat(parent: Element, depth: int) -> Iterator[Element]:
    """Children, those of what stands around them too."""
    check_depth(depth)
    for one in parent:
        name = local(one)
        if name == "AlternateContent":
            yield from _flat(branch(one), depth + 1)
        elif name in _AROUND:
            yield from _flat(one, depth + 1)
        else:
            yield one


def _goes_on(paragraph: Element) -> bool:
    """Whether the next paragraph goes on in its line: its end is deleted, or it is a large initial."""
    properties = child(paragraph, "pPr")
    initial = attribute(child(properties, "framePr"), "dropCap")
    return child(properties, "rPr", "del") is not None or initial in ("drop", "margin")


def _notes(root: Element | None) -> dict[str, Element]:
    return {attribute(one, "id") or "": one for one in (() if root is None else root)}


def _address(code: str) -> str | None:
    match = _ADDRESS.match(code)
    return (match[1] or match[2]) if match else None


def _symbol(code: str | None) -> str:
    """A sign of a font; those of symbol fonts have places of their own, and no letters."""
    if code is None or not re.fullmatch("[0-9A-Fa-f]{1,4}", code):
        return ""
    value = int(code, 16)
    return chr(value) if 32 <= value < 0xD800 or 0xF900 <= value < 0xFFFE else ""
