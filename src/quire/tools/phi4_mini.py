"""The format of Phi-4-mini: the tools as they came between `<|tool|>` tags, calls as default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.prompt import Spans
from quire.tools.base import dump, join, literal
from quire.tools.default import DefaultFormat


class Phi4MiniFormat(DefaultFormat):
    """Carries what the default format carries. The reference has no name for it."""

    name = "phi4_mini"

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join("<|tool|>", literal(dump(list(tools))), "<|/tool|>") if tools else ()
