"""Models of real sizes, as folders of bfloat16, with their weights rounded: what a user waits for and gets.

    python -m benchmarks.sizes                       0.5b to 8b; 8b takes 16 GB of disk
    python -m benchmarks.sizes 4b --kinds int8,int4

Each row is a process of its own: the first start rounds the weights and keeps them, the second reads what
is kept. Weights are random. A prompt is never asked twice. What is kept is mapped at first and moves into
large pages during the first seconds: memory at most counts both copies, of which one is the file's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import memory, report, table
from benchmarks.models import llama_8b, qwen2_05b, qwen2_1b, qwen3_4b
from benchmarks.peers.prompts import PromptMaker
from quire.machine.cache import cache_folder

MODELS: dict[str, Callable[[], Path]] = {
    "0.5b": qwen2_05b,
    "1b": qwen2_1b,
    "4b": qwen3_4b,
    "8b": llama_8b,
}
KINDS = {
    "0.5b": ("bfloat16", "int8", "int4"),
    "1b": ("bfloat16", "int8", "int4"),
    "4b": ("int8", "int4"),
    "8b": ("int8", "int4"),
}
STREAMS = {1: 24, 8: 16, 32: 12}
"""New tokens of each, by the number of streams."""
PROMPTS = (512, 4096)
CONTEXTS = (128, 8000)
GB = 1e9


def main() -> None:
    """Measure, and print a row for each model and kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--kinds", default="bfloat16,int8,int4")
    given = parser.parse_args()
    for name in given.models:
        folder = MODELS[name]()
        rows: list[list[object]] = []
        figures: dict[str, Any] = {}
        for kind in (one for one in KINDS[name] if one in given.kinds.split(",")):
            before = set(cache_folder().glob("weights-*"))
            first = child(folder, kind, "load")
            found = child(folder, kind, "all")
            for file in set(cache_folder().glob("weights-*")) - before:
                file.unlink()
            figures[kind] = {**found, "first": first["load"]}
            streams = [f"{found[f'decode-{count}']:.1f}" for count in STREAMS]
            prompts = [f"{found[f'prefill-{size}']:.0f}" for size in PROMPTS]
            contexts = [f"{1e3 * found[f'context-{size}']:.1f}" for size in CONTEXTS]
            rows.append([kind, f"{first['load']:.1f}", f"{found['load']:.1f}",
                         f"{found['first token']:.2f}", *streams, *prompts, *contexts,
                         f"{found['end'] / GB:.2f}", f"{found['peak'] / GB:.2f}"])  # fmt: skip
        header = [name, "first load, s", "load, s", "first token, s",
                  *(f"{count} streams, token/s" for count in STREAMS),
                  *(f"prompt of {size}, token/s" for size in PROMPTS),
                  *(f"ms a token at {size}" for size in CONTEXTS), "memory at the end, GB", "at most, GB"]  # fmt: skip
        report(f"sizes-{name}", f"{name} as a folder", table(header, rows), figures)


def child(folder: Path, kind: str, what: str) -> dict[str, float]:
    """What a process of its own has measured."""
    command = [sys.executable, "-m", "benchmarks.sizes", "--child", str(folder), kind, what]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(answer.stdout.splitlines()[-1])


def measure(folder: Path, kind: str, what: str) -> dict[str, float]:
    """All figures of one model in this process; of its loading alone if `what` is `load`."""
    began = time.perf_counter()
    from quire import ChatModel

    arguments: dict[str, Any] = {
        "model_name_or_path": str(folder),
        "infer_backend": "native",
        "template": "empty",
        "vllm_maxlen": 8192,
        "native_kv_cache_memory": "1400MiB",
        "native_kv_cache_dtype": "float16",
        **({} if kind == "bfloat16" else {"native_quantization": kind}),
    }
    model = ChatModel(arguments)
    found = {"load": time.perf_counter() - began}
    if what == "load":
        return found
    prompts = PromptMaker(folder)

    async def answers(count: int, size: int, new_tokens: int) -> float:
        asked = [[{"role": "user", "content": one.text}] for one in prompts.make(count, size)]
        start = time.perf_counter()
        options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": new_tokens}
        await asyncio.gather(*(model.achat(one, ignore_eos=True, **options) for one in asked))
        return time.perf_counter() - start

    def seconds(count: int, size: int, new_tokens: int) -> float:
        return asyncio.run(answers(count, size, new_tokens))

    found["first token"] = seconds(1, 8, 1)
    for size in PROMPTS:
        found[f"prefill-{size}"] = size / seconds(1, size, 1)
    for count, new_tokens in STREAMS.items():
        seconds(count, 8, 2)
        found[f"decode-{count}"] = count * new_tokens / seconds(count, 8, new_tokens)
    for size in CONTEXTS:
        (prompt,) = prompts.make(1, size)
        times: list[float] = []
        for _ in model.stream(
            [{"role": "user", "content": prompt.text}],
            max_new_tokens=17,
            ignore_eos=True,
            temperature=0.0,
        ):
            times.append(time.perf_counter())
        found[f"context-{size}"] = (times[-1] - times[0]) / (len(times) - 1)
    return {**found, "end": memory("VmRSS"), "peak": memory("VmHWM")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(measure(Path(sys.argv[2]), *sys.argv[3:])), flush=True)
    else:
        main()
