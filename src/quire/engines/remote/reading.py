"""What the readers of both APIs' answers share. A server's answer is never trusted to be well formed."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from quire.errors import GenerationError
from quire.outputs import Delta, FinishReason, TokenLogprob, Usage
from quire.sampling import SamplingParams, greedy_on_vllm

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_PREFIX = "token_id:"
_MINUS_INFINITY = -9999.0  # vLLM writes this for minus infinity, which JSON does not have


class ResponseReader(Protocol):
    """Converts the answer to one request into deltas."""

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Read one event of a stream, or an answer that came whole."""
        ...

    def flush(self) -> list[Delta]:
        """End the answer: return the last delta of each completion.

        Raises:
            GenerationError: a completion has no finish reason.
        """
        ...


@contextmanager
def checked_shape() -> Generator[None]:
    """Raise GenerationError where an answer does not have the expected shape."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise GenerationError(
            f"The server's answer does not have vLLM's form: {type(error).__name__}: {error}."
        ) from error


def completions_sent(params: SamplingParams) -> int:
    """How many completions the server sends; of several greedy ones it is asked for one."""
    return 1 if greedy_on_vllm(params) else params.n


def repeated(delta: Delta, copies: int) -> list[Delta]:
    """The delta for each of `copies` completions: greedy ones are all the same."""
    if copies == 1:
        return [delta]
    others = (replace(delta, index=index, prompt_logprobs=None) for index in range(1, copies))
    return [delta, *others]


def finish_reason(value: str | None) -> FinishReason | None:
    """A completion's finish reason; an unknown one counts as "stop"."""
    return None if value is None else _FINISH_REASONS.get(value, "stop")


def ids(value: Any) -> tuple[int, ...]:
    """Token ids from a JSON list or null."""
    return tuple(int(token) for token in value or ())


def check_index(index: Any, count: int) -> int:
    """Return the index of a choice; raise ValueError if it is not one of `count` completions."""
    if not isinstance(index, int) or not 0 <= index < count:
        raise ValueError(f"index {index!r} of {count} completions")
    return index


def completion_logprobs(
    value: Mapping[str, Any], token_ids: Sequence[int], top: int
) -> tuple[TokenLogprob, ...]:
    """Read log-probabilities in the completions API's form, with the `top` most likely tokens."""
    return tuple(
        _entry(
            token, logprob, {_token(name): other for name, other in (likeliest or {}).items()}, top
        )
        for token, logprob, likeliest in zip(
            token_ids, value["token_logprobs"], value["top_logprobs"], strict=True
        )
    )


def chat_logprobs(value: Mapping[str, Any], top: int) -> tuple[TokenLogprob, ...]:
    """Read log-probabilities in the chat API's form, with the `top` most likely tokens of each.

    Those of a thought, which quire's own server tells apart, come before the content's.
    """
    entries = (*(value.get("reasoning_content") or ()), *(value.get("content") or ()))
    return tuple(
        _entry(
            _token(entry["token"]),
            entry["logprob"],
            {_token(one["token"]): one["logprob"] for one in entry.get("top_logprobs") or ()},
            top,
        )
        for entry in entries
    )


def prompt_logprobs(
    value: Sequence[Mapping[str, Mapping[str, Any]] | None], prompt_ids: Sequence[int], top: int
) -> tuple[TokenLogprob | None, ...]:
    """Read the log-probabilities of a prompt's own tokens.

    `value` maps, at each position, token ids to their entries; the prompt's token is one of them.
    """
    result: list[TokenLogprob | None] = []
    for token, position in zip(prompt_ids, value, strict=True):
        if position is None:
            result.append(None)
            continue
        numbers = {int(name): entry["logprob"] for name, entry in position.items()}
        entry = _entry(token, numbers[token], numbers, top, position[str(token)].get("rank") or 0)
        result.append(entry)
    return tuple(result)


def _entry(
    token: int, value: float, likeliest: Mapping[int, float], top: int, rank: int = 0
) -> TokenLogprob:
    """One token's entry; of `likeliest`, which may hold the token itself, the `top` are kept."""
    logprob = _number(value)
    ranked = sorted(((_number(other), name) for name, other in likeliest.items()), reverse=True)
    kept = {name: value for value, name in ranked[:top]}
    if not rank and token in kept:
        rank = 1 + sum(value > logprob for value in kept.values())
    return TokenLogprob(token, logprob, kept, rank)


def _token(name: str) -> int:
    if not name.startswith(_PREFIX):
        raise GenerationError(
            "The server gives log-probabilities without token ids (return_tokens_as_token_ids), "
            "so they cannot be read; leave logprobs out."
        )
    return int(name[len(_PREFIX) :])


def _number(value: float) -> float:
    return -math.inf if value <= _MINUS_INFINITY else float(value)


def counted(usage: Any, name: str) -> int:
    """A count from an answer's `usage`; 0 where the server does not report it."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0


def unfinished(count: int, expected: int) -> GenerationError:
    """The error for a stream that ended before all completions did."""
    return GenerationError(
        f"The server's stream ended with {count} of {expected} completions finished."
    )


def usage_of(prompt_tokens: int, completion_tokens: int, usage: Any) -> Usage:
    """The usage of one completion; what the server does not report counts as 0."""
    details = usage if isinstance(usage, Mapping) else {}
    return Usage(
        prompt_tokens,
        completion_tokens,
        counted(details.get("prompt_tokens_details"), "cached_tokens"),
        counted(details.get("completion_tokens_details"), "reasoning_tokens"),
    )
