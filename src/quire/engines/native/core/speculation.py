"""Speculation by prompt look-up: what followed the last tokens when they came before may follow again.

A sequence that decodes drafts some tokens out of its own prompt and answer. The model computes their
rows in the same step, and the engine accepts them one after another for as long as each is the token
that it draws anyway (`Engine.step`). A draft costs rows and never changes a token.

Saxena, Prompt Lookup Decoding, 2023; the drafts are cut to what pays (`StepLoad`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NGRAM_SIZES = (3, 2, 1)
"""Lengths of the n-grams that are looked up, the longest first."""

_PRIOR_ACCEPTANCE = (0.5, 0.35, 0.15)  # for each size, before any draft was seen
_LEARNING_RATE = 1 / 8  # how much one more token, accepted or not, moves an acceptance rate

_FREE_ROWS = 8
"""Rows that cost as much as reading the weights once does. A step takes about as long as this
number and its rows together: on 2 cores with AVX2, 1 row of a small model takes 4.6 ms, 9 rows 5.3
and 32 rows 17."""


class NgramIndex:
    """Where n-grams came last: for each, the position of the token that followed it."""

    __slots__ = ("_followers", "end")

    def __init__(self, start: int = 0) -> None:
        """Make an empty index of the n-grams before position `start` and later ones."""
        self.end = start  # the n-grams before all earlier positions are entered
        self._followers: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in NGRAM_SIZES)

    def extend(self, tokens: NDArray[np.int32]) -> None:
        """Enter the n-grams before each token from position `end` on; tokens (N,)."""
        if self.end == len(tokens):
            return
        for size, followers in zip(NGRAM_SIZES, self._followers, strict=True):
            first = max(self.end, size)
            if first < len(tokens):
                recent = tokens[first - size : -1].tolist()
                ngrams = zip(*(recent[i:] for i in range(size)), strict=False)
                followers.update(zip(ngrams, range(first, len(tokens)), strict=True))
        self.end = len(tokens)

    def find(self, size_index: int, ngram: tuple[int, ...]) -> int | None:
        """Return the position after the latest occurrence of an n-gram of that size."""
        return self._followers[size_index].get(ngram)


class Drafter:
    """Drafts for one sequence, and learns from what came how likely its drafts are accepted.

    It learns from each draft, also where none of it was run: a step shows the next token anyway.
    The completions of a request share the index of their prompt.
    """

    __slots__ = (
        "_acceptance_rates",
        "_draft",
        "_draft_start",
        "_own",
        "_prompt",
        "_prompt_length",
        "_size_index",
    )

    def __init__(self, prompt: NgramIndex, prompt_length: int) -> None:
        self._prompt = prompt  # filled by the first draft of any completion
        self._prompt_length = prompt_length
        self._own = NgramIndex(prompt_length)
        self._acceptance_rates = list(_PRIOR_ACCEPTANCE)
        self._draft: list[int] = []
        self._draft_start = 0  # the position of its first token
        self._size_index = 0  # in NGRAM_SIZES: the size of the n-gram that the draft follows

    @property
    def acceptance_rate(self) -> float:
        """How likely each token of the last draft is accepted, if those before it are."""
        return self._acceptance_rates[self._size_index]

    def draft(self, tokens: NDArray[np.int32], most: int) -> list[int]:
        """Return up to `most` tokens that may come next; none where the end of `tokens` is new."""
        self._learn(tokens)
        self._prompt.extend(tokens[: self._prompt_length])
        self._own.extend(tokens)
        self._draft = self._look_up(tokens, most)
        self._draft_start = len(tokens)
        return self._draft

    def _learn(self, tokens: NDArray[np.int32]) -> None:
        end = self._draft_start + len(self._draft)
        actual = tokens[self._draft_start : end].tolist()
        for drafted, token in zip(self._draft, actual, strict=False):
            rate = self._acceptance_rates[self._size_index]
            rate += _LEARNING_RATE * ((drafted == token) - rate)
            self._acceptance_rates[self._size_index] = rate
            if drafted != token:
                break

    def _look_up(self, tokens: NDArray[np.int32], most: int) -> list[int]:
        last = tuple(tokens[-NGRAM_SIZES[0] :].tolist())
        for size_index, size in enumerate(NGRAM_SIZES):
            if size > len(last):
                continue
            ngram = last[-size:]
            position = self._own.find(size_index, ngram)
            if position is None:
                position = self._prompt.find(size_index, ngram)
            if position is not None:
                self._size_index = size_index
                return _continuation(tokens, position, most)
        return []


def _continuation(tokens: NDArray[np.int32], start: int, most: int) -> list[int]:
    """Return the tokens from `start` on; past the end, what was taken is repeated."""
    taken = tokens[start : start + most].tolist()
    period = len(tokens) - start
    while len(taken) < most:
        taken.append(taken[-period])
    return taken


def make_drafters(prompt_length: int, count: int) -> list[Drafter]:
    """Return one for each of a request's completions."""
    prompt = NgramIndex()
    return [Drafter(prompt, prompt_length) for _ in range(count)]


@dataclass(slots=True)
class StepLoad:
    """A step as it fills: its rows, and how many tokens it is expected to give.

    With a fixed cost and one for each row, tokens a second rise by one more row exactly where its
    chance of a token exceeds the expected tokens over the step's cost in rows. So a lone stream
    drafts freely, a full batch only what is almost certain.
    """

    rows: int
    tokens: float

    def take(self, acceptance_rate: float, most: int) -> int:
        """Take the drafted rows of one sequence that pay, at most `most`; return how many."""
        taken, chance = 0, acceptance_rate
        while taken < most and chance * (_FREE_ROWS + self.rows) > self.tokens:
            self.rows += 1
            self.tokens += chance
            chance *= acceptance_rate
            taken += 1
        return taken
