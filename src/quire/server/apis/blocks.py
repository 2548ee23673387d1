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

from quire.messages import ToolCall
from quire.outputs import Delta, TextPart, ThoughtPart, TokenLogprob

BlockKind: TypeAlias = Literal["thought", "text", "call"]


@dataclass(frozen=True, slots=True)
class BlockDelta:
    """What was added to a block. One of another kind than the one before begins a new block; a call
    is a block of its own.
    """

    kind: BlockKind
    text: str = ""
    call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this text, where they were asked for; those of a call or a marker before it
    may stand in front, and those of what follows behind."""


class BlockReader:
    """Takes the deltas of one completion apart. Invariant: each character of a thought or a text
    comes out in order, but for white space alone between other blocks, which makes none.
    """

    def __init__(self) -> None:
        self._open: BlockKind | None = None
        self._held = ""
        self._held_kind: BlockKind = "text"
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, delta: Delta) -> list[BlockDelta]:
        """The pieces that this delta completes; after its `finish_reason` there is no other."""
        pieces: list[BlockDelta] = []
        parts, fresh = delta.all_parts(), delta.logprobs or ()
        if not parts:  # a marker, or half a character: known once text follows
            self._logprobs += fresh
        for part in parts:
            if isinstance(part, TextPart):
                self._logprobs += fresh
                pieces += self._written("text", part.text, fresh)
                fresh = ()  # what is left of them for a later text, its writer finds
            elif isinstance(part, ThoughtPart):
                self._logprobs = ()
                pieces += self._written("thought", part.text)
            else:
                self._open, self._held, self._logprobs = "call", "", ()
                pieces.append(BlockDelta("call", call=part))
        if delta.finish_reason is not None and self._open is None and self._held:
            self._open = self._held_kind
            pieces.append(BlockDelta(self._held_kind, self._held, logprobs=self._taken()))
        return pieces

    def _written(
        self, kind: BlockKind, text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[BlockDelta]:
        if self._open != kind:
            self._held = self._held + text if self._held_kind == kind else text
            self._held_kind = kind
            if not self._held.strip():
                return []
            if kind == "text" and self._open is not None:
                self._logprobs = logprobs  # those before are of what stands between blocks
            self._open, text, self._held = kind, self._held, ""
        return [BlockDelta(kind, text, logprobs=self._taken() if kind == "text" else ())]

    def _taken(self) -> tuple[TokenLogprob, ...]:
        taken, self._logprobs = self._logprobs, ()
        return taken


def is_text(delta: Delta) -> bool:
    """Whether a delta holds text at most: then an open block of text goes on with it."""
    if delta.logprobs or delta.finish_reason is not None:
        return False
    return delta.parts is None or all(isinstance(part, TextPart) for part in delta.parts)


def new_id(prefix: str) -> str:
    """A name that nothing else has, such as `msg_3f...`."""
    return f"{prefix}_{uuid.uuid4().hex}"


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """A server-sent event that has its `type` as its name.

    In ASCII: some clients take U+2028 for the end of a line.
    """
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode("ascii")
