"""What is done to the logits before a token is chosen: biases, bans and penalties.

In this order: logit_bias; bans (stop tokens before `min_tokens`, the last tokens of bad words);
the repetition penalty; presence and frequency penalties. The functions change the logits they are
given, in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.errors import SamplingError, UnsupportedOptionError
from quire.sampling import SamplingParams

Encode = Callable[[str], Sequence[int]]
"""Encodes text without control tokens; for bad words."""


@dataclass(frozen=True, slots=True)
class LogitRules:
    """What one request asks for, in the form in which it is applied."""

    bias_ids: NDArray[np.int64]
    bias_amounts: NDArray[np.float32]
    stop_ids: NDArray[np.int64]  # banned until min_tokens
    min_tokens: int
    bad_words: tuple[tuple[int, ...], ...]
    repetition: float
    presence: float
    frequency: float

    @property
    def penalised(self) -> bool:
        return self.repetition != 1.0 or self.presence != 0.0 or self.frequency != 0.0

    @property
    def always(self) -> bool:
        """Whether there is something to do for every token, not only before `min_tokens`."""
        return self.penalised or bool(self.bad_words) or bool(len(self.bias_ids))


def logit_rules(
    params: SamplingParams, stop_ids: Sequence[int], vocab_size: int, encode: Encode | None
) -> LogitRules:
    """Prepare one request's rules.

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
    return LogitRules(
        bias_ids=np.array(list(params.logit_bias), dtype=np.int64),
        bias_amounts=np.array(list(params.logit_bias.values()), dtype=np.float32),
        stop_ids=np.array([t for t in stop_ids if 0 <= t < vocab_size], dtype=np.int64),
        min_tokens=params.min_tokens,
        bad_words=bad_word_ids(params.bad_words, encode) if encode else (),
        repetition=params.repetition_penalty,
        presence=params.presence_penalty,
        frequency=params.frequency_penalty,
    )


def bad_word_ids(words: Sequence[str], encode: Encode) -> tuple[tuple[int, ...], ...]:
    """Encode each word as it stands at a beginning and as it stands after a space."""
    found: dict[tuple[int, ...], None] = {}
    for word in words:
        for text in (word, " " + word.lstrip()):
            ids = tuple(encode(text))
            if ids:
                found[ids] = None
    return tuple(found)


class TokenCounts:
    """The distinct tokens of one completion and its prompt, and how often each was generated.

    Two growing arrays, so that a step gathers and scatters them without looking at the vocabulary.
    """

    def __init__(self, prompt_ids: NDArray[np.int32]) -> None:
        distinct = np.unique(prompt_ids)
        self._size = len(distinct)
        self._ids = np.concatenate([distinct, np.zeros(64, dtype=np.int32)])
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._places = {token: place for place, token in enumerate(distinct.tolist())}

    @property
    def ids(self) -> NDArray[np.int32]:
        return self._ids[: self._size]

    @property
    def counts(self) -> NDArray[np.float32]:
        """How often each of `ids` was generated; 0 for one that only the prompt has."""
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        """Count a generated token."""
        place = self._places.get(token)
        if place is None:
            place = self._places[token] = self._size
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._size += 1
        self._counts[place] += 1.0


@dataclass(frozen=True, slots=True)
class Adjustment:
    """One row of logits and all that decides how it is adjusted."""

    row: int
    rules: LogitRules
    output_ids: NDArray[np.int32]
    counts: TokenCounts | None


def adjust(logits: NDArray[np.float32], adjustments: Sequence[Adjustment]) -> None:
    """Apply every rule to its row of logits (M, V), in place."""
    for one in adjustments:
        row = logits[one.row]
        row[one.rules.bias_ids] += one.rules.bias_amounts
        if len(one.output_ids) < one.rules.min_tokens:
            row[one.rules.stop_ids] = -np.inf
        if one.rules.bad_words:
            row[banned_tokens(one.output_ids, one.rules.bad_words)] = -np.inf
    penalised = [one for one in adjustments if one.counts is not None]
    if penalised:
        _penalise_rows(logits, penalised)


def banned_tokens(output_ids: NDArray[np.int32], bad_words: Sequence[tuple[int, ...]]) -> list[int]:
    """Return the tokens that would complete a bad word after these generated tokens."""
    longest = max(map(len, bad_words)) - 1
    tail = tuple(output_ids[len(output_ids) - longest :].tolist()) if longest else ()
    if longest > len(output_ids):
        tail = tuple(output_ids.tolist())
    return [word[-1] for word in bad_words if tail[len(tail) - len(word) + 1 :] == word[:-1]]


def _penalise_rows(logits: NDArray[np.float32], penalised: Sequence[Adjustment]) -> None:
    tokens = [one.counts for one in penalised if one.counts is not None]
    sizes = [len(counts.ids) for counts in tokens]

    def spread(values: list[float]) -> NDArray[np.float32]:
        return np.repeat(np.array(values, dtype=np.float32), sizes)

    penalise(
        logits,
        np.repeat(np.array([one.row for one in penalised]), sizes),
        np.concatenate([counts.ids for counts in tokens]),
        np.concatenate([counts.counts for counts in tokens]),
        spread([one.rules.repetition for one in penalised]),
        spread([one.rules.presence for one in penalised]),
        spread([one.rules.frequency for one in penalised]),
    )


def penalise(
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
