"""What quire adds to vLLM, and what it takes away: overhead, start-up, and out-of-the-box speed.

Overhead: one engine, the prompts as token ids straight into its AsyncLLM, or as conversations
through ChatModel, in turns. Start-up and out-of-the-box speed: a process for each run, in turns,
plain `vllm.LLM(model)` beside `ChatModel({"model_name_or_path": model, "infer_backend": "vllm"})`.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from benchmarks.measure import report, rounds, table
from benchmarks.models import qwen2_26m
from benchmarks.throughput import conversations

STREAMS = 64
NEW_TOKENS = 128
REPEATS = 9
STARTS = 2
OPTIONS: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
RESULT = "RESULT "
PLAIN_MEMORY = 0.5
"""vLLM's own default, 0.92 of the memory, refuses to start where a little more of it is in use."""


class Overhead:
    """One engine, asked by both ways."""

    def __init__(self) -> None:
        from quire import ChatModel
        from quire.chat.vllm_engine import VllmEngine

        self.model = ChatModel(
            {"model_name_or_path": str(qwen2_26m()), "template": "qwen", "infer_backend": "vllm"}
        )
        engine = self.model.engine
        assert isinstance(engine, VllmEngine)
        self.raw: Any = engine._supervisor.current().engine
        self.conversations = conversations(STREAMS)
        self.ids = [
            list(engine.prepare(one, None, None, {}).prompt.token_ids) for one in self.conversations
        ]
        self.texts = [engine.tokenizer.decode(ids, skip_special_tokens=False) for ids in self.ids]
        self.number = 0

    # Each of the four gives the seconds to the first token where it is asked for, of each stream.

    async def raw_whole(self, place: int) -> int:
        return len([output async for output in self._generate(place, streamed=False)][-1].outputs[0].token_ids)  # fmt: skip

    async def raw_stream(self, place: int) -> float:
        began, first = time.perf_counter(), 0.0
        async for _ in self._generate(place, streamed=True):
            first = first or time.perf_counter() - began
        return first

    async def quire_whole(self, place: int) -> int:
        (answer,) = await self.model.achat(self.conversations[place], **OPTIONS)
        return answer.response_length

    async def quire_stream(self, place: int) -> float:
        began, first = time.perf_counter(), 0.0
        async for _ in self.model.astream(self.conversations[place], **OPTIONS):
            first = first or time.perf_counter() - began
        return first

    async def raw_text_stream(self, place: int) -> float:
        """As `raw_stream`, but vLLM gets the rendered text and tokenises it itself."""
        began, first = time.perf_counter(), 0.0
        async for _ in self._generate(place, streamed=True, prompt=self.texts[place]):
            first = first or time.perf_counter() - began
        return first

    async def first_alone(self, stream: Callable[[int], Awaitable[float]]) -> float:
        """Seconds to the first token with nothing else under way, the median of some."""
        return statistics.median([await stream(place) for place in range(3)])

    def _generate(self, place: int, *, streamed: bool, prompt: str | None = None) -> Any:
        from vllm import SamplingParams
        from vllm.inputs import tokens_input
        from vllm.sampling_params import RequestOutputKind

        self.number += 1
        kind = RequestOutputKind.DELTA if streamed else RequestOutputKind.FINAL_ONLY
        settings = SamplingParams(
            temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=True, output_kind=kind
        )
        given = tokens_input(self.ids[place]) if prompt is None else prompt
        return self.raw.generate(given, settings, f"raw-{self.number}")

    def on_loop(self, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
        """All streams at once in the engine's own loop, as a server would run raw vLLM."""
        return self.model._loop.run(_all(work))

    def from_outside(self, work: Callable[[int], Awaitable[Any]]) -> list[Any]:
        """All streams at once in a loop of the caller's."""
        return asyncio.run(_all(work))


async def _all(work: Callable[[int], Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*(work(place) for place in range(STREAMS))))


def measure_overhead() -> None:
    bench = Overhead()

    def rate(
        run: Callable[[Any], list[Any]], work: Callable[[int], Coroutine[Any, Any, Any]]
    ) -> float:
        began = time.perf_counter()
        run(work)
        return STREAMS * NEW_TOKENS / (time.perf_counter() - began)

    def first(
        run: Callable[[Any], list[Any]], work: Callable[[int], Coroutine[Any, Any, Any]]
    ) -> float:
        return 1000 * statistics.median(run(work))

    measured = rounds(
        {
            "whole, raw": lambda: rate(bench.on_loop, bench.raw_whole),
            "whole, quire": lambda: rate(bench.from_outside, bench.quire_whole),
            "streams, raw": lambda: rate(bench.on_loop, bench.raw_stream),
            "streams, quire": lambda: rate(bench.from_outside, bench.quire_stream),
            "first, raw": lambda: first(bench.on_loop, bench.raw_stream),
            "first, quire": lambda: first(bench.from_outside, bench.quire_stream),
            "first, raw text": lambda: first(bench.on_loop, bench.raw_text_stream),
            "alone, raw": lambda: 1000 * bench.model._loop.run(bench.first_alone(bench.raw_stream)),
            "alone, quire": lambda: 1000 * asyncio.run(bench.first_alone(bench.quire_stream)),
        },
        REPEATS,
        warm_up=2,
    )
    bench.raw = None
    bench.model.close()
    found = {name: statistics.median(values) for name, values in measured.items()}
    rows: list[list[object]] = [
        [what, *(f"{found[f'{name}, {side}']:.{digits}f}" for side in ("quire", "raw")), verdict]
        for what, name, digits, verdict in (
            ("whole answers, tokens/s", "whole", 0, _ratio(measured, "whole")),
            ("streams, tokens/s", "streams", 0, _ratio(measured, "streams")),
            ("time to first token of 64 at once, ms", "first", 1, _more(measured, "first", "raw")),
            ("time to first token of one alone, ms", "alone", 1, _more(measured, "alone", "raw")),
        )
    ]
    text_first = found["first, raw text"]
    rows.insert(
        3,
        ["the same, vLLM given texts, ms", f"{found['first, quire']:.1f}", f"{text_first:.1f}",
         _more(measured, "first", "raw text")],
    )  # fmt: skip
    text = table(["64 streams", "ChatModel", "raw AsyncLLM", "quire against raw"], rows)
    report("vllm_overhead", "What quire adds to vLLM", text, measured)


def _more(measured: dict[str, list[float]], name: str, raw: str) -> str:
    """Median and range of the differences within each round: rounds differ more than sides."""
    pairs = zip(measured[f"{name}, quire"], measured[f"{name}, {raw}"], strict=True)
    more = sorted(quire - other for quire, other in pairs)
    return f"{statistics.median(more):+.1f} ms ({more[0]:+.1f} to {more[-1]:+.1f})"


def _ratio(measured: dict[str, list[float]], name: str) -> str:
    """Median of the ratios within each round."""
    pairs = zip(measured[f"{name}, quire"], measured[f"{name}, raw"], strict=True)
    return f"{statistics.median(quire / raw for quire, raw in pairs):.3f}"


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
        one = {**OPTIONS, "max_new_tokens": 1}
        _measure_one(
            lambda: model.chat(asked[0], **one),
            lambda: asyncio.run(_all(lambda place: model.achat(asked[place], **OPTIONS))),
        )


def main(names: list[str]) -> None:
    sides: dict[str, Callable[[], None]] = {
        "plain": run_plain,
        "quire": run_quire,
        "quire eager": lambda: run_quire(vllm_enforce_eager=True),
        "overhead": measure_overhead,
        "starts": measure_starts,
    }
    for name in names or ["overhead", "starts"]:
        sides[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
