"""Masks are made while the model computes, and laid over the logits once both are there."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from quire.constraints.matcher import Matcher


class MaskMaker:
    """Prepares matchers for their next token, in a thread that begins with the first of them.

    Started when the model is about to compute, it takes Python's lock from nobody.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quire-masks")
        self._waiting: list[Matcher] = []

    def add(self, matchers: Iterable[Matcher]) -> None:
        """Take matchers that have accepted a token."""
        self._waiting += matchers

    def start(self) -> None:
        """Begin to prepare them; each one's `bias` waits for it."""
        if self._waiting:
            matchers, self._waiting = self._waiting, []
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
