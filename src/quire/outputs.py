"""What an engine returns: deltas that add up to whole answers, in ordered parts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from quire.messages import ToolCall

FinishReason = Literal["stop", "length", "abort", "error", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability (natural logarithm) of one token, and those of the most likely tokens.

    They are those after penalties and biases, and before temperature and truncation.
    """

    token_id: int
    logprob: float
    top: dict[int, float]
    """Token ids to log-probabilities, the most likely first; as many as `SamplingParams.logprobs`."""
    rank: int = 0
    """1 for the most likely token of the vocabulary; 0 where it is not known."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of a completion."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    """Tokens of the prompt that came from the prefix cache."""
    reasoning_tokens: int = 0
    """Generated tokens of the thought before the answer."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector: of the model's hidden size or, from a reward model, one score a label."""

    vector: tuple[float, ...]
    usage: Usage


# --- parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of the answer's own text."""

    text: str


@dataclass(frozen=True, slots=True)
class ThoughtPart:
    """A run of text that the model wrote between its reasoning markers."""

    text: str


AnswerPart: TypeAlias = TextPart | ThoughtPart | ToolCall


def text_of(parts: Iterable[AnswerPart], kind: type[TextPart] | type[ThoughtPart]) -> str:
    """The text of all parts of one kind, joined."""
    return "".join(part.text for part in parts if isinstance(part, kind))


def calls_of(parts: Iterable[AnswerPart]) -> tuple[ToolCall, ...]:
    """The tool calls among the parts, in order."""
    return tuple(part for part in parts if isinstance(part, ToolCall))


# --- deltas, and their sum -------------------------------------------------------------------------


@dataclass(slots=True)  # not frozen: making one for each token would take three times as long
class Delta:
    """What one completion gained since its last delta.

    Treat it as immutable: only the code that made it changes it. The deltas of one completion add up
    to one that is equivalent, wherever they were cut; see `DeltaSum`.
    """

    index: int = 0
    """The completion's index among those of its request: 0 to n - 1."""
    text: str = ""
    """All new text, with reasoning markers and tool calls as the model wrote them. It may be empty
    while a character, or a possible stop string, is incomplete."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    """On the last delta of each index, with `usage`."""
    stop_reason: str | int | None = None
    """The stop string, or the id of the stop token, that ended the completion, if one did."""
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """On the first delta of index 0, if asked for; the first token of the prompt has None."""
    error: str | None = None
    """The reason, where `finish_reason` is "error"."""
    parts: tuple[AnswerPart, ...] | None = None
    """`text` as parts, in the order in which it was written. None where all of `text` is the answer's
    own, as in most deltas: a tuple for each token would cost time."""
    prompt_tokens: int | None = None
    """On the first delta of each index, if the engine knows it before the answer ends."""
    prompt_token_ids: tuple[int, ...] | None = None
    """With `prompt_tokens`: the prompt itself."""
    refused: bool = False
    """Whether `error` is the request's own fault, which asks for what cannot be."""

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
        """The tool calls that this delta completes."""
        return () if self.parts is None else calls_of(self.parts)

    def all_parts(self) -> tuple[AnswerPart, ...]:
        """The parts, also where `parts` is None."""
        if self.parts is not None:
            return self.parts
        return (TextPart(self.text),) if self.text else ()


ChatDelta = Delta
"""The name of `Delta` for users of `ChatModel.stream`."""


@dataclass
class Response:
    """One whole completion. Lengths are in tokens.

    `response_text` is all that the model wrote, as LLaMA-Factory returns it; `parts` is the same text
    as ordered parts.
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
    """The stop string, or the id of the stop token, that ended the completion, if one did."""
    prompt_token_ids: tuple[int, ...] | None = None
    """The prompt, if this process has made it."""

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
        """The tool calls."""
        return calls_of(self.parts)


class DeltaSum:
    """Adds up the deltas of one completion, in time linear in their length.

    Invariant: the sum is one delta that is equivalent to all of them. Neighbouring parts of one kind
    are joined, so that the sum does not depend on where the deltas were cut.
    """

    __slots__ = ("_bare", "_last", "_logprobs", "_parts", "_texts", "_token_ids")

    def __init__(self) -> None:
        self._last = Delta()  # the fields that are not concatenated, of all deltas so far
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprob] | None = None
        self._parts: list[tuple[type[TextPart] | type[ThoughtPart], list[str]] | ToolCall] = []
        self._bare = True  # no delta so far had parts

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
        last.prompt_token_ids = last.prompt_token_ids or delta.prompt_token_ids
        last.usage = delta.usage or last.usage
        last.prompt_logprobs = last.prompt_logprobs or delta.prompt_logprobs
        last.error = delta.error or last.error
        last.refused = last.refused or delta.refused

    def _add_parts(self, parts: tuple[AnswerPart, ...]) -> None:
        self._bare = False
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
        """How many tokens the deltas so far have."""
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
        """The sum as one delta."""
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
            None if self._bare else self.parts,
            last.prompt_tokens,
            last.prompt_token_ids,
            last.refused,
        )

    def response(self) -> Response:
        """The sum as a whole completion; one that has no finish reason yet counts as aborted."""
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
            prompt_token_ids=last.prompt_token_ids,
        )


class AnswerSum:
    """Adds up the deltas of one request, in which those of several completions are interleaved."""

    def __init__(self) -> None:
        self._sums: dict[int, DeltaSum] = {}

    def add(self, delta: Delta) -> None:
        """Add the next delta of any completion."""
        one = self._sums.get(delta.index)
        if one is None:
            one = self._sums[delta.index] = DeltaSum()
        one.add(delta)

    def deltas(self) -> list[Delta]:
        """One delta for each completion, in the order of their indices."""
        return [self._sums[index].delta() for index in sorted(self._sums)]

    def responses(self) -> list[Response]:
        """One response for each completion, in the order of their indices."""
        return [self._sums[index].response() for index in sorted(self._sums)]
