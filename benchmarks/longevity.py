"""Random requests by the hundred thousand on tiny models: results right, memory flat, nothing lost.

    python -m benchmarks.longevity                                        every model of MODELS
    python -m benchmarks.longevity qwen3-next deepseek-v3 --seed 3        some of them
    python -m benchmarks.longevity falcon-h1 --kv-dtype int8 --speculation 8

Each model is made of random weights and served by the native engine, with a KV cache too small for all and
few slots for states, so that sequences are preempted and cached blocks evicted all the time. Requests are
drawn from a pool, 1 to 64 at once, read slowly or quickly, closed or cancelled in the middle. What each
gives must be what it gives alone, without speculation, prefix cache or company; of one that is cancelled,
what came before. A twentieth of the requests is a round, with an adapter that is dropped in its middle; at
its end nobody is left, every block and slot must be free, and memory is measured. Settings that are not
given are drawn from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.measure import report, table
from quire.arguments import get_infer_args
from quire.engines.native.core.engine import EngineStatistics
from quire.engines.native.cpu.memory.kv_cache import KV_KINDS, KvDtype, block_bytes
from quire.engines.native.cpu.memory.states import slot_bytes
from quire.engines.native.models.registry import read_spec
from quire.engines.native.token_engine import NativeTokenEngine
from quire.engines.seam import PoolingParams
from quire.errors import QuireError
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from tests.engines.native.longevity import LONGEST, WRONG, Mix, contents
from tests.engines.native.small_tokenizers import byte_level

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_FFN = ("gate_proj", "up_proj", "down_proj")
_LATENT = ("kv_a_proj_with_mqa", "o_proj")

# Attention in every other layer, with more heads: else their states leave room for few sequences only.
_HALF = {"num_key_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2}

MODELS: dict[str, tuple[str, tuple[str, ...], dict[str, Any]]] = {
    "qwen3-next": ("qwen3_next", (*_ATTENTION, *_FFN, "in_proj_qkvz", "out_proj"), _HALF),
    "qwen3.5": ("qwen3_5_text", (*_ATTENTION, *_FFN, "in_proj_qkv", "out_proj"), _HALF),
    "granite-4-h": (
        "granite4_h",
        (*_ATTENTION, "in_proj", "out_proj"),
        {**_HALF, "num_hidden_layers": 4},
    ),
    "falcon-h1": (
        "falcon_h1",
        (*_ATTENTION, *_FFN, "in_proj"),
        {"num_key_value_heads": 4},
    ),
    "deepseek-v2": ("deepseek_v2", (*_LATENT, *_FFN, "q_proj"), {}),
    "deepseek-v3": ("deepseek_v3", (*_LATENT, *_FFN, "q_a_proj", "q_b_proj"), {}),
    "gemma-3": ("gemma3_text", (*_ATTENTION, *_FFN), {}),
    "gpt-oss": ("gpt_oss", _ATTENTION, {}),
}
"""Kinds of `tests/engines/native/random_models.py`, the modules that their adapters change, and what is
changed of the kinds."""

ADAPTERS = ("one", "two", "three")
"""Requests name one of them, or "base", or nobody, which is their sum."""
VISITOR = "visitor"
"""An adapter that is loaded with each round and dropped in its middle, under requests that use it."""
ROUNDS = 20
MOST_OPEN = 64
PATIENCE = 300.0
"""Seconds after which a request is given up for lost."""
CONSTRAINTS = (
    Constraint("regex", "[0-9]{2,6}"),
    Constraint("regex", "(the cat|the mat|said )+"),
    Constraint("choice", ("cat", "café", "mat")),
    Constraint("json", {"type": "object", "properties": {"a": {"type": "integer"}}}),
    Constraint("json", {"type": "array", "items": {"enum": ["the", "cat"]}, "maxItems": 4}),
)


# --- what is asked ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One request of the pool: for answers, or for a vector."""

    prompt: tuple[int, ...]
    params: SamplingParams | PoolingParams

    @property
    def completions(self) -> int:
        """How many completions it asks for."""
        return 1 if isinstance(self.params, PoolingParams) else self.params.n

    @property
    def is_repeatable(self) -> bool:
        """Whether it gives the same each time."""
        params = self.params
        return isinstance(params, PoolingParams) or params.greedy or params.seed is not None


class Pool(Mix):
    """Draws the entries of a pool."""

    def __init__(self, seed: int, size: int) -> None:
        super().__init__(byte_level().vocab_size, seed)
        self.beginnings += [self.tokens(length) for length in (48, 64, 65)]
        self.entries = [self._entry() for _ in range(size)]

    def _entry(self) -> Entry:
        chance = self.random.random()
        if chance < 0.02:
            return self._wrong()
        adapter = self.random.choice((*["base"] * 4, None, *ADAPTERS, VISITOR))
        if chance < 0.06:
            kind = self.random.choice(("last", "mean"))
            params = PoolingParams(kind=kind, normalize=chance < 0.04, adapter=adapter)
            return Entry(self.prompt(), params)
        salt = self.random.choice((None,) * 8 + ("salt",))
        return Entry(self.prompt(), replace(self.params(), adapter=adapter, cache_salt=salt))

    def _wrong(self) -> Entry:
        """A request that is refused."""
        wrong = {"prompt": (1,), "max_tokens": 2, **self.random.choice((*WRONG, {"adapter": "no"}))}
        return Entry(wrong.pop("prompt"), SamplingParams(**wrong))

    def response_format(self) -> Constraint | None:
        return self.random.choice(CONSTRAINTS) if self.random.random() < 0.07 else None

    def rare(self) -> tuple[tuple[float, str, tuple[Any, ...]], ...]:
        others = (one for one in super().rare() if one[1] != "stop")
        stops = (("e", "the"), (" ",), ("猫", "a"), ("no such text",))
        few = dict.fromkeys(self.tokens(3), 100.0)
        return (
            *others,
            (0.2, "stop", stops),
            (0.05, "include_stop_str_in_output", (True,)),
            (0.15, "logit_bias", (few,)),  # answers that repeat themselves, for drafts
        )


# --- one engine ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What is the same for all requests of a run."""

    kv_dtype: KvDtype
    speculation: int
    max_sequences: int
    max_batch_tokens: int
    threads: int = 1

    @classmethod
    def draw(cls, chance: random.Random) -> Settings:
        """Some settings at random."""
        return cls(
            kv_dtype=chance.choice(tuple(KV_KINDS)),
            speculation=chance.choice((0, 6)),
            max_sequences=chance.choice((6, 12, 24)),
            max_batch_tokens=chance.choice((32, 64, 128)),
        )

    @property
    def blocks(self) -> int:
        """Little more than one for each sequence, which would like three; one of full length must fit."""
        return max(-(-LONGEST // 16), self.max_sequences * 4 // 3)


def make_engine(folder: Path, settings: Settings, *, alone: bool = False) -> NativeTokenEngine:
    """An engine over the model in `folder` with its adapters; `alone` has no cache and drafts nothing."""
    spec = read_spec(folder / "model")
    blocks = settings.blocks * block_bytes(spec, 16, settings.kv_dtype)
    slot = slot_bytes(spec)
    slots = slot and min(2 * settings.max_sequences * slot, blocks)  # no more than half of all
    arguments = {
        "model_name_or_path": str(folder / "model"),
        "adapter_name_or_path": [str(folder / name) for name in ADAPTERS],
        "vllm_maxlen": LONGEST,
        "native_kv_cache_dtype": settings.kv_dtype,
        "native_kv_cache_memory": blocks + slots,
        "native_max_sequences": settings.max_sequences,
        "native_max_batch_tokens": settings.max_batch_tokens,
        "native_num_threads": 1 if alone else settings.threads,
        "native_speculation": 0 if alone else settings.speculation,
        "native_prefix_caching": not alone,
    }
    return NativeTokenEngine(get_infer_args(arguments), folder / "model", byte_level())


async def ask(engine: NativeTokenEngine, entry: Entry, name: str | None = None) -> Deltas:
    """What a request gives; `name` is its id. A vector comes as one delta."""
    prompt, params = Prompt(entry.prompt), entry.params
    if isinstance(params, PoolingParams):
        made = await engine.pool(prompt, params)
        yield Delta(0, repr(made.vector), finish_reason="stop", usage=made.usage)
        return
    params = replace(params, request_id=name)
    async with aclosing(engine.generate(prompt, params)) as deltas:
        async for delta in deltas:
            yield delta


Deltas = AsyncGenerator[Delta, None]


@dataclass
class Answer:
    """What came of a request until now: the contents of its deltas by completion, or an error."""

    completions: dict[int, list[tuple[object, ...]]] = field(
        default_factory=dict[int, list[tuple[object, ...]]]
    )
    ended: set[int] = field(default_factory=set[int])
    tokens: int = 0
    error: str | None = None

    def take(self, delta: Delta) -> None:
        self.completions.setdefault(delta.index, []).append(contents(delta))
        self.tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            self.ended.add(delta.index)

    def begins(self, whole: Answer) -> bool:
        """Whether this may be the beginning of `whole`; of completions that ended, all of it."""
        return all(
            found == (wanted := whole.completions.get(index, []))[: len(found)]
            and (index not in self.ended or len(found) == len(wanted))
            for index, found in self.completions.items()
        )


async def answers_alone(folder: Path, settings: Settings, entries: Sequence[Entry]) -> list[Answer]:
    """What each request gives alone."""
    engine = make_engine(folder, settings, alone=True)
    answers: list[Answer] = []
    try:
        await engine.load_adapter(folder / VISITOR, VISITOR)
        await _compile(engine)
        for entry in entries:
            answer = Answer()
            try:
                async for delta in ask(engine, entry):
                    answer.take(delta)
            except QuireError as error:
                answer.error = repr(error)
            answers.append(answer)
    finally:
        await engine.close()
    return answers


async def _compile(engine: NativeTokenEngine) -> None:
    """Have all constraints compiled, so that a busy machine lets none of them pass its time limit."""
    for constraint in CONSTRAINTS:
        params = SamplingParams(max_tokens=1, response_format=constraint)
        for left in reversed(range(5)):
            try:
                async for _ in ask(engine, Entry((1,), params)):
                    pass
                break
            except QuireError:
                if not left:
                    raise


# --- many at once ----------------------------------------------------------------------------------


@dataclass
class Report:
    """One run's figures. Lists have one entry for each round, after which nobody was left."""

    settings: Settings
    asked: int = 0
    compared: int = 0  # whole ones
    cancelled: int = 0
    refused: int = 0
    tokens: int = 0
    seconds: float = 0.0
    different: list[str] = field(default_factory=list[str])
    lost: list[str] = field(default_factory=list[str])
    held: list[str] = field(default_factory=list[str])  # blocks or slots, after a round
    resident: list[int] = field(default_factory=list[int])  # bytes
    allocated: list[int] = field(default_factory=list[int])  # blocks of Python's allocator
    engine: EngineStatistics | None = None

    @property
    def is_good(self) -> bool:
        """Whether every answer was right and nothing was lost or held."""
        return not (self.different or self.lost or self.held)

    def measure_memory(self) -> None:
        """Note what this process holds now."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        self.resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
        self.allocated.append(sys.getallocatedblocks())

    def slope(self, values: Sequence[int]) -> float:
        """How much a thousand requests add, by least squares over all rounds but the first quarter."""
        kept = values[len(values) // 4 :]
        if len(kept) < 2:
            return 0.0
        each = statistics.linear_regression(range(len(kept)), kept).slope
        return each * 1000 * len(values) / self.asked

    def figures(self) -> dict[str, Any]:
        """All of it, for JSON."""
        slopes = {"resident": self.slope(self.resident), "allocated": self.slope(self.allocated)}
        return {**asdict(self), "slope_per_1000": slopes}


@dataclass(frozen=True)
class Manner:
    """How one request is read."""

    closes_after: int | None = None  # deltas
    cancelled_after: float | None = None  # seconds
    pause: float = 0.0  # seconds before each delta

    @classmethod
    def draw(cls, chance: random.Random) -> Manner:
        """Nine of ten are read to their end, most of them at once."""
        pause = chance.choice((0.0,) * 9 + (0.001,))
        kind = chance.random()
        if kind < 0.06:
            return cls(closes_after=chance.randrange(1, 20), pause=pause)
        if kind < 0.1:
            return cls(cancelled_after=chance.expovariate(50), pause=pause)
        return cls(pause=pause)


class Traffic:
    """Requests of a pool at one engine, each compared with what it gives alone."""

    def __init__(
        self,
        engine: NativeTokenEngine,
        visitor: Path,
        entries: Sequence[Entry],
        alone: Sequence[Answer],
        chance: random.Random,
        figures: Report,
    ) -> None:
        self.engine, self.visitor = engine, visitor
        self.entries, self.alone = entries, alone
        self.chance, self.report = chance, figures
        self._has_visitor = False
        self._open: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()

    async def round(self, requests: int) -> None:
        """Ask so many, and wait for the last of them."""
        await self.engine.load_adapter(self.visitor, VISITOR)
        self._has_visitor, most = True, 1
        for number in range(requests):
            if number % 100 == 0:
                most = self.chance.randint(1, MOST_OPEN)
            if number == requests // 2:
                await asyncio.sleep(0)  # what is open has its adapter from here on
                self._has_visitor = False
                await self.engine.drop_adapter(VISITOR)
            if self.chance.random() < 0.01:
                await asyncio.sleep(self.chance.expovariate(200))
            while len(self._open) >= most:
                self._room.clear()
                await self._room.wait()
            self._start()
        while self._open:
            self._room.clear()
            await self._room.wait()
        await self._settle()

    def _start(self) -> None:
        entry = self.chance.randrange(len(self.entries))
        while not self._has_visitor and self.entries[entry].params.adapter == VISITOR:
            entry = self.chance.randrange(len(self.entries))
        manner = Manner.draw(self.chance)
        name = f"request {self.report.asked}"
        self.report.asked += 1
        task = asyncio.create_task(self._request(name, entry, manner))
        self._open.add(task)
        task.add_done_callback(self._end)
        if manner.cancelled_after is not None:
            asyncio.get_running_loop().call_later(manner.cancelled_after, task.cancel)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self.report.lost.append(f"{error!r}")

    async def _request(self, name: str, number: int, manner: Manner) -> None:
        answer, whole = Answer(), False
        own_id = name if self.chance.random() < 0.1 else None
        try:
            async with (
                asyncio.timeout(PATIENCE),
                aclosing(ask(self.engine, self.entries[number], own_id)) as deltas,
            ):
                async for delta in deltas:
                    answer.take(delta)
                    if sum(map(len, answer.completions.values())) == manner.closes_after:
                        break
                    if manner.pause:
                        await asyncio.sleep(manner.pause)
                else:
                    whole = True
        except asyncio.CancelledError:
            pass  # as its manner is; nobody else cancels it
        except TimeoutError:
            self.report.lost.append(f"{name}: entry {number}, after {PATIENCE:g} s")
        except QuireError as error:
            answer.error, whole = repr(error), True
        self._compare(f"{name}: entry {number}", number, answer, whole)

    def _compare(self, name: str, number: int, answer: Answer, whole: bool) -> None:
        entry, expected, figures = self.entries[number], self.alone[number], self.report
        figures.tokens += answer.tokens
        figures.cancelled += not whole
        figures.refused += answer.error is not None
        if not entry.is_repeatable:
            if whole and not answer.error and len(answer.ended) != entry.completions:
                figures.lost.append(f"{name}, of which completions {answer.ended} came")
            return
        figures.compared += whole
        if answer != expected if whole else not answer.begins(expected):
            figures.different.append(f"{name}: {entry}")

    async def _settle(self) -> None:
        """Wait until the engine has forgotten what was cancelled last, and see that all is free."""
        deadline = time.monotonic() + PATIENCE
        while (now := self.engine.statistics).running + now.waiting:
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.01)
        free = (now.free_blocks, now.free_state_slots)
        if now.running + now.waiting or free != (now.total_blocks, now.total_state_slots):
            self.report.held.append(str(now))
        if now.failed_steps:
            self.report.lost.append(f"{now.failed_steps} failed steps")


async def measure(
    folder: Path, settings: Settings, *, requests: int, seed: int, pool: int
) -> Report:
    """One model's run; `folder` holds what `make_model` has written, and `pool` counts entries."""
    entries = Pool(seed, pool).entries
    alone = await answers_alone(folder, settings, entries)
    figures = Report(settings)
    engine = make_engine(folder, settings)
    await _compile(engine)
    traffic = Traffic(engine, folder / VISITOR, entries, alone, random.Random(seed), figures)
    began = time.perf_counter()
    gc.freeze()  # what is there already need not be looked through in each round
    try:
        for _ in range(ROUNDS):
            await traffic.round(requests // ROUNDS)
            figures.measure_memory()
    finally:
        figures.seconds = time.perf_counter() - began
        figures.engine = engine.statistics
        gc.unfreeze()
        await engine.close()
    return figures


# --- models ----------------------------------------------------------------------------------------


def make_model(folder: Path, name: str) -> None:
    """Write a model of MODELS and its adapters into `folder`. Imports torch."""
    from tests.engines.native.random_adapters import make_random_adapter
    from tests.engines.native.random_models import make_random_model

    kind, modules, changes = MODELS[name]
    changes = {**changes, "vocab_size": byte_level().vocab_size, "initializer_range": 0.3}
    model = make_random_model(folder / "model", kind, **changes)
    for number, adapter in enumerate((*ADAPTERS, VISITOR), 1):
        make_random_adapter(
            folder / adapter, model, seed=number, strength=0.2, target_modules=list(modules)
        )


def in_a_process(work: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a fresh process, whose memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def measure_now(folder: Path, settings: Settings, requests: int, seed: int, pool: int) -> Report:
    """`measure`, for a process of its own."""
    return asyncio.run(measure(folder, settings, requests=requests, seed=seed, pool=pool))


def show(name: str, seed: int, figures: Report) -> None:
    """Print one run's table, and keep its figures."""
    statistics, settings = figures.engine, figures.settings
    assert statistics is not None
    rows: Mapping[str, object] = {
        "settings": ", ".join(f"{key} {value}" for key, value in asdict(settings).items()),
        "requests": f"{figures.asked:,} in {figures.seconds:.0f} s, {figures.tokens:,} tokens",
        "compared, cancelled, refused": f"{figures.compared:,}, {figures.cancelled:,}, {figures.refused:,}",
        "different, lost, held": f"{len(figures.different)}, {len(figures.lost)}, {len(figures.held)}",
        "preemptions": f"{statistics.preemptions:,}",
        "prefix hits": f"{statistics.prefix_hit_tokens:,} of {statistics.prompt_tokens:,} tokens",
        "drafts": f"{statistics.accepted_tokens:,} of {statistics.drafted_tokens:,} tokens",
        "resident, MiB": f"{figures.resident[0] / 2**20:.1f} to {figures.resident[-1] / 2**20:.1f}",
        "bytes a 1,000 requests": f"{figures.slope(figures.resident):,.0f}",
        "Python's blocks a 1,000 requests": f"{figures.slope(figures.allocated):,.1f}",
    }
    wrong = [*figures.different[:5], *figures.lost[:5], *figures.held[:5]]
    text = "\n\n".join([table((name, f"seed {seed}"), list(rows.items())), *wrong])
    report(f"longevity-{name}", f"Longevity, {name}", text, {"seed": seed, **figures.figures()})


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=3000, help="different requests")
    parser.add_argument("--kv-dtype", choices=KV_KINDS)
    parser.add_argument("--speculation", type=int)
    parser.add_argument("--threads", type=int)
    given = parser.parse_args(words)
    unknown = set(given.models) - set(MODELS)
    if unknown:
        parser.error(f"no model {min(unknown)!r}; there are {', '.join(MODELS)}")
    chosen = ("kv_dtype", "speculation", "threads")
    changes = {key: getattr(given, key) for key in chosen if getattr(given, key) is not None}
    good = True
    for number, name in enumerate(given.models or MODELS):
        settings = replace(Settings.draw(random.Random(f"{given.seed} {number}")), **changes)
        with tempfile.TemporaryDirectory() as folder:
            in_a_process(make_model, Path(folder), name)
            figures = in_a_process(
                measure_now, Path(folder), settings, given.requests, given.seed, given.pool
            )
        show(name, given.seed, figures)
        good = good and figures.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
