"""The memory of sequences' states: what recurrent layers keep of a sequence instead of keys and values."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.memory.arrays import huge_zeros, whole_lines
from quire.engines.native.cpu.memory.kv_cache import CacheBudget
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import OutOfMemoryError

logger = logging.getLogger("quire")

MIB = 2**20


class StateCache:
    """Slots, each for the state of one sequence in all layers: (slots, floats).

    The state of a layer is a part of a slot that begins at a cache line.
    """

    def __init__(self, spec: DecoderSpec, num_slots: int) -> None:
        self._offsets: dict[int, int] = {}  # of layers, in bytes
        offset = 0
        for index, layer in enumerate(spec.layers):
            if layer.state_floats:
                self._offsets[index] = offset
                offset += whole_lines(4 * layer.state_floats)
        self._slots: NDArray[Any] = huge_zeros((num_slots, offset // 4))
        self.stride = offset
        """Bytes from one slot to the next."""
        self.nbytes = self._slots.nbytes

    def address(self, layer: int) -> int:
        """Where the state of a layer begins in the first slot; 0 if it has none."""
        return self._slots.ctypes.data + self._offsets[layer] if layer in self._offsets else 0

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole slots, `(source, destination)` each, in order."""
        for source, destination in pairs:
            self._slots[destination] = self._slots[source]

    def free(self) -> None:
        """Let go of the memory."""
        self._slots = np.zeros((0, 0), np.float32)


def slot_bytes(spec: DecoderSpec) -> int:
    """Bytes of a slot; 0 if the model has no state."""
    return sum(whole_lines(4 * layer.state_floats) for layer in spec.layers)


def count_slots(
    spec: DecoderSpec, *, max_sequences: int, sequence_bytes: int, budget: CacheBudget
) -> int:
    """The number of slots; 0 if the model has no state.

    Two for each sequence, the second for what the prefix cache keeps and for drafts; but no more than half
    of the budget holds, and what leaves room for the keys and values of one sequence, `sequence_bytes`.

    Raises:
        OutOfMemoryError: not even one fits.
    """
    one = slot_bytes(spec)
    if not one:
        return 0
    if budget.nbytes < one:
        raise OutOfMemoryError(
            f"The state of one sequence needs {one / MIB:.1f} MiB; {budget.source} "
            f"{budget.nbytes / MIB:.1f} MiB: raise {budget.argument}"
        )
    room = min(budget.nbytes // 2, budget.nbytes - sequence_bytes)
    slots = max(1, min(2 * max_sequences, room // one))
    logger.info("States: %d slots of %.1f MiB, up to %.1f MiB", slots, one / MIB, slots * one / MIB)
    return slots
