"""Answers as Anthropic's events and messages."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from quire.outputs import Delta, Usage
from quire.server.apis.blocks import (
    BlockDelta,
    BlockKind,
    BlockReader,
    event_bytes,
    is_text,
)
from quire.server.apis.ids import NEW_IDS
from quire.server.apis.openai.writing import quoted
from quire.server.errors import Problem
from quire.tools.base import dump, load

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageWriter:
    """Writes one answer: `events` returns a delta's events, `message` is the answer so far.

    `stop_sequences` are the client's own. With `omit_thoughts`, thought blocks have no text.
    """

    def __init__(
        self,
        model: str,
        *,
        stop_sequences: Collection[str] = (),
        omit_thoughts: bool = False,
    ) -> None:
        self._stop_sequences = stop_sequences
        self._omit_thoughts = omit_thoughts
        self._reader = BlockReader()
        self._open: BlockKind | None = None
        self._written: list[str] = []  # of the open block
        self._before = ""
        self._begun = False
        self.message: dict[str, Any] = {
            "id": NEW_IDS.new("msg_"),
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(Usage(0, 0)),
        }

    # --- the encoder of a stream -----------------------------------------------------------------

    def encode(self, delta: Delta) -> bytes:
        """The events of one delta; plain text is formatted by hand, as it comes once per token."""
        if self._open == "text" and is_text(delta):
            if not delta.content:
                return b""
            self._written.append(delta.content)
            return f"{self._before}{quoted(delta.content)}}}}}\n\n".encode("ascii")
        return b"".join(map(event_bytes, self.events(delta)))

    def end(self) -> bytes:
        """No event follows those of the last delta."""
        return b""

    def failure(self, problem: Problem) -> bytes:
        """The event for an error that ends the stream."""
        return event_bytes(error_body(problem))

    # --- pure ------------------------------------------------------------------------------------

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """The events of a delta."""
        events: list[dict[str, Any]] = []
        if not self._begun:
            self._begun = True
            usage = delta.usage or Usage(delta.prompt_tokens or 0, 0)
            message = {**self.message, "content": [], "usage": _usage(usage)}
            events += [{"type": "message_start", "message": message}, {"type": "ping"}]
        for piece in self._reader.add(delta):
            events += self._piece(piece)
        if delta.finish_reason is not None:
            events += self._finished(delta)
        return events

    def _piece(self, piece: BlockDelta) -> list[dict[str, Any]]:
        if piece.call is not None:
            return [*self._close(), *self._call(piece)]
        events: list[dict[str, Any]] = []
        if piece.kind != self._open:
            events += self._close()
            events.append(self._start(piece.kind))
        self._written.append(piece.text)
        if piece.kind == "text":
            return [*events, self._delta({"type": "text_delta", "text": piece.text})]
        if self._omit_thoughts:
            return events
        return [*events, self._delta({"type": "thinking_delta", "thinking": piece.text})]

    def _start(self, kind: BlockKind) -> dict[str, Any]:
        self._open, self._written = kind, []
        block = (
            {"type": "text", "text": ""}
            if kind == "text"
            else {"type": "thinking", "thinking": "", "signature": ""}
        )
        self.message["content"].append(block)
        self._before = (
            'event: content_block_delta\ndata: {"type":"content_block_delta",'
            f'"index":{len(self.message["content"]) - 1},"delta":{{"type":"text_delta","text":'
        )
        return self._about("content_block_start", content_block=dict(block))

    def _call(self, piece: BlockDelta) -> list[dict[str, Any]]:
        assert piece.call is not None
        arguments = _object(piece.call.arguments)
        block = {
            "type": "tool_use",
            "id": piece.call.id or NEW_IDS.new("toolu_"),
            "name": piece.call.name,
            "input": {},
        }
        self.message["content"].append({**block, "input": arguments})
        written = dump(arguments)
        return [
            self._about("content_block_start", content_block=block),
            self._delta({"type": "input_json_delta", "partial_json": written}),
            self._about("content_block_stop"),
        ]

    def _close(self) -> list[dict[str, Any]]:
        """The events that end the open block; a thought's signature is empty, as none is checked."""
        if self._open is None:
            return []
        written, block = "".join(self._written), self.message["content"][-1]
        if self._open == "text":
            block["text"] = written
        else:
            block["thinking"] = "" if self._omit_thoughts else written
        signature = [self._delta({"type": "signature_delta", "signature": ""})]
        events = signature if self._open == "thought" else []
        self._open = None
        return [*events, self._about("content_block_stop")]

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return self._about("content_block_delta", delta=delta)

    def _about(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the newest block."""
        return {"type": kind, "index": len(self.message["content"]) - 1, **fields}

    def _finished(self, delta: Delta) -> list[dict[str, Any]]:
        events = self._close()
        reason = _STOP_REASONS.get(str(delta.finish_reason))
        sequence = None
        if delta.finish_reason == "stop" and delta.stop_reason in self._stop_sequences:
            reason, sequence = "stop_sequence", delta.stop_reason
        self.message |= {"stop_reason": reason, "stop_sequence": sequence}
        self.message["usage"] = _usage(delta.usage or Usage(0, 0))
        end = {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": sequence},
            "usage": self.message["usage"],
        }
        return [*events, end, {"type": "message_stop"}]


def _usage(usage: Usage) -> dict[str, Any]:
    """Usage in Anthropic's form, where `input_tokens` excludes cached ones."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _object(arguments: str) -> dict[str, Any]:
    """The arguments as an object; anything else is kept as text under `arguments`."""
    try:
        value = load(arguments or "{}")
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_body(problem: Problem) -> dict[str, Any]:
    """An error as the body of a response, or as the data of an event."""
    kind = _TYPES.get(problem.status, "api_error")
    error: dict[str, Any] = {"type": kind, "message": problem.message}
    if problem.details is not None:
        error["details"] = problem.details
    return {"type": "error", "error": error}
