"""What a cluster of Ray costs: one replica beside `quire serve`, and one actor beside a local batch.

    python -m benchmarks.on_ray [serving] [batch]

Both sides are on this machine, on the native engine, and are measured in turns. The batch is measured on
the demo model, of which a row takes 2 ms, and on one of 26 million parameters, as small as real ones get.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measure import report, table
from benchmarks.models import qwen2_26m
from benchmarks.serving import Side, free_port, measured, quire_words, server
from quire.batch.job import BatchJob
from quire.batch.opening import open_job
from quire.demo import demo_model_path

STREAMS = 32
ROUNDS = 5
SECONDS = 10.0
ROWS = {"demo": 600, "qwen2-26m": 192}
NEW_TOKENS = 64
ENGINE = ("infer_backend=native", "native_kv_cache_memory=256MiB")


def compare_serving() -> None:
    """`quire serve` and one replica behind Serve's proxy."""
    plain, behind = free_port(), free_port()
    words = quire_words(plain, *ENGINE)
    deploy = [words[0], "deploy", "ray", words[2], f"port={behind}", *words[4:], "--start"]
    sides = {
        "quire serve": Side(words, plain, {}, "demo", to_the_end=False),
        "one replica on Ray": Side(deploy, behind, {}, "demo", to_the_end=False),
    }
    found: dict[str, dict[int, list[Any]]] = {name: {1: [], STREAMS: []} for name in sides}
    with ExitStack() as stack:
        for side in sides.values():
            stack.enter_context(server(side.words, side.port, side.environment))
        for side in sides.values():
            measured(side, seconds=4, clients=STREAMS)
        for clients in (1, STREAMS):
            for number in range(ROUNDS):
                for name in sorted(sides, reverse=bool(number % 2)):
                    load = measured(sides[name], seconds=SECONDS, clients=clients)
                    found[name][clients].append(load)
    rows = [
        [
            name,
            clients,
            f"{_median(loads, 'tokens'):.0f}",
            f"{1e3 * _median(loads, 'first_p50'):.1f}",
            f"{1e3 * _median(loads, 'first_p99'):.1f}",
            sum(load.errors for load in loads),
        ]
        for name, by_clients in found.items()
        for clients, loads in by_clients.items()
    ]
    one, other = (found[name] for name in sides)
    ratios = [b.tokens / a.tokens for a, b in zip(one[STREAMS], other[STREAMS], strict=True)]
    later = [b.first_p50 - a.first_p50 for a, b in zip(one[1], other[1], strict=True)]
    text = table(["", "streams", "tokens/s", "first token, ms, p50", "p99", "errors"], rows)
    text += (
        f"\n\nAt {STREAMS} streams {statistics.median(ratios):.2f} of the tokens per second; the first "
        f"token of one stream {1e3 * statistics.median(later):+.1f} ms."
    )
    figures = {
        f"{name}, {clients}": [asdict(load) for load in loads]
        for name, by_clients in found.items()
        for clients, loads in by_clients.items()
    }
    report("on_ray_serving", "One replica behind Ray Serve beside quire serve", text, figures)


def _median(loads: list[Any], field: str) -> float:
    return statistics.median(getattr(load, field) for load in loads)


def compare_batch() -> None:
    """Local batches, and those with one actor, from when its engine is ready."""
    for model in ROWS:
        _compare_batch(model)


def _compare_batch(model: str) -> None:
    sides: dict[str, Mapping[str, Any]] = {
        "local": {},
        "one actor on Ray": {"batch_backend": "ray", "ray_actors": "1"},
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for name in sorted(sides, reverse=bool(number % 2)):
                place = Path(folder) / f"{number} {name}"
                found[name].append(_rows_per_second(model, place, sides[name]))
    rows = [[name, f"{statistics.median(rates):.1f}"] for name, rates in found.items()]
    one, other = found.values()
    ratio = statistics.median(b / a for a, b in zip(one, other, strict=True))
    text = table(["", "rows/s"], rows) + f"\n\nOne actor: {ratio:.2f} of the local batch."
    title = f"A batch of {model} with one actor on Ray beside a local one"
    report(f"on_ray_batch_{model}", title, text, found)


def _rows_per_second(model: str, folder: Path, more: Mapping[str, Any]) -> float:
    rows = [
        {"messages": [{"role": "user", "content": f"Tell me of {number}."}]}
        for number in range(ROWS[model])
    ]
    is_demo = model == "demo"
    arguments = {
        "model_name_or_path": str(demo_model_path() if is_demo else qwen2_26m()),
        **({} if is_demo else {"template": "qwen", "ignore_eos": True}),
        "infer_backend": "native",
        "infer_dtype": "float32",
        "native_kv_cache_memory": "256MiB",
        "max_new_tokens": NEW_TOKENS,
        "output_dir": str(folder),
        **more,
    }
    job = open_job(arguments, rows=rows)
    ended: list[float] = []
    watcher = threading.Thread(target=_watch, args=(job, len(rows), ended), daemon=True)
    watcher.start()
    job.run()
    watcher.join()
    return len(rows) / (ended[0] - job.progress.started)


def _watch(job: BatchJob, rows: int, ended: list[float]) -> None:
    """Note when the last row has come: what a batch does after it is the same for both."""
    while job.progress.done < rows:
        time.sleep(0.005)
    ended.append(time.monotonic())


def main(names: list[str]) -> None:
    parts = {"serving": compare_serving, "batch": compare_batch}
    for name in names or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
