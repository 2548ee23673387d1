"""Log-probabilities of a prompt's own tokens, gathered while it is computed in chunks."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.logprobs import token_logprobs
from quire.outputs import TokenLogprob


class PromptLogprobs:
    """What is known so far: entry `i` is of prompt token `i` and comes from the row before it.

    A prompt that is preempted and computed again keeps what it has.
    """

    __slots__ = ("_newest", "_prompt", "_top", "entries")

    def __init__(self, prompt_ids: NDArray[np.int32], top: int) -> None:
        self._prompt = prompt_ids
        self._top = top
        self._newest: list[TokenLogprob] = []
        self.entries: list[TokenLogprob | None] = [None]  # nothing predicts the first token

    @property
    def is_complete(self) -> bool:
        return len(self.entries) == len(self._prompt)

    @property
    def is_usable(self) -> bool:
        """Whether the entries added last are numbers; NaN or infinity in a row makes its entry NaN."""
        return not any(math.isnan(entry.logprob) for entry in self._newest)

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
        self._newest = token_logprobs(logits, tokens, [self._top] * len(logits))
        self.entries += self._newest
