"""The format of Ling 2 (Bailing): calls as Qwen writes them, another list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.prompt import Spans
from quire.tools.base import join
from quire.tools.qwen import QwenFormat, list_hermes


class LingFormat(QwenFormat):
    """Carries what Qwen's format carries."""

    name = "ling"

    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        return join(list_hermes(tools), "\ndetailed thinking off") if tools else ()
