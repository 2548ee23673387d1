"""What a Word document's styles and lists say of its paragraphs: headings, hidden text, labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

from quire.cli.chat.documents.archive import attribute, child, local, number
from quire.cli.chat.documents.numbering import LEVELS, LONGEST_LABEL, Counters, written

_HEADING = re.compile(r"heading ([1-9])", re.IGNORECASE)
_PLACE = re.compile(r"%([1-9])")
_MOST_BASED = 20
"""Styles that a style is based on, one on another."""


def is_on(element: Element | None) -> bool | None:
    """Whether a switch is on; None where it is not there."""
    return None if element is None else attribute(element, "val") not in ("0", "false", "off")


def heading_level(outline: str) -> int | None:
    """The level of a heading that is so far down in the outline; None where it is no heading."""
    level = number(outline, 9)
    return level + 1 if 0 <= level < 9 else None


class WordStyles:
    """The styles of paragraphs and runs, each based on another."""

    def __init__(self, root: Element | None) -> None:
        self._styles = {
            attribute(one, "styleId") or "": one
            for one in (() if root is None else root)
            if local(one) == "style"
        }
        self._headings = {name: self._find_heading(name) for name in self._styles}
        self._hidden = {name for name in self._styles if self._find_hidden(name)}
        self._lists = {name: self._find_list(name) for name in self._styles}

    def heading(self, style: str | None) -> int | None:
        """The level of a heading of this style; None if it is none."""
        return self._headings.get(style or "")

    def is_hidden(self, style: str | None) -> bool:
        """Whether text of this style is hidden."""
        return style in self._hidden

    def list_of(self, style: str | None) -> tuple[str, str, str | None] | None:
        """The style that brings the list, the list's id, and its level where one is told."""
        return self._lists.get(style or "")

    def _chain(self, style: str) -> Iterator[tuple[str, Element]]:
        name: str | None = style
        for _ in range(_MOST_BASED):
            if name is None or name not in self._styles:
                return
            yield name, self._styles[name]
            name = attribute(child(self._styles[name], "basedOn"), "val")

    def _find_heading(self, style: str) -> int | None:
        for _, one in self._chain(style):
            name = attribute(child(one, "name"), "val") or ""
            if name.lower() == "title":
                return 1
            outline = attribute(child(one, "pPr", "outlineLvl"), "val")
            if outline is not None:
                return heading_level(outline)
            if match := _HEADING.fullmatch(name):
                return int(match[1])
        return None

    def _find_hidden(self, style: str) -> bool:
        switches = (is_on(child(one, "rPr", "vanish")) for _, one in self._chain(style))
        return next((switch for switch in switches if switch is not None), False)

    def _find_list(self, style: str) -> tuple[str, str, str | None] | None:
        for name, one in self._chain(style):
            numbered = child(one, "pPr", "numPr")
            list_id = attribute(child(numbered, "numId"), "val")
            if list_id is not None:
                return name, list_id, attribute(child(numbered, "ilvl"), "val")
        return None


@dataclass
class _List:
    """A list: its levels, and numbers that it may share with others."""

    levels: dict[int, Element]
    counters: Counters
    starts: dict[int, int] = field(default_factory=dict[int, int])
    """Where levels begin anew with this list's first item of them."""


class WordLists:
    """The labels of items, counted in the order in which they are asked for."""

    def __init__(self, root: Element | None, styles: WordStyles) -> None:
        everything = [] if root is None else list(root)
        self._lists: dict[str, _List] = {}
        abstract = {
            attribute(one, "abstractNumId"): one
            for one in everything
            if local(one) == "abstractNum"
        }
        lists = {attribute(one, "numId"): one for one in everything if local(one) == "num"}
        shared: dict[str | None, Counters] = {}
        for name, one in lists.items():
            kind = attribute(child(one, "abstractNumId"), "val")
            style = attribute(child(abstract.get(kind), "numStyleLink"), "val")
            if style is not None and (other := styles.list_of(style)) is not None:
                kind = attribute(child(lists.get(other[1]), "abstractNumId"), "val")
            counters = shared.setdefault(kind, Counters())
            self._lists[name or ""] = _List(_levels(abstract.get(kind)), counters)
            _override(self._lists[name or ""], one)

    def level_of(self, list_id: str, style: str) -> int:
        """The level of a list that a style stands for."""
        levels = self._lists[list_id].levels if list_id in self._lists else {}
        return next(
            (at for at, one in levels.items() if attribute(child(one, "pStyle"), "val") == style), 0
        )

    def label(self, list_id: str, level: int) -> str:
        """The next label of a level: a hyphen for all bullets, nothing where there is none."""
        found = self._lists.get(list_id)
        if found is None:
            return ""
        level = min(max(level, 0), LEVELS - 1)
        one = found.levels.get(level)
        start = number(attribute(child(one, "start"), "val"), 1)
        if level in found.starts:
            found.counters.values[level] = None
            start = found.starts.pop(level)
        found.counters.advance(level, start)
        if _form(one) == "bullet":
            return "-"
        text = (attribute(child(one, "lvlText"), "val") or "")[:LONGEST_LABEL]
        return _PLACE.sub(lambda match: _number(found, int(match[1]) - 1, one), text).strip()


def _number(found: _List, level: int, of: Element | None) -> str:
    """A level's number within the label of another."""
    one = found.levels.get(level)
    value = found.counters.values[level]
    if value is None:
        value = number(attribute(child(one, "start"), "val"), 1)
    form = "decimal" if is_on(child(of, "isLgl")) else _form(one)
    return written(value, form)


def _form(level: Element | None) -> str:
    return attribute(child(level, "numFmt"), "val") or "decimal"


def _levels(parent: Element | None) -> dict[int, Element]:
    found = [] if parent is None else [one for one in parent if local(one) == "lvl"]
    return {number(attribute(one, "ilvl")): one for one in found}


def _override(found: _List, element: Element) -> None:
    for one in element:
        if local(one) == "lvlOverride":
            at = number(attribute(one, "ilvl"))
            start = attribute(child(one, "startOverride"), "val")
            if start is not None:
                found.starts[at] = number(start, 1)
            found.levels.update(_levels(one))
