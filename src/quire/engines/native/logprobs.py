"""Log-probabilities of chosen tokens, their ranks, and their likeliest rivals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.top import largest
from quire.outputs import TokenLogprob

_GROUP_ENTRIES = 2**20  # done together: bounds the memory of what comes in between


def token_logprobs(
    logits: NDArray[np.float32], tokens: NDArray[np.int64], tops: Sequence[int]
) -> list[TokenLogprob]:
    """Return the log-probability of `tokens` (M,) under the softmax of `logits` (M, V).

    `tops` (M,) says how many of the likeliest tokens to name beside each; impossible ones are not.
    """
    found: list[TokenLogprob] = []
    group = max(1, _GROUP_ENTRIES // logits.shape[1])
    for start in range(0, len(logits), group):
        end = start + group
        found += _group(logits[start:end], tokens[start:end], tops[start:end])
    return found


def _group(
    logits: NDArray[np.float32], tokens: NDArray[np.int64], tops: Sequence[int]
) -> list[TokenLogprob]:
    normalisers = log_sum_exp(logits)
    values = logits[np.arange(len(logits)), tokens]
    ranks = [1 + int(np.count_nonzero(above)) for above in logits > values[:, None]]
    chosen = values - normalisers
    most = max(tops, default=0)
    if not most:
        named: list[dict[int, float]] = [{} for _ in tops]
    else:
        ranked = largest(logits, most)
        scores = (ranked.values[:, :most] - normalisers[:, None]).tolist()
        named = [
            _possible(ids[:top], row[:top])
            for ids, row, top in zip(ranked.ids[:, :most].tolist(), scores, tops, strict=True)
        ]
    return [
        TokenLogprob(*one)
        for one in zip(tokens.tolist(), chosen.tolist(), named, ranks, strict=True)
    ]


def _possible(ids: list[int], scores: list[float]) -> dict[int, float]:
    """Leave out what was banned: where a constraint allows fewer tokens than are to be named."""
    return {token: score for token, score in zip(ids, scores, strict=True) if score > -math.inf}


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the logarithm of the sum of the exponentials of each row (M, V)."""
    highest = logits.max(axis=1)
    with np.errstate(invalid="ignore"):  # a row without usable numbers gives NaN
        exponentials = logits - highest[:, None]
        np.exp(exponentials, out=exponentials)
        return highest + np.log(exponentials.sum(axis=1, dtype=np.float64))
