"""An answer as blocks in the order of the model's text: thoughts, text, calls.

/v1/responses and /v1/messages both return an answer as a list of blocks, where chat completions have
one message with fields.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from quire.messages import ToolCall
from quire.outputs import Delta, TextPart, ThoughtPart, TokenLogprob

BlockKind: TypeAlias = Literal["thought", "text", "call"]


@dataclass(frozen=True, slots=True)
class BlockDelta:
    """What a block gained. A change of `kind` begins a new block; each call is a block of its own."""

    kind: BlockKind
    text: str = ""
    call: ToolCall | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    """Of the tokens of this text, if requested; tokens of a call or marker just before it, and of
    what follows it, may be included."""


class BlockReader:
    """Splits the deltas of one completion into blocks.

    Invariant: all characters of thoughts and texts are returned in order, except for text that is
    white space alone between other blocks.
    """

    def __init__(self) -> None:
        self._open: BlockKind | None = None
        self._held = ""
        self._held_kind: BlockKind = "text"
        self._logprobs: tuple[TokenLogprob, ...] = ()

    def add(self, delta: Delta) -> list[BlockDelta]:
        """The pieces that this delta completes; after its `finish_reason` there are none."""
        pieces: list[BlockDelta] = []
        parts, logprobs = delta.all_parts(), delta.logprobs or ()
        if not parts:  # a marker or half a character, which may belong to the text that follows
            self._logprobs += logprobs
        for part in parts:
            if isinstance(part, TextPart):
                self._logprobs += logprobs
                pieces += self._add("text", part.text, logprobs)
                logprobs = ()  # a second text's own are split off by `TextLogprobs`
            elif isinstance(part, ThoughtPart):
                self._logprobs = ()
                pieces += self._add("thought", part.text)
            else:
                self._open, self._held, self._logprobs = "call", "", ()
                pieces.append(BlockDelta("call", call=part))
        if delta.finish_reason is not None and self._open is None and self._held:
            self._open = self._held_kind
            pieces.append(BlockDelta(self._held_kind, self._held, logprobs=self._take_logprobs()))
        return pieces

    def _add(
        self, kind: BlockKind, text: str, logprobs: tuple[TokenLogprob, ...] = ()
    ) -> list[BlockDelta]:
        if self._open != kind:
            self._held = self._held + text if self._held_kind == kind else text
            self._held_kind = kind
            if not self._held.strip():
                return []
            if kind == "text" and self._open is not None:
                self._logprobs = logprobs  # earlier ones are of markers between the blocks
            self._open, text, self._held = kind, self._held, ""
        return [BlockDelta(kind, text, logprobs=self._take_logprobs() if kind == "text" else ())]

    def _take_logprobs(self) -> tuple[TokenLogprob, ...]:
        logprobs, self._logprobs = self._logprobs, ()
        return logprobs


def is_text(delta: Delta) -> bool:
    """Whether a delta has at most text, which continues an open text block."""
    if delta.logprobs or delta.finish_reason is not None:
        return False
    return delta.parts is None or all(isinstance(part, TextPart) for part in delta.parts)


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """A server-sent event named by its `type`, in ASCII, since some clients split lines at U+2028."""
    data = json.dumps(event, separators=(",", ":"))
    return f"event: {event['type']}\ndata: {data}\n\n".encode("ascii")
