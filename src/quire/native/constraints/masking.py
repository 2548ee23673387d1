"""Masks are made while the model computes, and laid over the logits once both are there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from quire.native.constraints.matcher import Matcher


class MaskMaker:
    """Prepares matchers for their next token, in a thread that starts with the first of them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quire-masks")

    def start(self, matchers: Sequence[Matcher]) -> None:
        """Begin to prepare these; each one's `bias` waits for it."""
        prepared = self._pool.submit(_prepare, matchers)
        for matcher in matchers:
            matcher.expect(prepared)

    def close(self) -> None:
        self._pool.shutdown()


def _prepare(matchers: Iterable[Matcher]) -> None:
    for matcher in matchers:
        matcher.prepare()


def mask(logits: NDArray[np.float32], matchers: Iterable[tuple[int, Matcher]]) -> None:
    """Ban what the grammars of these rows of the logits (M, V) do not allow, in place."""
    with np.errstate(invalid="ignore"):  # infinity less infinity: such a row is of no use anyhow
        for row, matcher in matchers:
            allowed = logits[row]
            allowed += matcher.bias()
