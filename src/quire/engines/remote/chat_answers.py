"""The chat API's answers: content, thoughts and calls, already taken apart by the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from quire.engines.remote.fields import is_greedy
from quire.engines.remote.reading import (
    chat_logprobs,
    check_index,
    counted,
    distrusting,
    finish_reason,
    ids,
    prompt_logprobs,
    unfinished,
    usage_of,
)
from quire.messages import ToolCall
from quire.outputs import FinishReason, TokenLogprob, Usage
from quire.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class ChatPart:
    """What one completion gained; the last part of each carries `finish_reason` and `usage`."""

    index: int
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None


@dataclass(slots=True)
class _Completion:
    """What is known of one completion so far. A call is [id, name, arguments]."""

    tokens: int = 0
    calls: dict[int, list[str]] = field(default_factory=dict[int, list[str]])
    last: ChatPart | None = None

    def add_calls(self, deltas: Any) -> None:
        """Calls come in pieces: the name with the first, the arguments bit by bit."""
        for place, delta in enumerate(deltas or ()):
            call = self.calls.setdefault(int(delta.get("index", place)), ["", "", ""])
            function = delta.get("function") or {}
            call[0] = call[0] or str(delta.get("id") or "")
            call[1] += str(function.get("name") or "")
            call[2] += str(function.get("arguments") or "")

    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(
            ToolCall(name, arguments or "{}", identity or None)
            for _, (identity, name, arguments) in sorted(self.calls.items())
        )


class ChatReader:
    """Reads the parts of one request's completions.

    The last part of each completion, with its calls, comes at the stream's end. Where the server
    gives no token ids, completions of one request cannot be told apart in its usage: the first
    then carries the whole count, so that sums stay right.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._expected = 1 if is_greedy(params) else params.n
        self._completions = [_Completion() for _ in range(self._expected)]
        self._usage: Any = None
        self._prompt_ids: tuple[int, ...] = ()

    def add(self, event: Mapping[str, Any]) -> list[ChatPart]:
        """Read one event, or a whole answer; see AnswerReader."""
        found: list[ChatPart] = []
        with distrusting():
            self._usage = event.get("usage") or self._usage
            self._prompt_ids = ids(event.get("prompt_token_ids")) or self._prompt_ids
            for choice in event["choices"]:
                part = self._part(choice, event.get("prompt_logprobs"))
                if part.finish_reason is not None:
                    self._completions[part.index].last = part
                elif part.content or part.reasoning or part.token_ids:
                    found += self._copies(part)
        return found

    def flush(self) -> list[ChatPart]:
        """The last part of each completion; see AnswerReader."""
        ended = [(one, one.last) for one in self._completions if one.last is not None]
        if len(ended) < self._expected:
            raise unfinished(len(ended), self._expected)
        found: list[ChatPart] = []
        for completion, part in ended:
            calls = completion.tool_calls()
            reason = "tool_calls" if calls and part.finish_reason == "stop" else part.finish_reason
            usage = self._usage_of(part.index, completion.tokens)
            last = replace(part, tool_calls=calls, finish_reason=reason, usage=usage)
            found += self._copies(last)
        return found

    def _part(self, choice: Mapping[str, Any], of_prompt: Any) -> ChatPart:
        index = check_index(choice["index"], self._expected)
        completion = self._completions[index]
        if completion.last is not None:
            raise ValueError("a finished completion goes on")
        message = choice.get("delta") or choice.get("message") or {}
        token_ids = ids(choice.get("token_ids"))
        completion.tokens += len(token_ids)
        completion.add_calls(message.get("tool_calls"))
        return ChatPart(
            index,
            str(message.get("content") or ""),
            str(message.get("reasoning") or message.get("reasoning_content") or ""),
            token_ids=token_ids,
            logprobs=self._logprobs(choice.get("logprobs")),
            prompt_logprobs=self._of_prompt(index, of_prompt),
            finish_reason=finish_reason(choice.get("finish_reason")),
            stop_reason=choice.get("stop_reason"),
        )

    def _copies(self, part: ChatPart) -> list[ChatPart]:
        """One part for each completion that is the same as this one: greedy ones are."""
        if self._expected == self._params.n:
            return [part]
        return [
            replace(part, index=index, prompt_logprobs=part.prompt_logprobs if not index else None)
            for index in range(self._params.n)
        ]

    def _logprobs(self, value: Any) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        return None if top is None or value is None else chat_logprobs(value, top)

    def _of_prompt(self, index: int, value: Any) -> tuple[TokenLogprob | None, ...] | None:
        top = self._params.prompt_logprobs
        if top is None or index:
            return None
        return prompt_logprobs(value, self._prompt_ids, top)

    def _usage_of(self, index: int, tokens: int) -> Usage:
        if not any(one.tokens for one in self._completions):
            tokens = 0 if index else counted(self._usage, "completion_tokens")
        return usage_of(counted(self._usage, "prompt_tokens"), tokens, self._usage)
