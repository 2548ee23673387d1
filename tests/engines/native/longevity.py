"""Random requests by the hundred at an engine that is stepped by hand, on a runner that sees a wrong slot.

Requests of every kind, with adapters and with constraints, for answers and for vectors, come, run side
by side and are aborted, on a pool with too few blocks and with speculation. The engine's accounts are
checked after each step, and each result is compared with the same request run alone, without speculation,
prefix cache or company; of an aborted one, what came before. `benchmarks/longevity.py` asks whole engines
over real kernels such requests, by the hundred thousand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from quire.constraints.compiler import ConstraintCompiler
from quire.engines.native.core.batch import LoadedAdapter, Runner
from quire.engines.native.core.engine import Engine
from quire.engines.native.core.pooling import Pooling
from quire.errors import QuireError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.engines.native.fake_runner import NumberText
from tests.engines.native.small_tokenizers import END, byte_level

VOCAB = byte_level().vocab_size
NUMBER_ADAPTERS = 3
CONSTRAINTS = (
    Constraint("regex", "[0-9]{2,6}"),
    Constraint("regex", "(the cat|the mat|said )+"),
    Constraint("choice", ("cat", "café", "mat")),
    Constraint("json", {"type": "object", "properties": {"a": {"type": "integer"}}}),
)
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
Side = tuple[Runner, list[LoadedAdapter]]
"""A runner, and the adapters that it has loaded."""


@dataclass(frozen=True)
class Case:
    """One request: for answers or, with `pooling`, for a vector.

    `adapter` is an index in the list of those loaded; `abort_after` counts deltas.
    """

    prompt: tuple[int, ...]
    params: SamplingParams
    adapter: int | None = None
    abort_after: int | None = None
    pooling: Pooling | None = None


class Mix:
    """Draws requests of all kinds."""

    def __init__(self, vocab_size: int, seed: int) -> None:
        self.random = Random(seed)
        self.vocab_size = vocab_size
        self.beginnings = [self.tokens(length) for length in (3, 16, 17, 32, 40)]

    def tokens(self, count: int) -> tuple[int, ...]:
        return tuple(self.random.randrange(self.vocab_size) for _ in range(count))

    def adapter(self) -> int | None:
        """The index of the next request's adapter."""
        return self.random.choice((None, None, *range(NUMBER_ADAPTERS)))

    def response_format(self) -> Constraint | None:
        """The constraint of the next request."""
        return self.random.choice(CONSTRAINTS) if self.random.random() < 0.1 else None

    def case(self) -> Case:
        random = self.random
        if random.random() < 0.04:
            pooling = Pooling(random.choice(("last", "mean")), random.random() < 0.5)
            return Case(self.prompt(), SamplingParams(max_tokens=1, seed=0), pooling=pooling)
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
            "eos_token_ids": (byte_level().token_to_id(END),),
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
            (0.1, "ignore_eos", (True,)),
            (0.2, "stop", ((f"{some[0]} ", "11 1"),)),
            (0.1, "logprobs", (0, 3)),
            (0.05, "prompt_logprobs", (0, 2)),
            (0.3, "streamed", (False,)),
        )


@dataclass
class Report:
    """Counts of one run; `different` names each request whose result is not the one alone."""

    compared: int = 0
    aborted: int = 0
    refused: int = 0
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

    def __init__(self, make_side: Callable[[], Side], seed: int) -> None:
        (busy, self._adapters), (alone, self._adapters_alone) = make_side(), make_side()
        self.busy = make_engine(busy, max_sequences=12, max_batch_tokens=64, speculation=6)
        self.alone = make_engine(alone, prefix_caching=False)
        self.compiler = ConstraintCompiler(byte_level(), VOCAB)
        self.mix = Mix(VOCAB, seed)
        self.report = Report()
        self._open: dict[str, Case] = {}
        self._deltas: dict[str, list[Delta]] = {}
        self._added = 0

    def run(self, requests: int) -> Report:
        """Have so many requests run, until none is left."""
        random = self.mix.random
        while self._added < requests or self.busy.has_work:
            for _ in range(random.choice((0, 0, 1, 3))):
                if self._added < requests and len(self._open) < OPEN:
                    self._add()
            for name, delta in self.busy.step():
                if name in self._open:  # else aborted by an earlier delta of the step
                    self._take(name, delta)
            self.busy.check_integrity()
        assert not self._open
        statistics = self.busy.statistics
        assert statistics.free_blocks == statistics.total_blocks
        assert not statistics.failed_steps
        return self.report

    def close(self) -> None:
        self.busy.close()
        self.alone.close()
        self.compiler.close()

    def _add(self) -> None:
        name, self._added = f"request {self._added}", self._added + 1
        if self.mix.random.random() < 0.02:
            self._refuse(name)
        case = self.mix.case()
        self._enter(self.busy, self._adapters, name, case)
        self._open[name], self._deltas[name] = case, []

    def _enter(self, engine: Engine, adapters: list[LoadedAdapter], name: str, case: Case) -> None:
        if case.pooling is not None:
            engine.add_pooling(name, Prompt(case.prompt), case.pooling)
            return
        adapter = None if case.adapter is None else adapters[case.adapter]
        matchers = self.compiler.compile(case.params)
        engine.add(name, Prompt(case.prompt), case.params, adapter=adapter, matchers=matchers)

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
        self._enter(self.alone, self._adapters_alone, name, case)
        expected: list[Delta] = []
        while self.alone.has_work:
            expected += [delta for _, delta in self.alone.step()]
        self.report.compared += 1
        for index in range(case.params.n):
            results = [contents(delta) for delta in deltas if delta.index == index]
            wanted = [contents(delta) for delta in expected if delta.index == index]
            if results != (wanted if deltas_end(deltas, index) else wanted[: len(results)]):
                self.report.different.append(f"{name}, completion {index}: {case}")


def contents(delta: Delta) -> tuple[object, ...]:
    """All of a delta but how many tokens came from the prefix cache."""
    usage = delta.usage
    return (
        delta.text, delta.token_ids, delta.logprobs, delta.finish_reason, delta.stop_reason,
        delta.prompt_logprobs, usage and (usage.prompt_tokens, usage.completion_tokens),
        delta.error, getattr(delta, "vector", None),
    )  # fmt: skip


def deltas_end(deltas: list[Delta], index: int) -> bool:
    return any(delta.finish_reason for delta in deltas if delta.index == index)
