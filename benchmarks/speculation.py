"""Tokens a second with speculation on (8 tokens a step) beside off, on three kinds of text.

The kernels, the scheduler and the sampler run in full on a random Qwen2 of 26 M parameters, float32,
greedy; only which token comes is given, by raising its logit, since a random model writes no text:

    edit    the prompt is source code, the answer the same code with every 30th token another
    prose   the prompt is a page of the documentation, the answer the page's next tokens
    random  tokens without any repetition but by chance: what speculation costs at worst

Prompts of 256 tokens, 128 new ones for each; only the steps after the first new tokens are timed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import in_turns, report, table
from benchmarks.models import QWEN2_26M, qwen2_26m
from quire.engines.native.core.batch import Batch, Runner
from quire.engines.native.core.detokenizer import detokenizer_factory
from quire.engines.native.core.engine import Engine
from quire.engines.native.cpu.loading import load_model
from quire.prompt import Prompt
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

STREAMS = (1, 8)
PROMPT_TOKENS, NEW_TOKENS = 256, 128
DRAFT = 8
REPEATS = 3
ROOT = Path(__file__).parents[1]
Text = list[int]


class ScriptedRunner:
    """A runner whose likeliest token is that of a script.

    Which script a sequence follows is known by its prompt, and later by its first block.
    """

    def __init__(self, runner: Runner, scripts: Sequence[Text]) -> None:
        self.block_size, self.num_blocks = runner.block_size, runner.num_blocks
        self.vocab_size, self.max_model_len = runner.vocab_size, runner.max_model_len
        self._runner = runner
        self._by_prompt = {tuple(script[:16]): np.array(script) for script in scripts}
        self._by_block: dict[int, NDArray[np.int64]] = {}

    def run(self, batch: Batch) -> NDArray[np.float32]:
        logits = self._runner.run(batch)
        starts = batch.query_start
        for first, table_row in zip(starts, batch.block_tables, strict=False):
            if batch.positions[first] == 0:
                script = self._by_prompt[tuple(batch.token_ids[first : first + 16].tolist())]
                self._by_block[int(table_row[0])] = script
        owner = np.searchsorted(starts, batch.logits_rows, side="right") - 1
        for number, (row, sequence) in enumerate(zip(batch.logits_rows, owner, strict=True)):
            script = self._by_block[int(batch.block_tables[sequence, 0])]
            logits[number, script[batch.positions[row] + 1]] += 1000
        return logits

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._runner.copy_blocks(pairs)

    def close(self) -> None:
        self._runner.close()


def edits(tokenizer: Tokenizer, count: int) -> list[Text]:
    """Code, and after it the same code with changes."""
    code = read(tokenizer, sorted(ROOT.glob("src/quire/**/*.py")))
    generator = np.random.default_rng(0)
    texts: list[Text] = []
    for number in range(count):
        start = number * 3 * PROMPT_TOKENS
        prompt = code[start : start + PROMPT_TOKENS]
        answer = prompt[: NEW_TOKENS + 1]
        for place in range(15, len(answer), 30):
            answer[place] = int(generator.integers(3, QWEN2_26M["vocab_size"]))
        texts.append(prompt + answer)
    return texts


def prose(tokenizer: Tokenizer, count: int) -> list[Text]:
    """Pages of the documentation."""
    pages = read(tokenizer, [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
    length = PROMPT_TOKENS + NEW_TOKENS + 1
    assert len(pages) > length + 97 * count
    return [pages[97 * number :][:length] for number in range(count)]


def random(tokenizer: Tokenizer, count: int) -> list[Text]:
    """Random tokens."""
    generator = np.random.default_rng(0)
    shape = (count, PROMPT_TOKENS + NEW_TOKENS + 1)
    return generator.integers(3, QWEN2_26M["vocab_size"], shape).tolist()


def read(tokenizer: Tokenizer, paths: Sequence[Path]) -> list[int]:
    return tokenizer.encode_literal("".join(path.read_text(encoding="utf-8") for path in paths))


class Side:
    """Engines on one runner."""

    def __init__(self) -> None:
        self.tokenizer = Tokenizer.from_folder(qwen2_26m())
        self.runner = load_model(qwen2_26m(), max_model_len=1024, kv_cache_memory=2**30)
        self.make_detokenizer = detokenizer_factory(self.tokenizer)
        self.accepted = 0.0

    def rate(self, texts: Sequence[Text], speculation: int) -> float:
        """Tokens a second; and the share of drafted tokens that came is noted."""
        engine = Engine(
            ScriptedRunner(self.runner, texts),
            self.make_detokenizer,
            prefix_caching=False,
            speculation=speculation,
        )
        params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, ignore_eos=True)
        for number, text in enumerate(texts):
            engine.add(str(number), Prompt(tuple(text[:PROMPT_TOKENS])), params)
        while engine.statistics.generated_tokens < len(texts):
            engine.step()
        before, began = engine.statistics.generated_tokens, time.perf_counter()
        while engine.has_work:
            engine.step()
        took = time.perf_counter() - began
        found = engine.statistics
        assert found.generated_tokens == len(texts) * NEW_TOKENS
        if speculation:
            self.accepted = found.accepted_tokens / max(1, found.drafted_tokens)
        return (found.generated_tokens - before) / took


def main() -> None:
    side = Side()
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for kind in (edits, prose, random):
        for streams in STREAMS:
            texts = kind(side.tokenizer, streams)
            found = in_turns(
                {
                    "off": lambda texts=texts: side.rate(texts, 0),
                    "on": lambda texts=texts: side.rate(texts, DRAFT),
                },
                REPEATS,
            )
            ratio = found["on"] / found["off"]
            name = "edit" if kind is edits else kind.__name__
            rates = [f"{found[key]:.0f}" for key in ("off", "on")]
            rows.append([name, streams, *rates, f"{ratio:.2f}", f"{side.accepted:.0%}"])
            figures[f"{name} {streams}"] = {**found, "ratio": ratio, "accepted": side.accepted}
    header = ["text", "streams", "off, tokens/s", "on, tokens/s", "ratio", "drafts accepted"]
    title = "Speculation by prompt look-up, float32, Qwen2 of 26 M parameters"
    report("speculation", title, table(header, rows), figures)
    side.runner.close()


if __name__ == "__main__":
    main()
