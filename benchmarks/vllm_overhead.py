"""What quire adds to vLLM, and what it takes away: overhead, start-up, and out-of-the-box speed.

Overhead: one engine, the prompts as token ids straight into its AsyncLLM, or as conversations
through ChatModel, in pairs of which every other one is turned round. Start-up and out-of-the-box speed: a process for each run, in turns,
plain `vllm.LLM(model)` beside `ChatModel({"model_name_or_path": model, "infer_backend": "vllm"})`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from benchmarks.measure import paired, report, table
from benchmarks.models import qwen2_26m
from benchmarks.throughput import conversations

STREAMS = 64
NEW_TOKENS = 128
FEW_TOKENS = 8
"""Of answers whose first token is timed: none has ended before all have begun."""
PAIRS = 24
STARTS = 2
RESULT = "RESULT "
PLAIN_MEMORY = 0.5
"""vLLM's own default, 0.92 of the memory, refuses to start where a little more of it is in use."""


class Overhead:
    """One engine, asked by both ways: straight, and through ChatModel from a loop of the caller's.

    The straight way runs in the engine's own loop, as a server would run raw vLLM. A stream gives an
    item for each new token, whatever they are.
    """

    def __init__(self) -> None:
        from quire import ChatModel
        from quire.chat.vllm_engine import VllmEngine
        from quire.request import ChatRequest

        self.model = ChatModel(
            {"model_name_or_path": str(qwen2_26m()), "template": "qwen", "infer_backend": "vllm"}
        )
        engine = self.model.engine
        assert isinstance(engine, VllmEngine)
        self.raw: Any = engine.token_engine._supervisor.current().engine
        self.conversations = conversations(STREAMS)
        self.ids = [
            list(engine.tokens.preparation.prepare_text(ChatRequest(one)).prompt.token_ids)
            for one in self.conversations
        ]
        self.texts = [engine.tokenizer.decode(ids, skip_special_tokens=False) for ids in self.ids]
        self.number = 0

    def stream_raw(self, place: int, tokens: int) -> AsyncIterator[object]:
        from vllm.inputs import tokens_input

        return self._generate(tokens_input(self.ids[place]), tokens, "DELTA")

    def stream_raw_text(self, place: int, tokens: int) -> AsyncIterator[object]:
        """vLLM gets the rendered text, and tokenises it itself."""
        return self._generate(self.texts[place], tokens, "DELTA")

    def stream_quire(self, place: int, tokens: int) -> AsyncIterator[object]:
        return self.model.astream(self.conversations[place], **_options(tokens))

    async def whole_raw(self, place: int, tokens: int) -> AsyncIterator[object]:
        from vllm.inputs import tokens_input

        async for output in self._generate(tokens_input(self.ids[place]), tokens, "FINAL_ONLY"):
            yield output

    async def whole_quire(self, place: int, tokens: int) -> AsyncIterator[object]:
        yield await self.model.achat(self.conversations[place], **_options(tokens))

    def _generate(self, prompt: Any, tokens: int, kind: str) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.number += 1
        settings = SamplingParams(
            temperature=0.0,
            max_tokens=tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind[kind],
        )
        return self.raw.generate(prompt, settings, f"raw-{self.number}")

    def run(self, way: Way, tokens: int, places: Sequence[int]) -> tuple[list[float], float]:
        """Ask for these at once. Seconds until each has its first item, and until all have all.

        All are counted from the moment at which all are asked for. No prompt is in a cache then.
        """
        work = self._all(way, tokens, places)
        self.model._loop.run(self.raw.reset_prefix_cache())
        if way in (self.stream_quire, self.whole_quire):
            return asyncio.run(work)
        return self.model._loop.run(work)

    async def _all(self, way: Way, tokens: int, places: Sequence[int]) -> tuple[list[float], float]:
        began = time.perf_counter()

        async def first(place: int) -> float:
            found = 0.0
            async for _ in way(place, tokens):
                found = found or time.perf_counter() - began
            return found

        return list(await asyncio.gather(*map(first, places))), time.perf_counter() - began


Way = Callable[[int, int], AsyncIterator[object]]


def _options(tokens: int) -> dict[str, Any]:
    return {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}


PARTS = ("answers", "streams", "first")


def measure_overhead(*parts: str) -> None:
    """Some of `PARTS` on one engine."""
    bench = Overhead()

    def rate(way: Way) -> float:
        _, took = bench.run(way, NEW_TOKENS, range(STREAMS))
        return STREAMS * NEW_TOKENS / took

    def first(way: Way) -> float:
        """Milliseconds to the first token of 64 at once, their median."""
        found, _ = bench.run(way, FEW_TOKENS, range(STREAMS))
        return 1000 * statistics.median(found)

    def alone(way: Way) -> float:
        """The same of one with nothing else under way, the median of some."""
        found = [bench.run(way, FEW_TOKENS, [place])[0][0] for place in range(5)]
        return 1000 * statistics.median(found)

    stream_quire, stream_raw = bench.stream_quire, bench.stream_raw
    plan: tuple[tuple[str, str, Callable[[Way], float], Way, Way], ...] = (
        ("answers", "whole answers, tokens/s", rate, bench.whole_quire, bench.whole_raw),
        ("streams", "streams, tokens/s", rate, stream_quire, stream_raw),
        ("first", "first token of 64 at once, ms", first, stream_quire, stream_raw),
        ("first", "the same, raw given texts, ms", first, stream_quire, bench.stream_raw_text),
        ("first", "first token of one alone, ms", alone, stream_quire, stream_raw),
    )
    measured: dict[str, list[tuple[float, float]]] = {}
    for part, name, measure, ours, theirs in plan:
        if part in parts:
            runs = [functools.partial(measure, way) for way in (ours, theirs)]
            measured[name] = paired(runs[0], runs[1], PAIRS, warm_up=2)
    bench.raw = None
    bench.model.close()
    text = table(["64 streams", "ChatModel", "raw AsyncLLM", "quire against raw"], _rows(measured))
    report("_".join(["vllm", *parts]), "What quire adds to vLLM", text, measured)


def _rows(measured: dict[str, list[tuple[float, float]]]) -> list[list[object]]:
    rows: list[list[object]] = []
    for name, pairs in measured.items():
        compared, digits = (_ratio(pairs), 0) if name.endswith("/s") else (_more(pairs), 1)
        medians = (statistics.median(side) for side in zip(*pairs, strict=True))
        rows.append([name, *(f"{median:.{digits}f}" for median in medians), compared])
    return rows


def _more(pairs: list[tuple[float, float]]) -> str:
    """The median of the differences within the pairs, and between which two half of them are."""
    more = [quire - raw for quire, raw in pairs]
    low, middle, high = statistics.quantiles(more, n=4)
    return f"{middle:+.1f} ms ({low:+.1f} to {high:+.1f})"


def _ratio(pairs: list[tuple[float, float]]) -> str:
    """The same of the ratios."""
    low, middle, high = statistics.quantiles([quire / raw for quire, raw in pairs], n=4)
    return f"{middle:.3f} ({low:.3f} to {high:.3f})"


def measure_starts() -> None:
    """Start-up and out-of-the-box speed, each from a new process."""
    found: dict[str, list[dict[str, float]]] = {"quire": [], "quire eager": [], "plain": []}
    for _ in range(STARTS):
        for side, runs in found.items():
            runs.append(_in_a_process(side))
    median = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for side, runs in found.items()
    }
    plain = median["plain"]
    rows = [
        [side, f"{one['first']:.1f}", f"{one['first'] / plain['first']:.2f}",
         f"{one['rate']:.0f}", f"{one['rate'] / plain['rate']:.2f}"]
        for side, one in median.items()
    ]  # fmt: skip
    header = ["", "process to first token, s", "ratio", "tokens/s, 64 streams", "ratio"]
    names = {"quire": "ChatModel", "quire eager": "ChatModel, vllm_enforce_eager", "plain": "vllm.LLM(model)"}  # fmt: skip
    rows = [[names[str(row[0])], *row[1:]] for row in rows]
    report("vllm_start", "Start-up, and speed with no settings", table(header, rows), median)


def _in_a_process(side: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.vllm_overhead", side]
    began = time.time()
    environment = {**os.environ, "BENCHMARK_BEGAN": str(began)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} failed:\n{done.stderr[-3000:]}")
    # vLLM's processes may print after it.
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(RESULT)]
    return json.loads(line.removeprefix(RESULT))


def _measure_one(first: Callable[[], object], many: Callable[[], object]) -> None:
    first()
    started = time.time() - float(os.environ["BENCHMARK_BEGAN"])
    rates: list[float] = []
    for _ in range(4):
        began = time.perf_counter()
        many()
        rates.append(STREAMS * NEW_TOKENS / (time.perf_counter() - began))
    result = {"first": started, "rate": statistics.median(rates[1:])}
    print(f"{RESULT}{json.dumps(result)}", flush=True)


def run_plain() -> None:
    from vllm import LLM, SamplingParams
    from vllm.inputs import TokensPrompt

    llm = LLM(str(qwen2_26m()), gpu_memory_utilization=PLAIN_MEMORY)
    prompts = [TokensPrompt(prompt_token_ids=[10 + (i * 7 + j) % 4000 for j in range(60)]) for i in range(STREAMS)]  # fmt: skip

    def generate(count: int, tokens: int) -> None:
        settings = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True)
        llm.generate(prompts[:count], settings, use_tqdm=False)

    _measure_one(lambda: generate(1, 1), lambda: generate(STREAMS, NEW_TOKENS))


def run_quire(**more: Any) -> None:
    from quire import ChatModel

    arguments = {"model_name_or_path": str(qwen2_26m()), "template": "qwen"}
    with ChatModel({**arguments, "infer_backend": "vllm", **more}) as model:
        asked = conversations(STREAMS)

        async def all_of_them() -> None:
            await asyncio.gather(*(model.achat(one, **_options(NEW_TOKENS)) for one in asked))

        _measure_one(
            lambda: model.chat(asked[0], **_options(1)), lambda: asyncio.run(all_of_them())
        )


def main(names: list[str]) -> None:
    sides: dict[str, Callable[[], None]] = {
        "plain": run_plain,
        "quire": run_quire,
        "quire eager": lambda: run_quire(vllm_enforce_eager=True),
        "overhead": functools.partial(measure_overhead, *PARTS),
        **{part: functools.partial(measure_overhead, part) for part in PARTS},
        "starts": measure_starts,
    }
    for name in names or ["overhead", "starts"]:
        sides[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
