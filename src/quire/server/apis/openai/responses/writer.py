"""Answers as the events and responses of the Responses API."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeAlias

from quire.outputs import Delta, TokenLogprob, Usage
from quire.server.apis.blocks import (
    BlockDelta,
    BlockKind,
    BlockReader,
    event_bytes,
    is_text,
)
from quire.server.apis.ids import NEW_IDS, AnswerIds
from quire.server.apis.openai.writing import quoted
from quire.server.errors import Problem


class ResponseWriter:
    """Writes one answer: `events` returns a delta's events, `response` is the answer so far.

    `echo` has the fields of the request that a response repeats; `describe`, if log-probabilities
    were requested, converts them to the API's form. `namespaces` has those of functions that are in
    one, by the model's names for them.
    """

    def __init__(
        self,
        echo: Mapping[str, Any],
        *,
        describe: Callable[[tuple[TokenLogprob, ...]], list[dict[str, Any]]] | None = None,
        namespaces: Mapping[str, str] | None = None,
        ids: AnswerIds = NEW_IDS,
    ) -> None:
        self._describe, self._namespaces, self._ids = describe, namespaces or {}, ids
        self._reader = BlockReader()
        self._open: BlockKind | None = None
        self._written: list[str] = []  # of the open item
        self._logprobs = TextLogprobs()
        self._number = 0
        self._before = ""
        self.response: dict[str, Any] = {
            "id": self._ids.new("resp_"),
            "object": "response",
            "created_at": self._ids.now(),
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **echo,
        }

    # --- the encoder of a stream -----------------------------------------------------------------

    def encode(self, delta: Delta) -> bytes:
        """The events of one delta; plain text is formatted by hand, as it comes once per token."""
        if self._open == "text" and self._describe is None and is_text(delta):
            if not delta.content:
                return b""
            self._written.append(delta.content)
            self._number += 1
            return (
                f'{self._before}{self._number - 1},"delta":{quoted(delta.content)}}}\n\n'
            ).encode("ascii")
        return b"".join(map(event_bytes, self.events(delta)))

    def end(self) -> bytes:
        """No event follows those of the last delta."""
        return b""

    def failure(self, problem: Problem) -> bytes:
        """The events for an error that ends the stream."""
        return b"".join(map(event_bytes, self.failed(problem)))

    # --- pure ------------------------------------------------------------------------------------

    def events(self, delta: Delta) -> list[dict[str, Any]]:
        """The events of a delta."""
        events = self._begin()
        for piece in self._reader.add(delta):
            events += self._piece(piece)
        if delta.finish_reason is not None:
            events += self._finished(delta)
        return events

    def failed(self, problem: Problem) -> list[dict[str, Any]]:
        """The events of an error; the answer so far stays in the response."""
        events = self._begin()
        self._settle()
        code = "rate_limit_exceeded" if problem.status == 429 else "server_error"
        code = "invalid_prompt" if problem.status == 400 else code
        self.response |= {
            "status": "failed",
            "error": {"code": code, "message": problem.message},
        }
        return [*events, self._event("response.failed", response=self._snapshot())]

    def _begin(self) -> list[dict[str, Any]]:
        if self._number:
            return []
        return [
            self._event("response.created", response=self._snapshot()),
            self._event("response.in_progress", response=self._snapshot()),
        ]

    def _piece(self, piece: BlockDelta) -> list[dict[str, Any]]:
        if piece.call is not None:
            return [*self._close(), *self._call(piece)]
        events: list[dict[str, Any]] = []
        if piece.kind != self._open:
            events = [*self._close(), *self._start(piece.kind)]
        self._written.append(piece.text)
        if piece.kind == "thought":
            return [*events, self._in_part("response.reasoning_text.delta", delta=piece.text)]
        logprobs: list[dict[str, Any]] = []
        if self._describe is not None:
            logprobs = self._logprobs.of(piece.text, self._describe(piece.logprobs))
        self._item["content"][0]["logprobs"] += logprobs
        text = self._in_part("response.output_text.delta", delta=piece.text, logprobs=logprobs)
        return [*events, text]

    def _start(self, kind: BlockKind) -> list[dict[str, Any]]:
        """Begin an item with its one part."""
        self._open, self._written = kind, []
        self._logprobs.begin()
        if kind == "thought":
            item = {"id": self._ids.new("rs_"), "type": "reasoning", "summary": []}
            part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        else:
            item = {"id": self._ids.new("msg_"), "type": "message", "role": "assistant"}
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item |= {"status": "in_progress", "content": []}
        self.response["output"].append({**item, "content": [part]})
        kind_of = "response.output_text.delta"
        self._before = (
            f'event: {kind_of}\ndata: {{"type":"{kind_of}","item_id":"{item["id"]}",'
            f'"output_index":{len(self.response["output"]) - 1},"content_index":0,'
            '"logprobs":[],"sequence_number":'
        )
        return [
            self._in_output("response.output_item.added", item=item),
            self._in_part("response.content_part.added", part=_copied(part)),
        ]

    def _close(self, status: str = "completed") -> list[dict[str, Any]]:
        """End the open item."""
        if self._open is None:
            return []
        self._settle()
        item = self._item
        item["status"] = status
        part = item["content"][0]
        if self._open == "thought":
            done = self._in_part("response.reasoning_text.done", text=part["text"])
        else:
            done = self._in_part(
                "response.output_text.done", text=part["text"], logprobs=part["logprobs"]
            )
        self._open = None
        return [
            done,
            self._in_part("response.content_part.done", part=part),
            self._in_output("response.output_item.done", item=item),
        ]

    def _settle(self) -> None:
        """Set the text of the open item."""
        if self._open is not None:
            self._item["content"][0]["text"] = "".join(self._written)

    def _call(self, piece: BlockDelta) -> list[dict[str, Any]]:
        call = piece.call
        assert call is not None
        item = {
            "id": self._ids.new("fc_"),
            "type": "function_call",
            "status": "completed",
            "call_id": call.id or self._ids.new("call_"),
            "name": call.name,
            "arguments": call.arguments or "{}",
        }
        if namespace := self._namespaces.get(call.name):
            item |= {"namespace": namespace, "name": call.name.removeprefix(f"{namespace}.")}
        self.response["output"].append(item)
        name, arguments = item["name"], item["arguments"]
        begun = {**item, "status": "in_progress", "arguments": ""}
        about = {"item_id": item["id"]}
        kind = "response.function_call_arguments"
        return [
            self._in_output("response.output_item.added", item=begun),
            self._in_output(f"{kind}.delta", **about, delta=arguments),
            self._in_output(f"{kind}.done", **about, name=name, arguments=arguments),
            self._in_output("response.output_item.done", item=item),
        ]

    def _finished(self, delta: Delta) -> list[dict[str, Any]]:
        truncated = delta.finish_reason == "length"
        status = "incomplete" if truncated else "completed"
        events = self._close(status)
        self.response |= {"status": status, "usage": _usage(delta.usage or Usage(0, 0))}
        if truncated:
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = self._ids.now()
        return [*events, self._event(f"response.{status}", response=self._snapshot())]

    # --- events ----------------------------------------------------------------------------------

    @property
    def _item(self) -> dict[str, Any]:
        return self.response["output"][-1]

    def _snapshot(self) -> dict[str, Any]:
        return {**self.response, "output": list(self.response["output"])}

    def _in_part(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the one part of the newest item."""
        return self._in_output(kind, item_id=self._item["id"], content_index=0, **fields)

    def _in_output(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event about the newest item."""
        return self._event(kind, output_index=len(self.response["output"]) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        event = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _copied(part: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, list) else value for key, value in part.items()}


# --- log-probabilities of texts --------------------------------------------------------------------


Described: TypeAlias = dict[str, Any]
"""A token's log-probability in the API's form; `token` is its text."""


class TextLogprobs:
    """Selects the log-probabilities of the texts, piece by piece.

    The deltas of several steps are merged for a slow reader. Their tokens may include the end marker
    of a thought, the end of the turn, a call and the text after it, and text that is held back.
    """

    def __init__(self) -> None:
        self._begun = False
        self._rest: list[Described] = []

    def begin(self) -> None:
        """Begin a new text, to which the remaining tokens may belong."""
        self._begun = False

    def of(self, text: str, described: Sequence[Described]) -> list[Described]:
        """The log-probabilities of the next piece of text; later ones are kept for the next call."""
        tokens = [*self._rest, *described]
        if not self._begun:
            self._begun = True
            start = _start(tokens, text)
            tokens = tokens[len(self._rest) if start is None else start :]
        end = _end(tokens, text)
        self._rest = tokens[end:]
        return tokens[:end]


def _start(tokens: Sequence[Described], text: str) -> int | None:
    """The index at which the text begins, possibly stripped of white space; None if not found."""
    joined = "".join(one["token"] for one in tokens)
    offsets = [0, *accumulate(len(one["token"]) for one in tokens)][: len(tokens)]
    for index, offset in enumerate(offsets):
        if joined.startswith(text, offset):
            return index
    for index in reversed(range(len(offsets))):
        offset = offsets[index]
        while offset < len(joined) and joined[offset].isspace():
            offset += 1
        if joined.startswith(text, offset):
            return index
    return None


def _end(tokens: Sequence[Described], text: str) -> int:
    """The index after the text's last token; all tokens if none ends with the text."""
    length = 0
    joined = "".join(one["token"] for one in tokens)
    for index, one in enumerate(tokens, start=1):
        length += len(one["token"])
        if length == len(text):
            return index if joined.startswith(text) else len(tokens)
    return len(tokens)
