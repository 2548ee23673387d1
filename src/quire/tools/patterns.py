"""What a regular expression says around its groups.

Patterns of a model's folder are read, never run: on a model's answer, one that tracks back could take
years. What can be read is text, white space, and groups; what may stand there or not is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

SPACE = "\v"
"""Stands for white space that may be there."""

_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}
_ANCHORS = "bBAZz"
_GROUP = re.compile(r"\((\?(?:P?<([A-Za-z_]\w*)>|P?<?[=!:>]|[a-z]*(?:-[a-z]+)?[:)]))?")
_QUANTIFIER = re.compile(r"(?:[*+?]|\{(\d*),?\d*\})[?+]?")
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_WHITE_CLASS = re.compile(r"\[(?:\\[sntr]| )+\]")
_MAX_DEPTH = 30
_MOST_CHARACTERS = 5_000


class UnreadPatternError(ValueError):
    """A pattern says something else than texts around groups."""


@dataclass(frozen=True, slots=True)
class Group:
    """A part of a pattern that has a name, or matches more than one text."""

    name: str | None
    branches: tuple[tuple[Node, ...], ...] = ()
    """Its alternatives; none for a character of some kind."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a pattern: a text, `SPACE`, or a group."""

    part: str | Group
    is_optional: bool = False


Piece = str | Group


def read_pattern(pattern: str) -> Group:
    """A pattern as the alternatives that it has.

    Raises:
        UnreadPatternError: it has something else than texts and groups, or is far too long.
    """
    if len(pattern) > _MOST_CHARACTERS:
        raise UnreadPatternError("too long")
    reader = _PatternReader(pattern)
    group = reader.alternatives(0)
    if not reader.is_at_end:
        raise UnreadPatternError(pattern)
    return group


def pieces(group: Group) -> list[Piece]:
    """The texts and groups of one alternative: the first in which there is any text.

    Neighbouring texts are one. Of what matches any text, nothing is said.
    """
    found: list[Piece] = []
    for branch in group.branches:
        found = list(_pieces(branch))
        if _has_text(found):
            break
    return found


def _has_text(found: Sequence[Piece]) -> bool:
    return any(isinstance(piece, str) and piece.strip(SPACE) for piece in found)


def _pieces(nodes: Sequence[Node]) -> Iterator[Piece]:
    text = ""
    for node in nodes:
        if isinstance(node.part, str):
            text += "" if node.is_optional else node.part
        elif node.part.name is None and not _matches_any(node.part):
            for piece in () if node.is_optional else pieces(node.part):
                if isinstance(piece, str):
                    text += piece
                else:
                    yield text
                    yield piece
                    text = ""
        else:
            yield text
            yield node.part
            text = ""
    yield text


def _matches_any(group: Group) -> bool:
    """Whether a group is a character of some kind, or consists of such."""
    if not group.branches:
        return True
    return any(
        isinstance(node.part, Group) and node.part.name is None and _matches_any(node.part)
        for branch in group.branches
        for node in branch
    )


def around(group: Group, name: str | None) -> tuple[list[Piece], list[Piece]] | None:
    """The texts before and after the group of this name, up to another group; None where there is none.

    A name of None stands for the first group that matches any text.
    """
    for branch in group.branches:
        for index, node in enumerate(branch):
            if isinstance(node.part, str):
                continue
            is_it = node.part.name == name and (name is not None or _matches_any(node.part))
            inner = around(node.part, name) if node.part.name is None and not is_it else None
            if not is_it and inner is None:
                continue
            before, after = inner or ([], [])
            return (
                before if _has_text(before) else _texts_beside(branch[:index][::-1])[::-1],
                after if _has_text(after) else _texts_beside(branch[index + 1 :]),
            )
    return None


def _texts_beside(nodes: Sequence[Node]) -> list[Piece]:
    """The texts of neighbouring parts up to one that is a group."""
    found: list[Piece] = []
    for node in nodes:
        texts = [] if node.is_optional else list(_pieces((node,)))
        if any(isinstance(piece, Group) for piece in texts):
            break
        found += texts
    return found


class _PatternReader:
    """Reads a pattern from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern, self._at = pattern, 0

    @property
    def is_at_end(self) -> bool:
        return self._at >= len(self._pattern)

    def alternatives(self, depth: int, name: str | None = None) -> Group:
        """Alternatives up to the end, or to the bracket that closes them."""
        if depth > _MAX_DEPTH:
            raise UnreadPatternError("nested too deeply")
        branches: list[tuple[Node, ...]] = []
        nodes: list[Node] = []
        while not self.is_at_end and self._pattern[self._at] != ")":
            if self._pattern[self._at] == "|":
                self._at += 1
                branches.append(tuple(nodes))
                nodes = []
            elif (node := self._node(depth)) is not None:
                nodes.append(node)
        return Group(name, (*branches, tuple(nodes)))

    def _node(self, depth: int) -> Node | None:
        """The next part with what says how often it stands; None for what matches no text."""
        part = self._part(depth)
        quantifier = _QUANTIFIER.match(self._pattern, self._at)
        is_optional = False
        if quantifier is not None:
            self._at = quantifier.end()
            least = quantifier[1] or "0" if quantifier[0][0] == "{" else quantifier[0][0]
            is_optional = least in ("0", "*", "?")
        if part is None:
            return None
        if part == SPACE and not is_optional:
            part = " "
        elif part in (" ", "\n", "\t", "\r") and is_optional:
            part = SPACE
        return Node(part, is_optional=is_optional and part != SPACE)

    def _part(self, depth: int) -> str | Group | None:
        char = self._pattern[self._at]
        if char == "(":
            return self._group(depth)
        if char == "[":
            return self._class()
        self._at += 1
        if char == "\\":
            return self._escaped()
        if char in "^$":
            return None
        return Group(None) if char == "." else char

    def _group(self, depth: int) -> Group | None:
        head = _GROUP.match(self._pattern, self._at)
        if head is None:
            raise UnreadPatternError(self._pattern)
        self._at = head.end()
        if head[0].endswith(")"):  # flags
            return None
        inner = self.alternatives(depth + 1, head[2])
        if self.is_at_end:
            raise UnreadPatternError(self._pattern)
        self._at += 1
        looks_around = head[1] is not None and head[1][-1] in "=!"
        return None if looks_around else inner

    def _class(self) -> str | Group:
        found = _CLASS.match(self._pattern, self._at)
        if found is None:
            raise UnreadPatternError(self._pattern)
        self._at = found.end()
        if _WHITE_CLASS.fullmatch(found[0]):
            return SPACE
        inner = found[0][1:-1]
        if len(inner) == 1 and inner != "^":
            return inner
        return inner[1] if re.fullmatch(r"\\[^\w\s]", inner) else Group(None)

    def _escaped(self) -> str | Group | None:
        if self.is_at_end:
            raise UnreadPatternError(self._pattern)
        char = self._pattern[self._at]
        self._at += 1
        if char in _CONTROLS:
            return _CONTROLS[char]
        if char == "s":
            return SPACE
        if char in _ANCHORS:
            return None
        if char in "wWdDS":
            return Group(None)
        if char.isalnum():
            raise UnreadPatternError(self._pattern)
        return char
