"""`tool_choice`: whether tools may, must, or must not be called.

Its forms are OpenAI's:

    "auto"                                          the model decides
    "none"                                          no tool is offered
    "required"                                      at least one tool is called
    {"type": "function", "function": {"name": ...}} this tool is called
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

from quire.errors import SamplingError

MODES = ("auto", "none", "required")


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """One choice. With a `name`, it is the one tool that must be called."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None

    def __str__(self) -> str:
        return self.name or self.mode

    @property
    def is_forced(self) -> bool:
        """Whether a tool must be called."""
        return self.mode == "required"


AUTO = ToolChoice()


def read_tool_choice(value: Any) -> ToolChoice:
    """Read and check a request's `tool_choice`.

    Raises:
        SamplingError: it has an unknown form.
    """
    if isinstance(value, ToolChoice):
        return value
    if isinstance(value, str) and value in MODES:
        return ToolChoice(value)
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        inner = named.get("function", named)
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if named.get("type") == "function" and isinstance(name, str) and name:
            return ToolChoice("required", name)
    raise SamplingError(
        'tool_choice must be "auto", "none", "required", or '
        '{"type": "function", "function": {"name": "..."}}.'
    )
