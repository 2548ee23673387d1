"""The words of `layout.EXPERTS_WORDS` for the layers that have experts, and what they point to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.packed import Tensor
from quire.engines.native.models.spec import ExpertsSpec

LinearMap = Callable[[Tensor], NDArray[np.int64]]
"""From a weight to the words of its linear map."""


class ExpertScratch:
    """What the layers' routing writes for a batch of at most `rows`; one layer at a time uses it."""

    def __init__(self, spec: ExpertsSpec, rows: int) -> None:
        chosen, grouped = (rows, spec.per_token), rows * (spec.per_token + 1)
        self._arrays = {
            layout.ROUTER_SCORES: np.zeros((rows, spec.count), np.float32),
            layout.SHARED_SCORES: np.zeros(rows, np.float32),
            layout.CHOSEN: np.zeros(chosen, np.int32),
            layout.CHOSEN_WEIGHTS: np.zeros(chosen, np.float32),
            layout.EXPERT_STARTS: np.zeros(spec.count + 2, np.int64),
            layout.GROUPED_ROWS: np.zeros(grouped, np.int32),
            layout.GROUPED_WEIGHTS: np.zeros(grouped, np.float32),
        }

    def fill(self, words: NDArray[np.int64]) -> None:
        """Write the arrays' addresses."""
        for word, array in self._arrays.items():
            words[word] = array.ctypes.data

    def array(self, word: int) -> NDArray[Any]:
        """What the address in `word` points to."""
        return self._arrays[word]


class ExpertTable:
    """One layer's words and linear maps. Compiled code may use `address` while this object lives."""

    def __init__(
        self,
        spec: ExpertsSpec,
        tensors: Mapping[str, Tensor],
        linear_map: LinearMap,
        scratch: ExpertScratch,
    ) -> None:
        total = spec.count + bool(spec.shared_size)
        roles = [f"experts.{i}.{role}" for i in range(total) for role in ("gate", "up", "down")]
        maps = np.stack([linear_map(tensors[role]) for role in roles])
        words = np.zeros(layout.EXPERTS_WORDS, np.int64)
        words[layout.EXPERT_COUNT], words[layout.ALL_EXPERTS] = spec.count, total
        words[layout.PER_TOKEN], words[layout.NORMALISED] = spec.per_token, spec.normalised
        words[layout.EXPERT_FFN] = spec.ffn_size
        words[layout.EXPERT_MAPS] = maps.ctypes.data
        router = linear_map(tensors["router"])
        words[layout.ROUTER_MAP] = router.ctypes.data
        # Everything whose address is in the words; it lives as long as they do.
        self._kept: list[object] = [tensors, maps, router, scratch]
        if spec.shared_size:
            score = linear_map(tensors["shared_score"])
            words[layout.SHARED_SCORE_MAP] = score.ctypes.data
            self._kept.append(score)
        scratch.fill(words)
        self._words = words

    @property
    def address(self) -> int:
        """Where the words are."""
        return self._words.ctypes.data


def expert_scratch_bytes(spec: ExpertsSpec, rows: int) -> int:
    """Bytes of `ExpertScratch`, but for the few that do not grow with the rows."""
    return 4 * rows * (spec.count + 1 + 4 * spec.per_token + 2)
