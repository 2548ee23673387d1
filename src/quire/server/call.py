"""What every API's request is turned into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from starlette.requests import Request

from quire.request import ChatRequest
from quire.server.turns import joined

ToolChoice = Literal["auto", "none", "required", "named"]

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Call:
    """One client's request for an answer to a conversation, in quire's own terms.

    `options` are named as in `quire.options.OPTIONS`; `model` is as the client wrote it.
    """

    messages: list[dict[str, Any]]
    system: str | None = None
    tools: list[dict[str, Any]] | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: _NO_OPTIONS)
    model: str | None = None
    streamed: bool = False
    tool_choice: ToolChoice = "auto"
    tool_name: str | None = None
    """The tool that must be called, where `tool_choice` is "named"."""
    parallel_tool_calls: bool = True
    """False lets an answer call one tool at most."""

    def request(
        self, tools: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any]
    ) -> ChatRequest:
        """What an engine is asked: messages of one side in a row are one turn."""
        return ChatRequest(
            joined(self.messages), self.system, tools, options=options, streamed=self.streamed
        )

    @property
    def completions(self) -> int:
        """How many are asked for."""
        return completions_of(self.options)


def completions_of(options: Mapping[str, Any]) -> int:
    """How many completions of a prompt; what is no number counts as one, and is refused later."""
    count = options.get("n") or options.get("num_return_sequences") or 1
    return count if isinstance(count, int) and count > 0 else 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `name` holds no secret; requests of different `salt` share no cached prefix."""

    name: str = "anonymous"
    admin: bool = False
    salt: str = ""


ANONYMOUS = Caller()

CALLER = "quire.caller"
"""Where the guard of keys puts the caller in a request's ASGI scope."""


def caller_of(request: Request) -> Caller:
    """Who sent a request; anonymous where the server has no keys."""
    return request.scope.get(CALLER, ANONYMOUS)
