"""An answer as blocks, in the order they were written: thoughts, text, calls.

/v1/responses and /v1/messages both show an answer as a list of blocks, where chat completions has
one message with fields.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from quire.chat.response import ChatDelta
from quire.messages import ToolCall
from quire.outputs import TokenLogprob

BlockKind: TypeAlias = Literal["thought", "text", "call"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What was added to a block. One of another kind than the one before begins a new block; a call
    is a block of its own.
    """

    kind: BlockKind
    text: str = ""
    call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this text, where they were asked for."""


class BlockReader:
    """Takes the deltas of one completion apart. Invariant: each character of a thought or a text
    comes out in order, but for white space alone between other blocks, which makes none.
    """

    def __init__(self) -> None:
        self._open: BlockKind | None = None
        self._held = ""
        self._held_kind: BlockKind = "text"
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, delta: ChatDelta) -> list[Piece]:
        """The pieces that this delta completes; after its `finish_reason` there is no other."""
        pieces: list[Piece] = []
        self._logprobs += delta.logprobs or ()
        if delta.reasoning:
            self._logprobs = ()
            pieces += self._written("thought", delta.reasoning)
        if delta.content:
            pieces += self._written("text", delta.content, delta.logprobs or ())
        for call in delta.tool_calls:
            self._open, self._held, self._logprobs = "call", "", ()
            pieces.append(Piece("call", call=call))
        if delta.finish_reason is not None and self._open is None and self._held:
            self._open = self._held_kind
            pieces.append(Piece(self._held_kind, self._held, logprobs=self._taken()))
        return pieces

    def _written(
        self, kind: BlockKind, text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[Piece]:
        if self._open != kind:
            self._held = self._held + text if self._held_kind == kind else text
            self._held_kind = kind
            if not self._held.strip():
                return []
            if kind == "text" and self._open is not None:
                self._logprobs = logprobs  # those before are of what stands between blocks
            self._open, text, self._held = kind, self._held, ""
        return [Piece(kind, text, logprobs=self._taken() if kind == "text" else ())]

    def _taken(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = self._logprobs, ()
        return taken


def is_text(delta: ChatDelta) -> bool:
    """Whether a delta holds text at most: then an open block of text goes on with it."""
    return not (
        delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish_reason is not None
    )


def new_id(prefix: str) -> str:
    """A name that nothing else has, such as `msg_3f...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """A server-sent event that has its `type` as its name.

    In ASCII: some clients take U+2028 for the end of a line.
    """
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode("ascii")
