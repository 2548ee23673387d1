"""The text of a presentation (.pptx), slide by slide, with the speaker's notes."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from xml.etree.ElementTree import Element

from quire.cli.chat.documents.archive import (
    Archive,
    attribute,
    branch,
    check_depth,
    child,
    local,
    number,
    reference,
    relations,
)
from quire.cli.chat.documents.blocks import Blocks, cleaned, link

_TITLES = ("title", "ctrTitle")
_BESIDE = ("sldNum", "dt", "ftr", "hdr", "sldImg")
"""Places for what is on every slide."""
_LISTED = (None, "body", "obj")
"""Places whose paragraphs are items unless they say otherwise."""


def slides_text(archive: Archive, part: str, presentation: Element) -> str:
    """The text of all slides.

    Raises:
        MediaError: it is too long, or nested too deeply.
    """
    blocks = Blocks()
    related = relations(archive, part)
    slides = child(presentation, "sldIdLst")
    for at, one in enumerate([] if slides is None else slides):
        _, target = related.get(reference(one) or "", ("", ""))
        if target in archive.names:
            _Slide(archive, target).read(at + 1, blocks)
    return blocks.text()


class _Slide:
    """One slide, with what is said to it."""

    def __init__(self, archive: Archive, part: str) -> None:
        self._shapes = list(_shapes(archive.xml(part), 0))
        self._related = relations(archive, part)
        notes = next((to for kind, to in self._related.values() if kind == "notesSlide"), None)
        noted = archive.xml_if_any(notes)
        self._notes = [] if noted is None else list(_shapes(noted, 0))
        self._blocks = Blocks()

    def read(self, at: int, blocks: Blocks) -> None:
        """Add the text of the slide, which is the one of this number; nothing where it has none."""
        title = " ".join(self._lines(self._shapes, _TITLES)).strip()
        for shape in self._shapes:
            if local(shape) == "tbl":
                self._read_table(shape)
            elif _place(shape) not in (*_TITLES, *_BESIDE):
                self._read_shape(shape)
        lines = self._lines(self._notes, ("body",))
        if any(line.strip() for line in lines):
            self._blocks.add("\n".join(["Notes:", *lines]))
        text = self._blocks.text()
        if title or text:
            blocks.heading(1, f"Slide {at}: {title}" if title else f"Slide {at}")
            blocks.add(text)

    def _lines(self, shapes: Iterable[Element], places: Container[str | None]) -> list[str]:
        wanted = (shape for shape in shapes if _place(shape) in places)
        return [self._line(paragraph) for shape in wanted for paragraph in _paragraphs(shape)]

    def _read_shape(self, shape: Element) -> None:
        is_list = child(shape, "nvSpPr", "nvPr", "ph") is not None and _place(shape) in _LISTED
        for paragraph in _paragraphs(shape):
            properties = child(paragraph, "pPr")
            signs = [local(one) for one in properties] if properties is not None else []
            is_item = "buChar" in signs or "buAutoNum" in signs
            if is_item or (is_list and "buNone" not in signs):
                self._blocks.item(number(attribute(properties, "lvl")), "-", self._line(paragraph))
            else:
                self._blocks.add(self._line(paragraph))

    def _read_table(self, table: Element) -> None:
        self._blocks.table(
            [
                [self._cell(cell) for cell in row if local(cell) == "tc"]
                for row in table
                if local(row) == "tr"
            ]
        )

    def _cell(self, cell: Element) -> str:
        if attribute(cell, "hMerge") == "1" or attribute(cell, "vMerge") == "1":
            return ""
        return "\n".join(self._line(paragraph) for paragraph in _paragraphs(cell))

    def _line(self, paragraph: Element) -> str:
        line: list[str] = []
        for one in paragraph:
            name = local(one)
            if name in ("r", "fld"):
                text = child(one, "t")
                words = "" if text is None else cleaned("".join(text.itertext()))
                target = child(one, "rPr", "hlinkClick")
                kind, address = self._related.get(reference(target) or "", ("", ""))
                line.append(link(words, address if kind == "hyperlink" else None))
            elif name == "br":
                line.append("\n")
            elif name in ("m", "AlternateContent"):  # a formula
                texts = [text for text in branch(one).iter() if local(text) == "t"]
                line.append(cleaned("".join("".join(text.itertext()) for text in texts)))
        return "".join(line)


def _shapes(parent: Element, depth: int) -> Iterator[Element]:
    """Shapes with text, and tables, in their order."""
    check_depth(depth)
    for one in parent:
        if local(one) in ("sp", "tbl"):
            yield one
        else:
            yield from _shapes(branch(one) if local(one) == "AlternateContent" else one, depth + 1)


def _place(shape: Element) -> str | None:
    return attribute(child(shape, "nvSpPr", "nvPr", "ph"), "type")


def _paragraphs(parent: Element) -> list[Element]:
    body = child(parent, "txBody")
    return [] if body is None else [one for one in body if local(one) == "p"]
