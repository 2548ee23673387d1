"""A batch beside what people run today: rows and tokens a second, and what the journal costs.

Native: `quire batch` beside its own engine alone, beside itself without journal and files, and beside
transformers' `generate` in padded batches of the same ids. vLLM: `quire batch` beside the loop of
LLaMA-Factory's `vllm_infer.py` (chunks of 1,024 rows, each waited for) on the same vLLM, started with the
same arguments. `equal`: all answers have 64 tokens. `varied`: they end where the model ends them.
`shared`: as equal, and prompts begin alike in groups. Loading is in none of the figures. Each side has a
process of its own.

    python -m benchmarks.batch            # all
    python -m benchmarks.batch native     # without vLLM
    python -m benchmarks.batch vllm equal shared
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import aclosing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from benchmarks.measure import in_turns, report, table
from benchmarks.models import qwen2_26m
from benchmarks.throughput import WORDS, generate_padded
from quire.batch.answering import ChatAnswerer, ChatSettings, LineChoices, Prepared
from quire.batch.arguments import get_batch_args
from quire.batch.inputs import open_file
from quire.batch.job import BatchJob
from quire.batch.journal import Record
from quire.batch.runner import BatchRunner, Limits, Progress
from quire.demo import demo_model_path

ROWS = 256
NEW_TOKENS = 64
CHUNK = 1024  # rows of `vllm_infer.py`'s loop
PADDED = 32  # rows of transformers' batches
REPEATS = 2
WORKLOADS = ("equal", "varied", "shared")
DOCUMENT = 192  # words that the rows of a group begin with
GROUP = 16

Run = tuple[int, float]
"""Tokens that were written, and seconds."""


def questions(workload: str) -> list[dict[str, Any]]:
    """The rows of a workload, as a plain file holds them."""
    if workload == "varied":
        asked = [
            "What is quire?",
            "Write JSON of a cat.",
            "What is 12 + 30?",
            "Hello",
            "Who are you?",
        ]
        texts = [
            f"{asked[n % len(asked)]}{'' if n < len(asked) else f' ({n})'}" for n in range(ROWS)
        ]
    else:
        texts = [" ".join(WORDS[(n * 7 + j) % 16] for j in range(24 + n % 48)) for n in range(ROWS)]
    if workload == "shared":
        for index in range(ROWS):
            group = index // GROUP
            document = " ".join(WORDS[(group * 5 + j * (j + group)) % 16] for j in range(DOCUMENT))
            texts[index] = f"{document}. {texts[index]}"
    # The rows of a group are apart, as they are in a data set that was shuffled.
    order = sorted(range(ROWS), key=lambda n: (n * 7919) % ROWS)
    return [{"messages": [{"role": "user", "content": texts[n]}]} for n in order]


def arguments(workload: str, backend: str) -> dict[str, Any]:
    """The arguments of a workload's model."""
    model = demo_model_path() if workload == "varied" else qwen2_26m()
    given: dict[str, Any] = {"model_name_or_path": str(model), "infer_backend": backend}
    given |= {"max_new_tokens": NEW_TOKENS, "vllm_maxlen": 2048}
    if workload != "varied":
        given["template"] = "qwen"
    return given


def options(workload: str) -> dict[str, Any]:
    """Request options of a workload."""
    return {"temperature": 0.0, "ignore_eos": workload != "varied"}


class Quire:
    """One model, asked as a batch, as a batch without journal, and straight."""

    def __init__(self, workload: str, backend: str) -> None:
        from quire import ChatModel

        self.workload = workload
        self.plan = record_plan() if backend == "vllm" else {}
        self.model = ChatModel(arguments(workload, backend))
        self.folder = Path(tempfile.mkdtemp())
        self.input = self.folder / "rows.jsonl"
        rows = questions(workload)
        self.input.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        given = {
            **options(workload),
            "input": str(self.input),
            "output_dir": str(self.folder / "out"),
        }
        self.args = get_batch_args(given, loaded=self.model.engine.arguments)
        self.source = open_file(self.input, self.args)
        self.answerer = ChatAnswerer(
            self.model, ChatSettings(self.args.options, self.args.batch.seed), LineChoices()
        )
        self.prompts = [list(one.tokens) for one in asyncio.run(self._prepared())]

    async def _prepared(self) -> list[Prepared]:
        return [await self.answerer.prepare(row) for row in self.source.rows()]

    def batch(self) -> Run:
        """The whole job."""
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        job = BatchJob(self.args, self.source, model=self.model)
        began = time.perf_counter()
        result = job.run()
        took = time.perf_counter() - began
        assert result.counts.answered == ROWS
        return result.counts.tokens_out, took

    def without_journal(self) -> Run:
        """The same runner, whose records go to a list."""
        records: list[Record] = []
        limits = Limits(in_flight=2 * (self.model.engine.info.max_sequences or 32))
        runner = BatchRunner(
            iter(self.source.rows()), self.answerer, records.append, limits, Progress()
        )
        began = time.perf_counter()
        asyncio.run(runner.run())
        took = time.perf_counter() - began
        assert len(records) == ROWS
        return sum(record.tokens_out for record in records), took

    def alone(self) -> Run:
        """The engine alone: all prompts at once, as token ids, whole answers."""

        async def one(prepared: Prepared) -> int:
            ready = prepared.content.prepared
            params = replace(ready.params, streamed=False)
            stream = self.model.engine.generate(ready.prompt, params)
            count = 0
            async with aclosing(self.model.on_any_loop(stream)) as deltas:
                async for delta in deltas:
                    count += len(delta.token_ids)
            return count

        async def all_of_them() -> int:
            return sum(await asyncio.gather(*map(one, prepared)))

        prepared = asyncio.run(self._prepared())
        began = time.perf_counter()
        tokens = asyncio.run(all_of_them())
        return tokens, time.perf_counter() - began

    def close(self) -> None:
        self.model.close()


def record_plan() -> dict[str, Any]:
    """What quire will start vLLM with: engine arguments and environment, once it has."""
    from quire.engines.vllm import token_engine

    found: dict[str, Any] = {}
    make = token_engine.make_plan

    def recorded(*args: Any, **kwargs: Any) -> Any:
        plan = make(*args, **kwargs)
        found.update(engine_args=dict(plan.engine_args), environment=dict(plan.environment))
        return plan

    token_engine.make_plan = recorded
    return found


class Transformers:
    """`generate` in padded batches, in the order of the rows."""

    def __init__(self, workload: str, prompts: list[list[int]], plan: Mapping[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self.prompts, self.workload = prompts, workload
        folder = arguments(workload, "native")["model_name_or_path"]
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def batch(self) -> Run:
        began, tokens = time.perf_counter(), 0
        for start in range(0, len(self.prompts), PADDED):
            tokens += self._generate(self.prompts[start : start + PADDED])
        return tokens, time.perf_counter() - began

    def _generate(self, prompts: list[list[int]]) -> int:
        least = NEW_TOKENS if self.workload != "varied" else 0
        written = generate_padded(self.model, prompts, least=least, most=NEW_TOKENS)
        return int((written != 0).sum()) if self.workload == "varied" else written.numel()

    def close(self) -> None:
        """Nothing is open."""


class VllmInfer:
    """The loop of `vllm_infer.py`: a chunk is generated, waited for, decoded; all is written at the end."""

    def __init__(self, workload: str, prompts: list[list[int]], plan: Mapping[str, Any]) -> None:
        import os

        os.environ.update(plan["environment"])
        from vllm import LLM
        from vllm.engine.arg_utils import EngineArgs

        self.workload, self.prompts = workload, prompts
        known = {one.name for one in fields(EngineArgs)}
        given = {name: value for name, value in plan["engine_args"].items() if name in known}
        self.llm = LLM(**given)
        self.tokenizer = self.llm.get_tokenizer()

    def batch(self) -> Run:
        from vllm import SamplingParams

        params = SamplingParams(
            temperature=0.0, max_tokens=NEW_TOKENS, ignore_eos=self.workload != "varied"
        )
        began, tokens = time.perf_counter(), 0
        lines: list[dict[str, str]] = []
        for start in range(0, len(self.prompts), CHUNK):
            chunk = self.prompts[start : start + CHUNK]
            results = self.llm.generate(
                [{"prompt_token_ids": ids} for ids in chunk], params, use_tqdm=False
            )
            for ids, result in zip(chunk, results, strict=True):
                prompt = self.tokenizer.decode(ids, skip_special_tokens=True)
                lines.append({"prompt": prompt, "predict": result.outputs[0].text, "label": ""})
                tokens += len(result.outputs[0].token_ids)
        with tempfile.TemporaryFile("w") as file:
            file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        return tokens, time.perf_counter() - began

    def close(self) -> None:
        """End vLLM's processes, for which this one would wait at its end without an end."""
        self.llm.llm_engine.engine_core.shutdown()


side: Any
"""What this process measures."""


def start(peer: Callable[..., Any], *args: Any) -> None:
    global side
    side = peer(*args)


def run(name: str) -> float:
    """Tokens a second of one of the side's ways."""
    tokens, seconds = getattr(side, name)()
    return tokens / seconds


def close() -> None:
    side.close()


def prompts() -> list[list[int]]:
    return side.prompts


def plan() -> dict[str, Any]:
    return side.plan


def process(peer: Callable[..., Any], *args: Any) -> ProcessPoolExecutor:
    """A process that measures one side."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, initializer=start, initargs=(peer, *args))


SIDES: Mapping[str, tuple[tuple[str, ...], str, Callable[..., Any]]] = {
    "native": (("batch", "without_journal", "alone"), "transformers", Transformers),
    "vllm": (("batch", "alone"), "vllm_infer's loop", VllmInfer),
}
"""The ways in which quire is asked on each engine, and the peer beside it."""

WAYS = {
    "batch": "quire batch",
    "without_journal": "without journal",
    "alone": "engine alone",
}


def measure(backend: str, workload: str) -> Mapping[str, float]:
    """Tokens a second of all ways and of the peer, in turns."""
    ways, peer_name, peer_class = SIDES[backend]
    with process(Quire, workload, backend) as quire:
        ids = quire.submit(prompts).result()
        started_with = quire.submit(plan).result()
        with process(peer_class, workload, ids, started_with) as peer:
            runs = {WAYS[way]: lambda way=way: quire.submit(run, way).result() for way in ways}
            runs[peer_name] = lambda: peer.submit(run, "batch").result()
            found = in_turns(runs, REPEATS, warm_up=1)
            for one in (quire, peer):
                one.submit(close).result()
            return found


def main() -> None:
    """Measure all, or the engine and the workloads that are named."""
    wanted = [name for name in SIDES if name in sys.argv[1:]] or [*SIDES]
    workloads = [name for name in WORKLOADS if name in sys.argv[1:]] or WORKLOADS
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for name in wanted:
        for workload in workloads:
            found = measure(name, workload)
            figures[f"{name} {workload}"] = dict(found)
            print(name, workload, found, flush=True)
            first = found["quire batch"]
            for other, rate in found.items():
                if other != "quire batch":
                    rows.append(
                        [
                            name,
                            workload,
                            f"{first:.0f}",
                            other,
                            f"{rate:.0f}",
                            f"{first / rate:.2f}",
                        ]
                    )
    header = ["engine", "rows", "quire batch, tokens/s", "beside", "tokens/s", "times as fast"]
    report("batch", "Batches", table(header, rows), figures)


if __name__ == "__main__":
    main()
