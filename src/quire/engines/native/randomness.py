"""Each completion's own random numbers: one uniform for each token, found by the token's position."""

from __future__ import annotations

import secrets

import numpy as np

_CHUNK = 64
_MASK = 2**64 - 1


def random_seed() -> int:
    """Return the key of a request that gave no seed."""
    return secrets.randbits(64)


class Uniforms:
    """The numbers of one completion: number `i` is for its token `i`, whatever happens around it.

    Philox is counter-based, keyed by (seed, completion index): streams are independent, and a
    number depends on nothing but its key and position, so neither the other requests of a batch
    nor a preemption can change what is drawn. The raw bits are scaled here because NumPy promises
    the bit stream of Philox for ever, but not what `Generator.random` makes of it.
    """

    def __init__(self, seed: int, index: int) -> None:
        self._key = (seed & _MASK, index)
        self._first = 0
        self._numbers: list[float] = []
        self._stream: np.random.Philox | None = None

    def __getitem__(self, position: int) -> float:
        """Return the number for one position, in [0, 1). Positions are asked for in rising order."""
        while position >= self._first + len(self._numbers):
            self._refill()
        return self._numbers[position - self._first]

    def _refill(self) -> None:
        if self._stream is None:
            self._stream = np.random.Philox(key=np.array(self._key, dtype=np.uint64))
        self._first += len(self._numbers)
        raw = self._stream.random_raw(_CHUNK)
        self._numbers = ((raw >> np.uint64(11)) * 2.0**-53).tolist()
