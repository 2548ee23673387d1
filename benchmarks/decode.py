"""Tokens a second of the runner alone, greedy, at 1, 8, 32 and 64 streams, beside `generate`.

No scheduler, no sampling beyond an argmax: what the kernels give. `benchmarks.throughput` measures
the whole engine. With `--no-peer` transformers is left out, for work on the kernels.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import in_turns, report, table
from benchmarks.models import QWEN2_26M, qwen2_26m

STREAMS = (1, 8, 32, 64)
PROMPT_TOKENS = 32
NEW_TOKENS = 64
REPEATS = 5


def prompts(streams: int) -> NDArray[np.int32]:
    """Random token ids, (streams, PROMPT_TOKENS)."""
    generator = np.random.default_rng(0)
    shape = (max(STREAMS), PROMPT_TOKENS)
    return generator.integers(3, QWEN2_26M["vocab_size"], shape).astype(np.int32)[:streams]


class Runner:
    """A CpuRunner with the little of a scheduler that equal prompts need."""

    def __init__(self, **options: Any) -> None:
        from quire.engines.native.cpu.loading import load_model

        self.blocks = -(-(PROMPT_TOKENS + NEW_TOKENS) // 16)
        self.runner = load_model(qwen2_26m(), max_model_len=self.blocks * 16, **options)

    def step(self, tokens: NDArray[np.int32], start: int) -> NDArray[np.int32]:
        """Run (S, n) tokens at positions from `start` on; the likeliest next token of each."""
        from quire.engines.native.core.batch import Batch

        streams, count = tokens.shape
        tables = np.arange(streams * self.blocks, dtype=np.int32).reshape(streams, -1)
        positions = np.arange(start, start + count)
        slots = tables[:, positions // 16].astype(np.int64) * 16 + positions % 16
        logits = self.runner.run(
            Batch(
                token_ids=tokens.ravel(),
                positions=np.tile(positions, streams).astype(np.int32),
                slots=slots.ravel(),
                query_start=np.arange(0, streams * count + 1, count, dtype=np.int32),
                context_lens=np.full(streams, start + count, np.int32),
                block_tables=tables,
                logits_rows=np.arange(count - 1, streams * count, count, dtype=np.int32),
            )
        )
        return logits.argmax(-1).astype(np.int32)

    def generate(self, streams: int) -> NDArray[np.int32]:
        """(streams, NEW_TOKENS) greedy tokens. The prompts go in as one batch of at most 2048."""
        ids = prompts(streams)
        found = [self.step(ids, 0)]
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS - 1):
            found.append(self.step(found[-1][:, None], position))
        return np.stack(found, 1)

    def rate(self, streams: int) -> float:
        """Tokens a second."""
        began = time.perf_counter()
        self.generate(streams)
        return streams * NEW_TOKENS / (time.perf_counter() - began)


class Transformers:
    def __init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.torch = torch
        self.model = AutoModelForCausalLM.from_pretrained(qwen2_26m(), dtype=torch.float32).eval()

    def generate(self, streams: int) -> NDArray[np.int32]:
        """(streams, NEW_TOKENS) greedy tokens."""
        ids = self.torch.tensor(prompts(streams).astype(np.int64))
        with self.torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=self.torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=NEW_TOKENS,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
        return found[:, PROMPT_TOKENS:].numpy().astype(np.int32)

    def rate(self, streams: int) -> float:
        """Tokens a second."""
        began = time.perf_counter()
        self.generate(streams)
        return streams * NEW_TOKENS / (time.perf_counter() - began)


def main(with_peer: bool) -> None:
    runner = Runner()
    peer = Transformers() if with_peer else None
    if peer is not None:
        same = (runner.generate(8) == peer.generate(8)).mean()
        print(f"greedy tokens equal to transformers': {100 * same:.1f} %")
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for streams in STREAMS:
        runs = {"quire": lambda streams=streams: runner.rate(streams)}
        if peer is not None:
            runs["transformers"] = lambda streams=streams: peer.rate(streams)
        found = in_turns(runs, REPEATS, warm_up=1)
        figures[str(streams)] = found
        row: list[object] = [streams, f"{found['quire']:.0f}"]
        if peer is not None:
            ratio = found["quire"] / found["transformers"]
            row += [f"{found['transformers']:.0f}", f"{ratio:.2f}"]
        rows.append(row)
    header = ["streams", "runner, tokens/s", "transformers generate, tokens/s", "ratio"]
    text = table(header[: len(rows[0])], rows)
    report("decode", "The runner alone, float32, Qwen2 of 26 M parameters", text, figures)
    runner.runner.close()


if __name__ == "__main__":
    main("--no-peer" not in sys.argv[1:])
