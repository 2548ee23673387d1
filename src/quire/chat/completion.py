"""One completion on its way to the user: deltas read, and collected into a response."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire.chat.reply import ReplyReader
from quire.chat.response import ChatDelta, Response
from quire.messages import ToolCall
from quire.outputs import Delta, FinishReason, TokenLogprob, Usage


class CompletionReader:
    """Turns an engine's deltas of one completion into chat deltas, one for one."""

    def __init__(self, reader: ReplyReader) -> None:
        self._reader = reader
        self._has_called = False

    def read(self, delta: Delta) -> ChatDelta:
        if self._reader.passes_through:  # most tokens; it is paid for each
            return _chat_delta(delta, delta.text, delta.text, "", (), delta.finish_reason)
        part = self._reader.add(delta.text)
        text, content, reasoning = part.text, part.content, part.reasoning
        calls, finish_reason = part.tool_calls, delta.finish_reason
        if finish_reason is not None:
            rest = self._reader.flush()
            text, content = text + rest.text, content + rest.content
            reasoning, calls = reasoning + rest.reasoning, calls + rest.tool_calls
        self._has_called = self._has_called or bool(calls)
        if finish_reason == "stop" and self._has_called:
            finish_reason = "tool_calls"
        return _chat_delta(delta, text, content, reasoning, calls, finish_reason)


def _chat_delta(
    delta: Delta,
    text: str,
    content: str,
    reasoning: str,
    calls: tuple[ToolCall, ...],
    finish_reason: FinishReason | None,
) -> ChatDelta:
    return ChatDelta(
        delta.index,
        text,
        content,
        reasoning,
        calls,
        delta.token_ids,
        delta.logprobs,
        delta.prompt_logprobs,
        finish_reason,
        delta.stop_reason,
        delta.usage,
    )


@dataclass
class CompletionCollector:
    """Collects the deltas of one completion into a Response."""

    text: list[str] = field(default_factory=list[str])
    content: list[str] = field(default_factory=list[str])
    reasoning: list[str] = field(default_factory=list[str])
    tool_calls: list[ToolCall] = field(default_factory=list[ToolCall])
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None

    def add(self, delta: ChatDelta) -> None:
        self.text.append(delta.text)
        self.content.append(delta.content)
        self.reasoning.append(delta.reasoning)
        self.tool_calls.extend(delta.tool_calls)
        self.token_ids.extend(delta.token_ids)
        if delta.logprobs is not None:
            self.logprobs = self.logprobs or []
            self.logprobs.extend(delta.logprobs)
        self.prompt_logprobs = self.prompt_logprobs or delta.prompt_logprobs
        self.finish_reason = delta.finish_reason or self.finish_reason
        if delta.stop_reason is not None:
            self.stop_reason = delta.stop_reason
        self.usage = delta.usage or self.usage

    def response(self, index: int) -> Response:
        usage = self.usage or Usage(0, len(self.token_ids))
        return Response(
            response_text="".join(self.text),
            response_length=usage.completion_tokens,
            prompt_length=usage.prompt_tokens,
            finish_reason=self.finish_reason or "abort",
            content="".join(self.content),
            reasoning="".join(self.reasoning),
            tool_calls=tuple(self.tool_calls),
            index=index,
            token_ids=tuple(self.token_ids),
            logprobs=None if self.logprobs is None else tuple(self.logprobs),
            prompt_logprobs=self.prompt_logprobs,
            usage=usage,
            stop_reason=self.stop_reason,
        )
