"""What is done to the logits before a token is chosen: biases, bans, penalties, and grammars' masks.

In this order: logit_bias; bans (stop tokens before `min_tokens`, the last tokens of bad words);
the repetition penalty; presence and frequency penalties; then the masks, which no bias can lift. All
functions change the logits that they are given, in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher
from quire.errors import SamplingError, UnsupportedOptionError
from quire.sampling import SamplingParams

Encode = Callable[[str], Sequence[int]]
"""Encodes text without control tokens; for bad words."""


@dataclass(frozen=True, slots=True)
class LogitsProcessor:
    """What one request does to its logits, in the form in which it is applied."""

    bias_ids: NDArray[np.int64]
    bias_values: NDArray[np.float32]
    stop_ids: NDArray[np.int64]  # banned until min_tokens
    min_tokens: int
    bad_words: tuple[tuple[int, ...], ...]
    repetition: float
    presence: float
    frequency: float

    @property
    def penalizes(self) -> bool:
        """Whether it needs to know which tokens came before."""
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0

    @property
    def num_steps(self) -> float:
        """For how many tokens it has something to do: for all, or until `min_tokens` are there."""
        always = self.penalizes or self.bad_words or len(self.bias_ids)
        return math.inf if always else self.min_tokens


def make_logits_processor(
    params: SamplingParams, vocab_size: int, encode: Encode | None
) -> LogitsProcessor:
    """Prepare one request's processor.

    Raises:
        SamplingError: logit_bias names a token outside the vocabulary.
        UnsupportedOptionError: bad_words without a tokenizer.
    """
    for token in params.logit_bias:
        if not 0 <= token < vocab_size:
            raise SamplingError(
                f"logit_bias names token {token}; the vocabulary ends at {vocab_size - 1}."
            )
    if params.bad_words and encode is None:
        raise UnsupportedOptionError("bad_words needs a tokenizer, and this engine has none.")
    eos = () if params.ignore_eos else params.eos_token_ids
    stop_ids = [token for token in (*eos, *params.stop_token_ids) if 0 <= token < vocab_size]
    return LogitsProcessor(
        bias_ids=np.array(list(params.logit_bias), dtype=np.int64),
        bias_values=np.array(list(params.logit_bias.values()), dtype=np.float32),
        stop_ids=np.array(stop_ids, dtype=np.int64),
        min_tokens=params.min_tokens,
        bad_words=bad_word_ids(params.bad_words, encode) if encode else (),
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
    )


def bad_word_ids(words: Sequence[str], encode: Encode) -> tuple[tuple[int, ...], ...]:
    """Encode each word as at the beginning of a text, and as after a space."""
    words_ids: dict[tuple[int, ...], None] = {}  # a dictionary keeps the order
    for word in words:
        for text in (word, " " + word.lstrip()):
            ids = tuple(encode(text))
            if ids:
                words_ids[ids] = None
    return tuple(words_ids)


class TokenCounts:
    """The distinct tokens of one completion and its prompt, and how often each was generated.

    Penalties gather and scatter these few entries in each step. Counts for the whole vocabulary
    would make every step read and write as many numbers as the logits have.
    """

    def __init__(self, prompt_ids: NDArray[np.int32]) -> None:
        distinct = np.unique(prompt_ids)
        self._size = len(distinct)
        self._ids = np.concatenate([distinct, np.zeros(64, dtype=np.int32)])
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._index_of = {token: index for index, token in enumerate(distinct.tolist())}

    @property
    def ids(self) -> NDArray[np.int32]:
        """The distinct tokens."""
        return self._ids[: self._size]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` was generated; 0 for one that only the prompt has."""
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        """Count a generated token."""
        index = self._index_of.get(token)
        if index is None:
            index = self._index_of[token] = self._size
            if index == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[index] = token
            self._size += 1
        self._counts[index] += 1.0


@dataclass(frozen=True, slots=True)
class ProcessedRow:
    """One row of logits, its processor, and what the processor looks at."""

    row: int
    processor: LogitsProcessor
    output_ids: NDArray[np.int32]
    counts: TokenCounts | None  # None: no penalties


def process_logits(logits: NDArray[np.float32], rows: Sequence[ProcessedRow]) -> None:
    """Apply each processor to its row of the logits (M, V)."""
    for one in rows:
        row, processor = logits[one.row], one.processor
        row[processor.bias_ids] += processor.bias_values
        if len(one.output_ids) < processor.min_tokens:
            row[processor.stop_ids] = -np.inf
        if processor.bad_words:
            row[banned_tokens(one.output_ids, processor.bad_words)] = -np.inf
    penalized = [(one, one.counts) for one in rows if one.counts is not None]
    if penalized:
        _penalize_rows(logits, penalized)


def banned_tokens(output_ids: NDArray[np.int32], bad_words: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the tokens that would complete a bad word after these generated tokens."""
    longest = max(map(len, bad_words)) - 1
    tail = tuple(output_ids[max(0, len(output_ids) - longest) :].tolist())
    return [word[-1] for word in bad_words if tail[len(tail) - len(word) + 1 :] == word[:-1]]


def _penalize_rows(
    logits: NDArray[np.float32], penalized: Sequence[tuple[ProcessedRow, TokenCounts]]
) -> None:
    """Penalize all rows in one call, on arrays that run along their tokens one row after another."""
    sizes = [len(counts.ids) for _, counts in penalized]

    def spread(values: list[float]) -> NDArray[np.float32]:
        return np.repeat(np.array(values, dtype=np.float32), sizes)

    penalize(
        logits,
        np.repeat(np.array([one.row for one, _ in penalized]), sizes),
        np.concatenate([counts.ids for _, counts in penalized]),
        np.concatenate([counts.counts for _, counts in penalized]),
        spread([one.processor.repetition for one, _ in penalized]),
        spread([one.processor.presence for one, _ in penalized]),
        spread([one.processor.frequency for one, _ in penalized]),
    )


def penalize(
    logits: NDArray[np.float32],
    rows: NDArray[np.int64],
    ids: NDArray[np.int32],
    counts: NDArray[np.float32],
    repetition: NDArray[np.float32],
    presence: NDArray[np.float32],
    frequency: NDArray[np.float32],
) -> None:
    """Apply penalties to the entries (rows, ids) of the logits; all other arrays run along them.

    Repetition (Keskar et al., CTRL, 2019, as in transformers) divides a positive logit and
    multiplies a negative one, for every token of prompt and answer. Presence and frequency (the
    OpenAI API's formula) subtract `presence` once and `frequency` for each time that the token
    was generated.
    """
    values = logits[rows, ids]
    values = np.where(values > 0, values / repetition, values * repetition)
    values -= frequency * counts + presence * (counts > 0)
    logits[rows, ids] = values


def apply_masks(logits: NDArray[np.float32], matchers: Iterable[tuple[int, Matcher]]) -> None:
    """Ban what the grammars of these rows of the logits (M, V) do not allow."""
    # Infinity less infinity: such a row is unusable in any case.
    with np.errstate(invalid="ignore"):
        for row, matcher in matchers:
            allowed = logits[row]
            allowed += matcher.bias()
