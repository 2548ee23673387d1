"""The chat API's answers: content, thoughts and calls, already taken apart by the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

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
from quire.outputs import AnswerPart, Delta, TextPart, ThoughtPart, TokenLogprob, Usage
from quire.sampling import SamplingParams, greedy_on_vllm


@dataclass(slots=True)
class _OpenCall:
    """A call whose pieces are still coming."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Completion:
    """What is known of one completion so far."""

    tokens: int = 0
    calls: dict[int, _OpenCall] = field(default_factory=dict[int, _OpenCall])
    """Those not given out yet, by the index that the server gives them."""
    has_called: bool = False
    last: Delta | None = None

    def add_calls(self, deltas: Any) -> None:
        """Take pieces of calls: the name comes with the first, the arguments bit by bit."""
        for position, delta in enumerate(deltas or ()):
            call = self.calls.setdefault(int(delta.get("index", position)), _OpenCall())
            function = delta.get("function") or {}
            call.id = call.id or str(delta.get("id") or "")
            call.name += str(function.get("name") or "")
            call.arguments += str(function.get("arguments") or "")

    def take_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far, which are whole: text has followed them, or the answer has ended.

        Another call is no such sign, since a server may send the pieces of several in turns.
        """
        calls = tuple(
            ToolCall(call.name, call.arguments or "{}", call.id or None)
            for _, call in sorted(self.calls.items())
        )
        self.calls = {}
        self.has_called = self.has_called or bool(calls)
        return calls


class ChatAnswerReader:
    """Reads the deltas of one request's completions.

    The last delta of each completion comes at the stream's end. Where the server gives no token ids,
    completions of one request cannot be told apart in its usage: the first then carries the whole
    count, so that sums stay right.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._expected = 1 if greedy_on_vllm(params) else params.n
        self._completions = [_Completion() for _ in range(self._expected)]
        self._usage: Any = None
        self._prompt_ids: tuple[int, ...] = ()

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Read one event, or a whole answer; see AnswerReader."""
        deltas: list[Delta] = []
        with distrusting():
            self._usage = event.get("usage") or self._usage
            self._prompt_ids = ids(event.get("prompt_token_ids")) or self._prompt_ids
            for choice in event["choices"]:
                delta = self._delta(choice, event.get("prompt_logprobs"))
                if delta.finish_reason is not None:
                    self._completions[delta.index].last = delta
                elif delta.parts or delta.token_ids:
                    deltas += self._copies(delta)
        return deltas

    def flush(self) -> list[Delta]:
        """The last delta of each completion; see AnswerReader."""
        ended = [(one, one.last) for one in self._completions if one.last is not None]
        if len(ended) < self._expected:
            raise unfinished(len(ended), self._expected)
        deltas: list[Delta] = []
        for completion, delta in ended:
            calls = completion.take_calls()
            reason = delta.finish_reason
            if reason == "stop" and completion.has_called:
                reason = "tool_calls"
            last = replace(
                delta,
                parts=(*(delta.parts or ()), *calls),
                finish_reason=reason,
                usage=self._usage_of(delta.index, completion.tokens),
            )
            deltas += self._copies(last)
        return deltas

    def _delta(self, choice: Mapping[str, Any], of_prompt: Any) -> Delta:
        index = check_index(choice["index"], self._expected)
        completion = self._completions[index]
        if completion.last is not None:
            raise ValueError("a finished completion goes on")
        message = choice.get("delta") or choice.get("message") or {}
        token_ids = ids(choice.get("token_ids"))
        completion.tokens += len(token_ids)
        thought = str(message.get("reasoning") or message.get("reasoning_content") or "")
        content = str(message.get("content") or "")
        parts: list[AnswerPart] = []
        if thought or content:
            parts += completion.take_calls()
        if thought:
            parts.append(ThoughtPart(thought))
        if content:
            parts.append(TextPart(content))
        completion.add_calls(message.get("tool_calls"))
        reason = finish_reason(choice.get("finish_reason"))
        return Delta(
            index,
            thought + content,
            token_ids,
            self._logprobs(choice.get("logprobs")),
            reason,
            choice.get("stop_reason"),
            prompt_logprobs=self._prompt_logprobs(index, of_prompt),
            error="The server failed in a step of this request." if reason == "error" else None,
            parts=tuple(parts),
        )

    def _copies(self, delta: Delta) -> list[Delta]:
        """One delta for each completion that is the same as this one: greedy ones are."""
        if self._expected == self._params.n:
            return [delta]
        return [
            replace(
                delta, index=index, prompt_logprobs=delta.prompt_logprobs if not index else None
            )
            for index in range(self._params.n)
        ]

    def _logprobs(self, value: Any) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        return None if top is None or value is None else chat_logprobs(value, top)

    def _prompt_logprobs(self, index: int, value: Any) -> tuple[TokenLogprob | None, ...] | None:
        top = self._params.prompt_logprobs
        if top is None or index:
            return None
        return prompt_logprobs(value, self._prompt_ids, top)

    def _usage_of(self, index: int, tokens: int) -> Usage:
        if not any(one.tokens for one in self._completions):
            tokens = 0 if index else counted(self._usage, "completion_tokens")
        usage = usage_of(counted(self._usage, "prompt_tokens"), tokens, self._usage)
        return usage if self._expected == 1 else replace(usage, reasoning_tokens=0)
