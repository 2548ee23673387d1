"""What an engine emits: plain values, the same from every engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort", "error", "tool_calls"]
PoolingKind = Literal["last", "mean"]
POOLING_KINDS: tuple[PoolingKind, ...] = ("last", "mean")


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
    """Counts of tokens: of the prompt, how many of those came from the cache, and generated."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector (of the model's hidden size), and what it took."""

    vector: tuple[float, ...]
    usage: Usage


@dataclass(slots=True)  # not frozen: that would triple the time it takes to make one a token
class Delta:
    """What one completion gained since its last delta. A value: nobody changes it.

    `index` tells the completions of one request apart (0 to n-1). `text` may be empty while a
    character or a possible stop string is incomplete. The last delta of each index carries
    `finish_reason`, `usage` and, where a stop string or stop token ended it, `stop_reason`.
    """

    index: int
    text: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    usage: Usage | None = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """On the first delta of index 0 where asked for; the first prompt token has None."""
    error: str | None = None
    """Why, where `finish_reason` is "error"."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes that an engine in this process took for the model's weights and for its KV cache."""

    weights: int
    kv_cache: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine does at this moment, and what it counted since it was made."""

    running: int
    """Completions that are computed."""
    waiting: int
    """Completions that wait in the engine."""
    kv_cache_usage: float | None = None
    """Part of the KV cache in use, 0 to 1."""
    prefix_queries: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Of these, those that were found."""
    media_queries: int = 0
    """Media that were looked up among those processed before."""
    media_hits: int = 0
    """Of these, those that were found."""
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0
