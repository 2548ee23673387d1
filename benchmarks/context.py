"""What a token takes longer at 8,000 tokens of context than at 128, beside reading their keys and values.

A model of 26 million parameters, one stream, each type of the KV cache in turns. The limit is how fast all
cores together read memory, measured before each turn: a token at 8,000 reads so many more bytes of the
cache, and the share is the time that this would take over the time that it does take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

from benchmarks.measure import report, table
from benchmarks.models import qwen2_26m
from benchmarks.peers import limits
from benchmarks.peers.prompts import PromptMaker
from quire import ChatModel

BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0}
SHORT, LONG = 128, 8000
NEW_TOKENS = 48


def main() -> None:
    """Measure, and print a row for each type."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    folder = qwen2_26m()
    prompts, machine = PromptMaker(folder), limits.Limits()
    models = {kind: make_model(str(folder), kind) for kind in BYTES}
    found: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in BYTES}
    for _ in range(rounds + 1):
        for kind, model in models.items():
            read = min(machine.seconds(limits.READ) for _ in range(3)) / limits.READ_BYTES
            short, long = (token_seconds(model, prompts, size) for size in (SHORT, LONG))
            found[kind].append((short, long, read))
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    for kind, all_rounds in found.items():
        kept = all_rounds[1:]  # the first warms up
        shares = [extra_bytes(folder, kind) * read / (long - short) for short, long, read in kept]
        short, long = (statistics.median(one[place] for one in kept) for place in (0, 1))
        read = statistics.median(1e-9 / one[2] for one in kept)
        share = statistics.median(shares)
        low, high = min(shares), max(shares)
        figures[kind] = {"short": short, "long": long, "read": read, "share": share}
        rows.append([kind, f"{short * 1e3:.2f}", f"{long * 1e3:.2f}", f"{read:.1f}",
                     f"{share:.2f} ({low:.2f} to {high:.2f})"])  # fmt: skip
    columns = ["KV cache", f"ms at {SHORT}", f"ms at {LONG}", "GB/s of memory", "of that limit"]
    report("context", "A long context", table(columns, rows), figures)
    for model in models.values():
        model.close()


def make_model(folder: str, kind: str) -> ChatModel:
    """The model with a KV cache of this type, large enough for one long sequence."""
    arguments: dict[str, Any] = {
        "model_name_or_path": folder,
        "infer_backend": "native",
        "template": "empty",
        "vllm_maxlen": 8192,
        "native_kv_cache_memory": "300MiB",
        "native_kv_cache_dtype": kind,
    }
    return ChatModel(arguments)


def token_seconds(model: ChatModel, prompts: PromptMaker, size: int) -> float:
    """Seconds of a token after a prompt of this many, the first left out."""
    (prompt,) = prompts.make(1, size)
    first, last, count = 0.0, 0.0, 0
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": NEW_TOKENS, "ignore_eos": True}
    for delta in model.stream([{"role": "user", "content": prompt.text}], **options):
        last = time.perf_counter()
        first = first or last
        count += len(delta.token_ids)
    return (last - first) / (count - 1)


def extra_bytes(folder: Any, kind: str) -> float:
    """Bytes of keys and values that a token reads more at the long context; int8 with its scales."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = config["hidden_size"] // config["num_attention_heads"]
    heads = 2 * config["num_key_value_heads"] * config["num_hidden_layers"]
    each = heads * (size * BYTES[kind] + (4 if kind == "int8" else 0))
    return (LONG - SHORT) * each


if __name__ == "__main__":
    main()
