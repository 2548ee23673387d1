"""Random requests by the thousand on a tiny model: memory stays flat, blocks whole, results right.

    python -m tests.native.longevity [--requests 100000] [--seed 0]

Requests of every kind come, run side by side and are aborted, on a pool with too few blocks and with
speculation. Each result is compared with the same request run alone, without speculation, prefix
cache or company; of an aborted one, what came before. Every twentieth part of the requests is a
round: at its end nobody is left, every block must be free, and memory is measured. A third of the
requests have one of two LoRA adapters, which are dropped and loaded anew in every round.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from quire.adapters.folder import Adapter
from quire.errors import QuireError
from quire.native.batch import LoadedAdapter, Runner
from quire.native.engine import Engine
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.native.fake_runner import NumberText

ROUNDS, TRACED = 20, 5  # tracing makes the last rounds slow
LONGEST = 100  # tokens of prompt and answer
OPEN = 20  # requests at once
BLOCKS = 16  # of 16 tokens: twelve sequences that run at once want up to 80
WRONG: tuple[dict[str, Any], ...] = (
    {"prompt": ()},
    {"prompt": (-1, 3)},
    {"prompt": (10**6,)},
    {"prompt": (1,) * LONGEST},
    {"max_tokens": 0},
    {"logit_bias": {10**6: 1.0}},
)


@dataclass(frozen=True)
class Case:
    """One request, and after how many of its deltas it is aborted (None: never)."""

    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: str | None = None
    abort_after: int | None = None


class Mix:
    """Draws requests of all kinds."""

    def __init__(self, vocab_size: int, seed: int, adapters: Sequence[str] = ()) -> None:
        self.random = Random(seed)
        self.adapters = adapters
        self.vocab_size = vocab_size
        self.beginnings = [self.tokens(length) for length in (3, 16, 17, 32, 40)]

    def tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.random.randrange(self.vocab_size) for _ in range(count))

    def adapter(self) -> str | None:
        """The name of the next request's adapter; None is the base model."""
        if not self.adapters or self.random.random() < 2 / 3:
            return None
        return self.random.choice(self.adapters)

    def response_format(self) -> Constraint | None:
        """Hook: the constraint of the next request. Constraints join the mix by being made here."""
        return None

    def case(self) -> Case:
        random = self.random
        abort_after = random.randrange(20) if random.random() < 0.1 else None
        return Case(self.prompt(), self.params(), self.adapter(), abort_after)

    def prompt(self) -> tuple[int, ...]:
        random = self.random
        kind = random.random()
        if kind < 0.5:
            return random.choice(self.beginnings) + self.tokens(random.randrange(1, 12))
        if kind < 0.7:
            return self.tokens(random.randrange(1, 8)) * random.randrange(1, 8)
        return self.tokens(random.randrange(1, 30))

    def params(self) -> SamplingParams:
        random = self.random
        options: dict[str, Any] = {
            "max_tokens": random.choice((1, 2, 5, 10, 10, 20, 40)),
            "n": random.choice((1,) * 12 + (2, 3, 5)),
            "temperature": random.choice((0.0, 0.0, 0.3, 1.0)),
            "seed": random.randrange(2**32) if random.random() < 0.97 else None,
            "priority": random.choice((0, 0, 0, -1, 1)),
            "response_format": self.response_format(),
        }
        for share, name, values in self.rare():
            if random.random() < share:
                options[name] = random.choice(values)
        return SamplingParams(**options)

    def rare(self) -> tuple[tuple[float, str, tuple[Any, ...]], ...]:
        """Options, how often each is given, and the values that it may have."""
        some = self.tokens(4)
        return (
            (0.3, "top_p", (0.5, 0.9)),
            (0.3, "top_k", (1, 5)),
            (0.1, "min_p", (0.05,)),
            (0.1, "repetition_penalty", (1.2,)),
            (0.1, "presence_penalty", (0.5, -0.5)),
            (0.1, "frequency_penalty", (0.3,)),
            (0.1, "logit_bias", ({some[0]: 5.0, some[1]: -100.0},)),
            (0.1, "bad_words", ((str(some[0]), f"{some[1]} {some[2]}"),)),
            (0.2, "min_tokens", (1, 4)),
            (0.3, "stop_token_ids", (some,)),
            (0.3, "eos_token_ids", (some[:1],)),
            (0.1, "ignore_eos", (True,)),
            (0.2, "stop", ((f"{some[0]} ", "11 1"),)),
            (0.1, "logprobs", (0, 3)),
            (0.05, "prompt_logprobs", (0, 2)),
        )


@dataclass
class Memory:
    """What the process held when nobody was left, after each round; traced: after the last ones."""

    resident: list[int] = field(default_factory=list[int])  # bytes
    blocks: list[int] = field(default_factory=list[int])  # of Python's allocator
    traced: list[int] = field(default_factory=list[int])  # bytes

    def measure(self) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.blocks.append(sys.getallocatedblocks())
        if tracemalloc.is_tracing():
            self.traced.append(tracemalloc.get_traced_memory()[0])


@dataclass
class Report:
    """Counts of one run; `different` names each request whose result is not the one alone."""

    memory: Memory = field(default_factory=Memory)
    compared: int = 0
    aborted: int = 0
    refused: int = 0
    adapted: int = 0
    different: list[str] = field(default_factory=list[str])


def make_engine(runner: Runner, **options: Any) -> Engine:
    return Engine(
        runner,
        lambda params: NumberText(),
        encode=lambda text: [int(word) % runner.vocab_size for word in text.split()],
        **options,
    )


class Longevity:
    """One run: a busy engine, and another that gets each request alone."""

    def __init__(
        self,
        make_runner: Callable[[], Runner],
        seed: int,
        check_every: int = 1,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        runner, other = make_runner(), make_runner()
        self._runner, self._adapters = runner, adapters
        self._loaded: dict[str | None, LoadedAdapter] = {}
        self._loads = 0
        self._loaded_alone = {adapter.name: other.load_adapter(adapter) for adapter in adapters}
        self.busy = make_engine(runner, max_sequences=12, max_batch_tokens=64, speculation=6)
        self.alone = make_engine(other, prefix_caching=False)
        self.mix = Mix(runner.vocab_size, seed, [adapter.name for adapter in adapters])
        self.report = Report()
        self._check_every = check_every
        self._open: dict[str, Case] = {}
        self._deltas: dict[str, list[Delta]] = {}
        self._added = self._steps = 0

    def run(self, requests: int) -> Report:
        gc.freeze()  # what is there already need not be looked through in each round
        for number in range(ROUNDS):
            if number == ROUNDS - TRACED:
                tracemalloc.start(1)
            self._round(requests // ROUNDS)
            statistics = self.busy.statistics
            assert statistics.free_blocks == statistics.total_blocks
            assert not statistics.failed_steps
            self.report.memory.measure()
        tracemalloc.stop()
        gc.unfreeze()
        return self.report

    def close(self) -> None:
        self.busy.close()
        self.alone.close()

    def _round(self, requests: int) -> None:
        self._load_adapters()
        random = self.mix.random
        last = self._added + requests
        while self._added < last or self.busy.has_work:
            for _ in range(random.choice((0, 0, 1, 3))):
                if self._added < last and len(self._open) < OPEN:
                    self._add()
            for name, delta in self.busy.step():
                if name in self._open:  # else aborted by an earlier delta of the step
                    self._take(name, delta)
            self._steps += 1
            if self._steps % self._check_every == 0:
                self.busy.check_integrity()
        self.busy.check_integrity()
        assert not self._open

    def _load_adapters(self) -> None:
        """Drop the adapters of the last round, and load them anew under numbers of their own."""
        for adapter in self._adapters:
            self._loads += 1
            self._loaded[adapter.name] = self._runner.load_adapter(
                replace(adapter, number=self._loads)
            )

    def _add(self) -> None:
        name, self._added = f"request {self._added}", self._added + 1
        if self.mix.random.random() < 0.02:
            self._refuse(name)
        case = self.mix.case()
        adapter = self._loaded.get(case.adapter)
        self.busy.add(name, Prompt(case.prompt), case.params, adapter=adapter)
        self.report.adapted += adapter is not None
        self._open[name], self._deltas[name] = case, []

    def _refuse(self, name: str) -> None:
        wrong = {"prompt": (1,), "max_tokens": 2, **self.mix.random.choice(WRONG)}
        try:
            self.busy.add(name, Prompt(wrong.pop("prompt")), SamplingParams(**wrong))
        except QuireError:
            self.report.refused += 1
        else:
            raise AssertionError(f"taken: {wrong}")

    def _take(self, name: str, delta: Delta) -> None:
        case, deltas = self._open[name], self._deltas[name]
        deltas.append(delta)
        aborted = case.abort_after is not None and len(deltas) > case.abort_after
        ended = sum(delta.finish_reason is not None for delta in deltas) == case.params.n
        if aborted or ended:
            self.busy.abort(name)  # where it has ended, nothing happens
            self.report.aborted += not ended
            del self._open[name], self._deltas[name]
            self._compare(name, case, deltas)

    def _compare(self, name: str, case: Case, deltas: list[Delta]) -> None:
        if case.params.seed is None and not case.params.greedy:
            return
        adapter = self._loaded_alone[case.adapter] if case.adapter else None
        self.alone.add(name, Prompt(case.prompt), case.params, adapter=adapter)
        expected: list[Delta] = []
        while self.alone.has_work:
            expected += [delta for _, delta in self.alone.step()]
        self.report.compared += 1
        for index in range(case.params.n):
            found = [contents(delta) for delta in deltas if delta.index == index]
            wanted = [contents(delta) for delta in expected if delta.index == index]
            if found != (wanted if deltas_end(deltas, index) else wanted[: len(found)]):
                self.report.different.append(f"{name}, completion {index}: {case}")


def contents(delta: Delta) -> tuple[object, ...]:
    """All of a delta but how many tokens came from the prefix cache."""
    usage = delta.usage
    return (
        delta.text, delta.token_ids, delta.logprobs, delta.finish_reason, delta.stop_reason,
        delta.prompt_logprobs, usage and (usage.prompt_tokens, usage.completion_tokens),
    )  # fmt: skip


def deltas_end(deltas: list[Delta], index: int) -> bool:
    return any(delta.finish_reason for delta in deltas if delta.index == index)


def tiny_runner(folder: Path) -> Runner:
    """A model of one layer on a cache that is too small for all."""
    from quire.native.cpu.loading import load_model

    return load_model(folder, max_model_len=LONGEST, kv_cache_memory=BLOCKS * 4096, num_threads=1)


def make_tiny_model(folder: Path) -> Path:
    from tests.native.random_models import make_random_model

    return make_random_model(
        folder,
        "llama2",
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.4,
    )


def make_tiny_adapters(folder: Path, model: Path) -> list[Adapter]:
    from tests.native.random_adapters import checked, make_random_adapter

    return [
        checked(make_random_adapter(folder / name, model, seed=r, strength=0.3, r=r), model, r)
        for name, r in (("a", 2), ("b", 5))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = make_tiny_model(Path(name))
        adapters = make_tiny_adapters(Path(name) / "adapters", folder)
        longevity = Longevity(lambda: tiny_runner(folder), given.seed, 10, adapters)
        began = time.perf_counter()
        report = longevity.run(given.requests)
        took = time.perf_counter() - began
    statistics, memory = longevity.busy.statistics, report.memory
    longevity.close()
    print(f"{given.requests:,} requests in {took:.0f} s: {report.compared:,} compared, ", end="")
    print(
        f"{report.aborted:,} aborted, {report.adapted:,} with adapters, {report.refused:,} refused; {statistics}"
    )
    for values, what in ((memory.resident, "resident bytes"), (memory.blocks, "allocated blocks"),
                         (memory.traced, "traced bytes")):  # fmt: skip
        print(f"{what} after each round: {', '.join(f'{value:,}' for value in values)}")
    print(f"different: {len(report.different)}", *report.different[:5], sep="\n")
    sys.exit(bool(report.different))


if __name__ == "__main__":
    main()
