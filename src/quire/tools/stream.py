"""Reading calls out of a stream of text."""

from __future__ import annotations

from quire.tools.base import Piece, ToolParser


class PlainParser(ToolParser):
    """A parser that finds no calls: all is text."""

    def add(self, text: str) -> list[Piece]:
        return [text] if text else []

    def flush(self) -> list[Piece]:
        return []
