"""What a model writes: deltas that add up, and answers in ordered parts. The same from every engine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from quire.messages import ToolCall

FinishReason = Literal["stop", "length", "abort", "error", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability (natural) of one token, and those of its likeliest rivals.

    `top` maps token ids to log-probabilities, the likeliest first; it holds as many entries as
    `SamplingParams.logprobs` asked for. They are taken from the distribution after penalties and
    biases and before temperature and truncation.
    """

    token_id: int
    logprob: float
    top: dict[int, float]
    rank: int = 0
    """1 for the likeliest token of the vocabulary, 0 where it was not asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of tokens: of the prompt, and generated."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Of the prompt's, those that came from the prefix cache."""
    reasoning_tokens: int = 0
    """Of the generated ones, those of the thought before the answer."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector, and what it took.

    The vector has the model's hidden size or, from a reward model, one number a label.
    """

    vector: tuple[float, ...]
    usage: Usage


# --- parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of the answer's own text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtPart:
    """A run of what the model wrote between its reasoning markers."""

    text: str


AnswerPart: TypeAlias = TextPart | ThoughtPart | ToolCall


def text_of(parts: Iterable[AnswerPart], kind: type[TextPart] | type[ThoughtPart]) -> str:
    """All text of the parts of one kind, joined."""
    return "".join(part.text for part in parts if isinstance(part, kind))


def calls_of(parts: Iterable[AnswerPart]) -> tuple[ToolCall, ...]:
    """The tool calls among the parts, in order."""
    return tuple(part for part in parts if isinstance(part, ToolCall))


# --- deltas, and their sum -------------------------------------------------------------------------


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one for each token
class Delta:
    """What one completion gained since its last delta.

    A value: who receives one does not change it. Deltas of one completion add up, in order, to one
    that says the same, whatever the cuts between them: `DeltaSum`.
    """

    index: int = 0
    """Tells the completions of one request apart: 0 to n - 1."""
    text: str = ""
    """All that was written, with reasoning markers and calls as the model wrote them. It may be empty
    while a character or a possible stop string is incomplete."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    """On the last delta of each index, with `usage`."""
    stop_reason: str | int | None = None
    """The stop string or the stop token's id that ended the completion, if one did."""
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """On the first delta of index 0 where asked for; the first prompt token has None."""
    error: str | None = None
    """Why, where `finish_reason` is "error"."""
    parts: tuple[AnswerPart, ...] | None = None
    """`text` taken apart, in the order in which it was written. None where nothing is to be taken
    apart, as in most deltas: then all of `text` is the answer's."""
    prompt_tokens: int | None = None
    """On the first delta of each index, where the engine knows it so early."""

    @property
    def content(self) -> str:
        """The answer's own text."""
        return self.text if self.parts is None else text_of(self.parts, TextPart)

    @property
    def reasoning(self) -> str:
        """The thought's text."""
        return "" if self.parts is None else text_of(self.parts, ThoughtPart)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that became complete."""
        return () if self.parts is None else calls_of(self.parts)

    def all_parts(self) -> tuple[AnswerPart, ...]:
        """The parts, also where `parts` is None."""
        if self.parts is not None:
            return self.parts
        return (TextPart(self.text),) if self.text else ()


ChatDelta = Delta
"""The name under which users of `ChatModel.stream` know it."""


@dataclass
class Response:
    """One whole completion.

    `response_text` is all that the model wrote, as LLaMA-Factory gives it; `parts` is the same taken
    apart, in order. Lengths are counted in tokens.
    """

    response_text: str
    response_length: int
    prompt_length: int
    finish_reason: FinishReason
    parts: tuple[AnswerPart, ...] = ()
    index: int = 0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    usage: Usage | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token that ended it, if one did."""

    @property
    def content(self) -> str:
        """The answer's own text."""
        return text_of(self.parts, TextPart)

    @property
    def reasoning(self) -> str:
        """The thought's text."""
        return text_of(self.parts, ThoughtPart)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls of tools."""
        return calls_of(self.parts)


class DeltaSum:
    """Adds up the deltas of one completion, in time linear in their length.

    Invariant: the sum is one delta that any reader takes for all of them. Neighbouring runs of text
    and of thought are joined, so that the sum does not depend on the cuts.
    """

    __slots__ = ("_last", "_logprobs", "_parts", "_texts", "_token_ids", "_whole")

    def __init__(self) -> None:
        self._last = Delta()  # its fields that are single values, gathered from all deltas
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._parts: list[tuple[type[TextPart] | type[ThoughtPart], list[str]] | ToolCall] = []
        self._whole = True  # no delta so far was taken apart

    def add(self, delta: Delta) -> None:
        """Add the next delta."""
        last = self._last
        last.index = delta.index
        self._texts.append(delta.text)
        self._token_ids += delta.token_ids
        if delta.logprobs is not None:
            self._logprobs = self._logprobs or []
            self._logprobs += delta.logprobs
        if delta.parts is None:
            self._add_text(TextPart, delta.text)
        else:
            self._add_parts(delta.parts)
        if delta.finish_reason is not None:
            last.finish_reason = delta.finish_reason
        if delta.stop_reason is not None:
            last.stop_reason = delta.stop_reason
        if delta.prompt_tokens is not None and last.prompt_tokens is None:
            last.prompt_tokens = delta.prompt_tokens
        last.usage = delta.usage or last.usage
        last.prompt_logprobs = last.prompt_logprobs or delta.prompt_logprobs
        last.error = delta.error or last.error

    def _add_parts(self, parts: tuple[AnswerPart, ...]) -> None:
        self._whole = False
        for part in parts:
            if isinstance(part, ToolCall):
                self._parts.append(part)
            else:
                self._add_text(type(part), part.text)

    def _add_text(self, kind: type[TextPart] | type[ThoughtPart], text: str) -> None:
        if not text:
            return
        last = self._parts[-1] if self._parts else None
        if isinstance(last, tuple) and last[0] is kind:
            last[1].append(text)
        else:
            self._parts.append((kind, [text]))

    @property
    def parts(self) -> tuple[AnswerPart, ...]:
        """The parts so far, neighbours of one kind joined."""
        return tuple(
            part if isinstance(part, ToolCall) else part[0]("".join(part[1]))
            for part in self._parts
        )

    @property
    def token_count(self) -> int:
        """How many tokens the deltas had."""
        return len(self._token_ids)

    @property
    def usage(self) -> Usage | None:
        """The usage, once the completion has ended."""
        return self._last.usage

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the completion ended, once it has."""
        return self._last.finish_reason

    def delta(self) -> Delta:
        """The sum."""
        last = self._last
        return Delta(
            last.index,
            "".join(self._texts),
            tuple(self._token_ids),
            None if self._logprobs is None else tuple(self._logprobs),
            last.finish_reason,
            last.stop_reason,
            last.usage,
            last.prompt_logprobs,
            last.error,
            None if self._whole else self.parts,
            last.prompt_tokens,
        )

    def response(self) -> Response:
        """The sum as a whole answer."""
        last = self._last
        usage = last.usage or Usage(last.prompt_tokens or 0, len(self._token_ids))
        return Response(
            response_text="".join(self._texts),
            response_length=usage.completion_tokens,
            prompt_length=usage.prompt_tokens,
            finish_reason=last.finish_reason or "abort",
            parts=self.parts,
            index=last.index,
            token_ids=tuple(self._token_ids),
            logprobs=None if self._logprobs is None else tuple(self._logprobs),
            prompt_logprobs=last.prompt_logprobs,
            usage=usage,
            stop_reason=last.stop_reason,
        )


class AnswerSum:
    """Adds up the deltas of one request, whose completions come mixed."""

    def __init__(self) -> None:
        self._sums: dict[int, DeltaSum] = {}

    def add(self, delta: Delta) -> None:
        """Add the next delta of any completion."""
        one = self._sums.get(delta.index)
        if one is None:
            one = self._sums[delta.index] = DeltaSum()
        one.add(delta)

    def __bool__(self) -> bool:
        """Whether anything was added."""
        return bool(self._sums)

    def deltas(self) -> list[Delta]:
        """One delta for each completion, in the order of their indices."""
        return [self._sums[index].delta() for index in sorted(self._sums)]

    def responses(self) -> list[Response]:
        """One whole answer for each completion, in the order of their indices."""
        return [self._sums[index].response() for index in sorted(self._sums)]
