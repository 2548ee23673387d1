"""Deltas as tests write them down: by what they say, not by the parts that say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.messages import ToolCall
from quire.outputs import AnswerPart, Delta, TextPart, ThoughtPart


def gained(
    content: str = "",
    *,
    reasoning: str = "",
    tool_calls: Sequence[ToolCall] = (),
    text: str | None = None,
    **fields: Any,
) -> Delta:
    """A delta of a thought, then text, then calls; `text` is what the model wrote for all that."""
    parts: list[AnswerPart] = [ThoughtPart(reasoning)] if reasoning else []
    parts += [TextPart(content)] if content else []
    parts += tool_calls
    written = reasoning + content if text is None else text
    return Delta(text=written, parts=tuple(parts), **fields)
