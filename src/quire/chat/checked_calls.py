"""Forced calls, looked at again: what a grammar could not enforce of their schemas."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from quire.constraints.validation import mismatch
from quire.messages import ToolCall
from quire.tools.base import load, name_of, schema_of
from quire.tools.stream import Piece, ToolParser

logger = logging.getLogger("quire")


class CheckedCalls(ToolParser):
    """Logs which calls do not match their tools' schemas. The client gets them as they are.

    A model that is made to call cannot be asked again, and a client checks arguments anyway.
    """

    def __init__(self, parser: ToolParser, tools: Sequence[Mapping[str, Any]]) -> None:
        self._parser = parser
        self._schemas = {name_of(tool): schema_of(tool) for tool in tools}

    def add(self, text: str) -> list[Piece]:
        return self._checked(self._parser.add(text))

    def flush(self) -> list[Piece]:
        return self._checked(self._parser.flush())

    def _checked(self, pieces: list[Piece]) -> list[Piece]:
        for piece in pieces:
            if isinstance(piece, ToolCall):
                self._check(piece)
        return pieces

    def _check(self, call: ToolCall) -> None:
        try:
            arguments = load(call.arguments)
        except ValueError:
            return  # cut
        reason = mismatch(arguments, self._schemas.get(call.name, {}))
        if reason is not None:
            logger.warning(
                "tools: a forced call of %s does not match its schema: %s.", call.name, reason
            )
