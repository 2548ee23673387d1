"""Speculation by prompt look-up: what followed the last tokens where they stood before may follow again.

A sequence that decodes drafts some tokens out of its own prompt and answer, the model computes their
rows in the same step, and the engine takes them one after another for as long as each is the token
that it draws anyway (`Engine.step`). A draft costs rows and never changes a token.

Saxena, Prompt Lookup Decoding, 2023; the drafts are cut to what pays (`StepLoad`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZES = (3, 2, 1)
"""Lengths of the runs that are looked up, the longest first."""

_FIRST_TRUST = (0.5, 0.35, 0.15)  # how often a run's follower comes again, before any is seen
_RATE = 1 / 8  # how much one more follower, right or wrong, changes that

_FREE_ROWS = 8
"""Rows that cost as much as reading the weights once does. A step takes about as long as this
number and its rows together: on 2 cores with AVX2, 1 row of a small model takes 4.6 ms, 9 rows 5.3
and 32 rows 17."""


class NgramIndex:
    """Where runs of tokens stood last: for each, the position of the token that came after it."""

    __slots__ = ("_followers", "end")

    def __init__(self, start: int = 0) -> None:
        """Make an empty index of the runs before position `start` and the later ones."""
        self.end = start  # the runs before all earlier positions are entered
        self._followers: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in SIZES)

    def extend(self, tokens: NDArray[np.int32]) -> None:
        """Enter the runs that stand before each token from position `end` on; tokens (N,)."""
        if self.end == len(tokens):
            return
        for size, followers in zip(SIZES, self._followers, strict=True):
            first = max(self.end, size)
            if first < len(tokens):
                recent = tokens[first - size : -1].tolist()
                runs = zip(*(recent[i:] for i in range(size)), strict=False)
                followers.update(zip(runs, range(first, len(tokens)), strict=True))
        self.end = len(tokens)

    def find(self, place: int, run: tuple[int, ...]) -> int | None:
        """Return the position after the latest occurrence of a run of `SIZES[place]` tokens."""
        return self._followers[place].get(run)


class Drafter:
    """Drafts for one sequence, and learns from what came how far its drafts can be trusted.

    It learns from each draft, also where none of it was run: a step shows the next token anyway.
    The completions of a request share the index of their prompt.
    """

    __slots__ = ("_drafted", "_drafted_at", "_own", "_place", "_prompt", "_prompt_length", "_trust")

    def __init__(self, prompt: NgramIndex, prompt_length: int) -> None:
        self._prompt = prompt  # filled by the first draft of any completion
        self._prompt_length = prompt_length
        self._own = NgramIndex(prompt_length)
        self._trust = list(_FIRST_TRUST)
        self._drafted: list[int] = []
        self._drafted_at = 0  # the position of its first token
        self._place = 0  # in SIZES: how long the run was that it follows

    @property
    def trust(self) -> float:
        """How likely each token of the last draft is to come, if those before it do."""
        return self._trust[self._place]

    def draft(self, tokens: NDArray[np.int32], most: int) -> list[int]:
        """Return up to `most` tokens that may come next; none where the end of `tokens` is new."""
        self._learn(tokens)
        self._prompt.extend(tokens[: self._prompt_length])
        self._own.extend(tokens)
        self._drafted = self._look_up(tokens, most)
        self._drafted_at = len(tokens)
        return self._drafted

    def _learn(self, tokens: NDArray[np.int32]) -> None:
        end = self._drafted_at + len(self._drafted)
        for guess, token in zip(
            self._drafted, tokens[self._drafted_at : end].tolist(), strict=False
        ):
            trust = self._trust[self._place]
            self._trust[self._place] = trust + _RATE * ((guess == token) - trust)
            if guess != token:
                break

    def _look_up(self, tokens: NDArray[np.int32], most: int) -> list[int]:
        last = tuple(tokens[-SIZES[0] :].tolist())
        for place, size in enumerate(SIZES):
            if size > len(last):
                continue
            run = last[-size:]
            found = self._own.find(place, run)
            found = self._prompt.find(place, run) if found is None else found
            if found is not None:
                self._place = place
                return _go_on(tokens, found, most)
        return []


def _go_on(tokens: NDArray[np.int32], start: int, most: int) -> list[int]:
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

    def take(self, trust: float, most: int) -> int:
        """Take the drafted rows of one sequence that pay, at most `most`; return how many."""
        taken, chance = 0, trust
        while taken < most and chance * (_FREE_ROWS + self.rows) > self.tokens:
            self.rows += 1
            self.tokens += chance
            chance *= trust
            taken += 1
        return taken
