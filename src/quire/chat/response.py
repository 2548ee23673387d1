"""What a user of ChatModel gets back."""

from __future__ import annotations

from dataclasses import dataclass

from quire.messages import ToolCall
from quire.outputs import FinishReason, TokenLogprob, Usage


@dataclass
class Response:
    """One whole completion.

    `response_text` is all that the model wrote, as LLaMA-Factory gives it; `content`, `reasoning`
    and `tool_calls` are the same taken apart. Lengths are counted in tokens.
    """

    response_text: str
    response_length: int
    prompt_length: int
    finish_reason: FinishReason
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    usage: Usage | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token that ended it, if one did."""


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one a token
class ChatDelta:
    """What one completion gained since its last delta; the richer stream's element. A value.

    `text` is all that was written, the other three are the same taken apart. The last delta of each
    index carries `finish_reason` and `usage`, the first one `prompt_tokens`, where the engine knows
    them so early.
    """

    index: int = 0
    text: str = ""
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    prompt_tokens: int | None = None
