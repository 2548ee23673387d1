"""What a tool format is: how tools are listed, calls written, and calls read back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from quire.messages import ToolCall
from quire.prompt import Spans

Piece: TypeAlias = str | ToolCall
"""What a parser emits: text that belongs to the answer, or a whole call."""


class ToolParser(ABC):
    """Reads a model's answer as it streams.

    Invariant: text is emitted as soon as it cannot be part of a call, and never later reordered;
    what is not a complete call when the stream ends is emitted as text by `flush`.
    """

    @abstractmethod
    def add(self, text: str) -> list[Piece]:
        """Take the next text of the stream; return what is now certain."""

    @abstractmethod
    def flush(self) -> list[Piece]:
        """The stream has ended: return all that was held back."""


class ToolFormat(ABC):
    """One wire format of tools. Stateless: parsers hold the state of a stream."""

    name: ClassVar[str]
    """The name in LLaMA-Factory's `tool_format` argument."""

    markers: ClassVar[tuple[str, ...]] = ()
    """Control strings that stand in calls as the model writes them, e.g. `<tool_call>`."""

    @abstractmethod
    def list_tools(self, tools: Sequence[dict[str, Any]]) -> Spans:
        """Text for the system prompt that lists the tools; the tools' own text is literal."""

    @abstractmethod
    def write_calls(self, calls: Sequence[ToolCall]) -> Spans:
        """The calls as the model writes them; names and arguments are literal."""

    @abstractmethod
    def parser(self, tools: Sequence[dict[str, Any]] = ()) -> ToolParser:
        """A fresh parser for one answer.

        `tools` are those that the model was given. Formats that write no types take them from the
        tools' schemas; formats with no markers take from them which names are calls.
        """

    def parse(
        self, text: str, tools: Sequence[dict[str, Any]] = ()
    ) -> tuple[str, tuple[ToolCall, ...]]:
        """Split a whole answer into its text and its calls."""
        parser = self.parser(tools)
        pieces = [*parser.add(text), *parser.flush()]
        calls = tuple(piece for piece in pieces if isinstance(piece, ToolCall))
        return "".join(piece for piece in pieces if isinstance(piece, str)), calls
