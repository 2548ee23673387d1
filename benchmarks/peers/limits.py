"""What the machine can give: how fast all cores together read memory, and multiply matrices."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.peers.process import Configuration, Peer
from benchmarks.peers.worker import Prompt, Side, cores, serve

READ = "read"
MULTIPLY = "multiply"
PEER = Peer(
    name="limits",
    module="benchmarks.peers.limits",
    configurations=(Configuration("limits", "full"),),
    variables=(("OPENBLAS_NUM_THREADS", str(cores())),),
)
READ_BYTES = 2**29
"""Bytes that are read: far more than any cache holds."""
MULTIPLY_SIZE = 2048
MULTIPLY_FLOPS = 2 * MULTIPLY_SIZE**3


class Limits:
    """Asked as a peer is; the prompt's text says what to do, and the seconds are those of doing it."""

    def __init__(self) -> None:
        import numpy as np

        self.version = np.__version__
        generator = np.random.default_rng(0)
        shape = (MULTIPLY_SIZE, MULTIPLY_SIZE)
        self.memory = np.ones(READ_BYTES // 8, np.int64)
        self.matrices = [generator.standard_normal(shape, np.float32) for _ in range(3)]
        self.pool = ThreadPoolExecutor(cores())

    def generate(
        self, prompts: Sequence[Prompt], new_tokens: int, on_token: Callable[[], None] | None
    ) -> int:
        """Read READ_BYTES, or compute MULTIPLY_FLOPS, once."""
        import numpy as np

        if prompts[0].text == READ:
            parts = np.array_split(self.memory, cores())
            # An integer maximum is a plain vector loop, which releases Python's lock.
            list(self.pool.map(np.max, parts))
        else:
            left, right, out = self.matrices
            np.matmul(left, right, out=out)
        return new_tokens

    def seconds(self, what: str) -> float:
        """Seconds of READ or of MULTIPLY, once."""
        began = time.perf_counter()
        self.generate([Prompt(what, [])], 1, None)
        return time.perf_counter() - began


def make(model: Path, target: Path, configuration: str) -> Side:
    return Limits()


def measure(ask: Callable[[str], float], repeats: int = 5) -> tuple[float, float]:
    """Bytes a second and floating-point operations a second; the best of some runs."""
    ask(READ), ask(MULTIPLY)
    time.sleep(0.1)
    read = min(ask(READ) for _ in range(repeats))
    multiply = min(ask(MULTIPLY) for _ in range(repeats))
    return READ_BYTES / read, MULTIPLY_FLOPS / multiply


if __name__ == "__main__":
    serve(make)
