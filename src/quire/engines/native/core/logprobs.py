"""Log-probabilities of tokens, their ranks, and their likeliest rivals; and those of a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.sampling_ops import top_candidates
from quire.outputs import TokenLogprob

_CHUNK_ENTRIES = 2**20  # logits handled at once: bounds the memory of intermediate arrays


def token_logprobs(
    logits: NDArray[np.float32], tokens: NDArray[np.int64], tops: Sequence[int]
) -> list[TokenLogprob]:
    """Return the log-probability of `tokens` (M,) under the softmax of `logits` (M, V).

    `tops` (M,) says how many of the likeliest tokens to name beside each. Tokens with a logit of
    minus infinity are not named.
    """
    result: list[TokenLogprob] = []
    size = max(1, _CHUNK_ENTRIES // logits.shape[1])
    for start in range(0, len(logits), size):
        end = start + size
        result += _chunk_logprobs(logits[start:end], tokens[start:end], tops[start:end])
    return result


def _chunk_logprobs(
    logits: NDArray[np.float32], tokens: NDArray[np.int64], tops: Sequence[int]
) -> list[TokenLogprob]:
    normalizers = log_sum_exp(logits)
    values = logits[np.arange(len(logits)), tokens]
    # Row by row, since count_nonzero with an axis sums booleans as integers, which is slower.
    ranks = [1 + int(np.count_nonzero(above)) for above in logits > values[:, None]]
    chosen = values - normalizers
    most = max(tops, default=0)
    if not most:
        named: list[dict[int, float]] = [{} for _ in tops]
    else:
        candidates = top_candidates(logits, most)
        scores = (candidates.values[:, :most] - normalizers[:, None]).tolist()
        named = [
            _possible(ids[:top], row[:top])
            for ids, row, top in zip(candidates.ids[:, :most].tolist(), scores, tops, strict=True)
        ]
    return [
        TokenLogprob(*one)
        for one in zip(tokens.tolist(), chosen.tolist(), named, ranks, strict=True)
    ]


def _possible(ids: list[int], scores: list[float]) -> dict[int, float]:
    """Leave out banned tokens: a constraint may allow fewer tokens than are to be named."""
    return {token: score for token, score in zip(ids, scores, strict=True) if score > -math.inf}


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of the exponentials of each row (M, V).

    A row that holds NaN or infinity gives NaN.
    """
    highest = logits.max(axis=1)
    with np.errstate(invalid="ignore"):
        exponentials = logits - highest[:, None]
        np.exp(exponentials, out=exponentials)
        return highest + np.log(exponentials.sum(axis=1, dtype=np.float64))


class PromptLogprobs:
    """The log-probabilities of one prompt's own tokens, gathered while it is computed in chunks.

    Entry `i` is that of prompt token `i` and comes from the row before it. A prompt that is
    preempted and computed again keeps what it has.
    """

    __slots__ = ("_prompt", "_top", "entries", "is_usable")

    def __init__(self, prompt_ids: NDArray[np.int32], top: int) -> None:
        self._prompt = prompt_ids
        self._top = top
        self.is_usable = True
        """Whether all entries are numbers; NaN or infinity in a row makes its entry NaN."""
        self.entries: list[TokenLogprob | None] = [None]  # nothing predicts the first token

    @property
    def is_complete(self) -> bool:
        """Whether every token of the prompt has its entry."""
        return len(self.entries) == len(self._prompt)

    @property
    def next_row(self) -> int:
        """The position of the first row that is still needed."""
        return len(self.entries) - 1

    def rows(self, start: int, end: int) -> range:
        """Return the positions within `start..end` whose logits are needed."""
        return range(max(start, self.next_row), min(end, len(self._prompt) - 1))

    def add(self, logits: NDArray[np.float32]) -> None:
        """Take the logits (M, V) of the rows from `next_row` on."""
        first = len(self.entries)
        tokens = self._prompt[first : first + len(logits)].astype(np.int64)
        newest = token_logprobs(logits, tokens, [self._top] * len(logits))
        self.entries += newest
        self.is_usable &= not any(math.isnan(entry.logprob) for entry in newest)
