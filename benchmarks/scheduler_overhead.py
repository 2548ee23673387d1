"""What the native engine itself costs for each step: everything but the model.

A runner that does nothing returns the same logits again and again (a shuffled Zipf distribution,
about as peaked as a language model's). What is left is scheduling, batches, sampling, detokenising
and the deltas. It runs in one thread, and its processor time is measured rather than the clock's, which
would count other programs on the machine too. Each figure is the median of several rounds.

    python benchmarks/scheduler_overhead.py [--repeats 5] [--steps 100]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from quire.adapters.folder import Adapter
from quire.engines.native.core.batch import Batch, LoadedAdapter
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

STREAMS = (1, 8, 64, 256)
VOCABULARIES = (4_096, 32_000)
PROMPT_TOKENS = 128
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "temperature, top_k, top_p": {"temperature": 0.95, "top_k": 50, "top_p": 0.7},
    "temperature, top_p": {"temperature": 0.95, "top_p": 0.7},
    "temperature": {"temperature": 1.0},
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.1},
    "greedy, logprobs": {"temperature": 0.0, "logprobs": 5},
}


class NullRunner:
    """Computes nothing; satisfies `Runner`."""

    block_size = 16
    num_blocks = 256 * 64
    max_model_len = 1024
    hidden_size = 1
    uses_mrope = False
    weights_bytes = kv_cache_bytes = 0
    hidden = np.empty((0, 1), np.float32)

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        random = np.random.default_rng(0)
        zipf = -1.2 * np.log(np.arange(1, vocab_size + 1))
        rows = [random.permutation(zipf) for _ in range(max(STREAMS))]
        self._logits = np.array(rows, dtype=np.float32)

    def run(self, batch: Batch) -> NDArray[np.float32]:
        return self._logits[: len(batch.logits_rows)]

    def load_adapter(self, adapter: Adapter) -> LoadedAdapter:
        raise NotImplementedError

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        pass

    def close(self) -> None:
        pass


def byte_level_tokenizer(vocab_size: int) -> Tokenizer:
    """Return a tokenizer whose tokens are pairs and triples of letters."""
    letters = "abcdefghijklmnopqrstuvwxyz\u0120"
    words = (
        "".join(word)
        for length in (1, 2, 3, 4)
        for word in itertools.product(letters, repeat=length)
    )
    vocabulary = {word: number for number, word in enumerate(itertools.islice(words, vocab_size))}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def seconds_a_step(streams: int, vocab_size: int, options: dict[str, Any], steps: int) -> float:
    """Return the mean processor time of a step in which every stream decodes one token."""
    engine = Engine(NullRunner(vocab_size), detokenizer_factory(byte_level_tokenizer(vocab_size)))
    random = np.random.default_rng(1)
    for number in range(streams):
        ids = tuple(random.integers(0, vocab_size, PROMPT_TOKENS).tolist())
        engine.add(str(number), Prompt(ids), SamplingParams(max_tokens=steps + 64, **options))
    while engine.statistics.generated_tokens < 24 * streams:  # until every prompt is computed
        engine.step()
    start = time.process_time()
    for _ in range(steps):
        engine.step()
    return (time.process_time() - start) / steps


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    given = parser.parse_args()
    cases = list(itertools.product(SETTINGS, VOCABULARIES, STREAMS))
    times: dict[tuple[str, int, int], list[float]] = {case: [] for case in cases}
    for _ in range(given.repeats):
        for name, vocab_size, streams in cases:
            took = seconds_a_step(streams, vocab_size, SETTINGS[name], given.steps)
            times[name, vocab_size, streams].append(took)
    print(f"{'sampling':28}{'vocabulary':>11}{'streams':>9}{'ms/step':>9}{'steps/s':>9}")
    for name, vocab_size, streams in cases:
        median = statistics.median(times[name, vocab_size, streams])
        print(f"{name:28}{vocab_size:>11,}{streams:>9}{median * 1e3:>9.3f}{1 / median:>9,.0f}")


if __name__ == "__main__":
    main()
