"""Helpers to read OpenAI's inputs and write its answers: ids, calls, usage, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, Self

from quire.messages import ToolCall
from quire.outputs import Delta, Response, TokenLogprob, Usage
from quire.server.apis.ids import NEW_IDS, AnswerIds
from quire.server.apis.openai.schema import StreamOptions
from quire.server.token_texts import MIN_LOGPROB, TokenTexts

__all__ = [
    "DONE", "Extras", "UsageSum", "end_of", "listed_inputs", "prompt_logprobs", "quoted",
    "tool_call", "usage_fields",
]  # fmt: skip

DONE = b"data: [DONE]\n\n"


def listed_inputs(given: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    """One entry for each text of a request: the text, or its token ids."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else list(given)


def tool_call(call: ToolCall, ids: AnswerIds = NEW_IDS) -> dict[str, Any]:
    """A call in OpenAI's form."""
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id or ids.call_id(), "type": "function", "function": function}


def usage_fields(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def end_of(delta: Delta) -> str:
    """JSON of a choice's finish reason and, at its end, of its stop reason."""
    if delta.finish_reason is None:
        return "null"
    return f'"{delta.finish_reason}","stop_reason":{json.dumps(delta.stop_reason)}'


class UsageSum:
    """The usage of a request so far, of all its completions; each prompt counts once.

    Args:
        n: completions of one prompt; None where there is one prompt.
        prompt_only: whether what the engine generates is dropped.
    """

    def __init__(self, n: int | None = None, *, prompt_only: bool = False) -> None:
        self._n, self._prompt_only = n, prompt_only
        self._prompts: dict[int, int] = {}
        self._completed: dict[int, int] = {}
        self._cached = self._reasoning = 0

    @classmethod
    def of(cls, completions: Sequence[Response]) -> Usage:
        """The usage of the whole completions of one prompt."""
        total = cls()
        for one in completions:
            total._end(one.index, one.usage)
        return total.usage

    def add(self, delta: Delta) -> None:
        """Add the next delta."""
        index = delta.index
        if delta.prompt_tokens is not None:
            self._prompts[index // self._n if self._n else 0] = delta.prompt_tokens
        if not self._prompt_only:
            self._completed[index] = self._completed.get(index, 0) + len(delta.token_ids)
        self._end(index, delta.usage)

    def _end(self, index: int, usage: Usage | None) -> None:
        """Take a completion's own usage, which it has at its end."""
        if usage is None:
            return
        prompt, position = divmod(index, self._n) if self._n else (0, index)
        self._prompts[prompt] = usage.prompt_tokens
        self._completed[index] = 0 if self._prompt_only else usage.completion_tokens
        self._cached += 0 if position else usage.cached_tokens
        self._reasoning += usage.reasoning_tokens

    @property
    def usage(self) -> Usage:
        """The usage of what was added."""
        prompt, completed = sum(self._prompts.values()), sum(self._completed.values())
        return Usage(prompt, completed, self._cached, self._reasoning)


@dataclass(frozen=True, slots=True)
class Extras:
    """What the events of a stream have besides their choices' text."""

    usage: bool = False
    """The usage, in an event of its own at the end."""
    usage_so_far: bool = False
    """The usage so far, in every event."""
    token_ids: bool = False
    held_text: bool = False
    """What the model has written that may become a call, as it is written."""

    @classmethod
    def of(cls, options: StreamOptions | None, *, token_ids: bool | None) -> Self:
        """Those that a request asks for."""
        options = options or {}
        return cls(
            bool(options.get("include_usage")),
            bool(options.get("continuous_usage_stats")),
            bool(token_ids),
            bool(options.get("include_held_text")),
        )

    def usage_field(self, total: UsageSum) -> str:
        """JSON of an event's `usage`, with the comma before it."""
        if self.usage_so_far:
            return f',"usage":{json.dumps(usage_fields(total.usage))}'
        return ',"usage":null' if self.usage else ""

    def last_event(self, before: str, total: UsageSum) -> bytes:
        """The event with the usage alone, if one is wanted; `before` is what precedes its choices."""
        if not self.usage:
            return b""
        usage = json.dumps(usage_fields(total.usage))
        return f'{before}],"usage":{usage}}}\n\n'.encode("ascii")


# --- log-probabilities of prompts ------------------------------------------------------------------


def prompt_logprobs(
    logprobs: Sequence[TokenLogprob | None], texts: TokenTexts
) -> list[dict[str, Any] | None]:
    """A prompt's log-probabilities in vLLM's form: for each token, it and its alternatives by id."""
    return [token and _alternatives(token, texts) for token in logprobs]


def _alternatives(token: TokenLogprob, texts: TokenTexts) -> dict[str, Any]:
    ranks = {token_id: rank for rank, token_id in enumerate(token.top, start=1)}
    ranks[token.token_id] = token.rank
    return {
        str(token_id): {
            "logprob": max(logprob, MIN_LOGPROB),
            "rank": ranks[token_id],
            "decoded_token": texts.text(token_id),
        }
        for token_id, logprob in {token.token_id: token.logprob, **token.top}.items()
    }
