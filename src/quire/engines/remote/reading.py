"""What readers of both APIs' answers share: log-probabilities, reasons, and trust in nothing."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from quire.errors import GenerationError
from quire.outputs import Delta, FinishReason, TokenLogprob, Usage

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_PREFIX = "token_id:"
_MINUS_INFINITY = -9999.0  # vLLM's stand-in for what JSON cannot say


class AnswerReader(Protocol):
    """Turns one request's answer into deltas; made anew for each request."""

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Read one event of a stream, or an answer that came whole."""
        ...

    def flush(self) -> list[Delta]:
        """The answer has ended: return the last delta of each completion.

        Raises:
            GenerationError: a completion is not finished.
        """
        ...


@contextmanager
def distrusting() -> Generator[None]:
    """A server's answer of an unknown shape becomes a GenerationError."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise GenerationError(
            f"The server's answer has not the form of vLLM's: {type(error).__name__}: {error}."
        ) from error


def finish_reason(value: str | None) -> FinishReason | None:
    """Why a completion ended; what is unknown here counts as "stop"."""
    return None if value is None else _FINISH_REASONS.get(value, "stop")


def ids(value: Any) -> tuple[int, ...]:
    """A list of token ids."""
    return tuple(int(token) for token in value or ())


def check_index(index: Any, count: int) -> int:
    """Raise ValueError for an index that is none of the request's completions."""
    if not isinstance(index, int) or not 0 <= index < count:
        raise ValueError(f"index {index!r} of {count} completions")
    return index


def completion_logprobs(
    value: Mapping[str, Any], token_ids: Sequence[int], top: int
) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in the completions API's form; `top` rivals are kept for each token."""
    return tuple(
        _entry(
            token, number, {_token(name): amount for name, amount in (rivals or {}).items()}, top
        )
        for token, number, rivals in zip(
            token_ids, value["token_logprobs"], value["top_logprobs"], strict=True
        )
    )


def chat_logprobs(value: Mapping[str, Any], top: int) -> tuple[TokenLogprob, ...]:
    """Log-probabilities in the chat API's form; `top` rivals are kept for each token."""
    return tuple(
        _entry(
            _token(entry["token"]),
            entry["logprob"],
            {_token(rival["token"]): rival["logprob"] for rival in entry.get("top_logprobs") or ()},
            top,
        )
        for entry in value.get("content") or ()
    )


def prompt_logprobs(
    value: Sequence[Mapping[str, Mapping[str, Any]] | None], prompt_ids: Sequence[int], top: int
) -> tuple[TokenLogprob | None, ...]:
    """The prompt's own: each position maps token ids to their values, the prompt's token among them."""
    found: list[TokenLogprob | None] = []
    for token, position in zip(prompt_ids, value, strict=True):
        if position is None:
            found.append(None)
            continue
        numbers = {int(name): entry["logprob"] for name, entry in position.items()}
        entry = _entry(token, numbers[token], numbers, top, position[str(token)].get("rank") or 0)
        found.append(entry)
    return tuple(found)


def _entry(
    token: int, number: float, rivals: Mapping[int, float], top: int, rank: int = 0
) -> TokenLogprob:
    """`rivals` are the token itself and the likeliest ones; only the `top` likeliest are kept."""
    logprob = _number(number)
    ranked = sorted(((_number(value), name) for name, value in rivals.items()), reverse=True)
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
    """A count of an answer's `usage`, 0 where it is not told."""
    value = usage.get(name) if isinstance(usage, Mapping) else None
    return value if isinstance(value, int) else 0


def unfinished(count: int, expected: int) -> GenerationError:
    """The error of a stream that ended too early."""
    return GenerationError(
        f"The server's stream ended with {count} of {expected} completions finished."
    )


def usage_of(prompt_tokens: int, completion_tokens: int, usage: Any) -> Usage:
    """The usage of one completion; what the server does not tell counts as 0."""
    told = usage if isinstance(usage, Mapping) else {}
    return Usage(
        prompt_tokens,
        completion_tokens,
        counted(told.get("prompt_tokens_details"), "cached_tokens"),
        counted(told.get("completion_tokens_details"), "reasoning_tokens"),
    )
