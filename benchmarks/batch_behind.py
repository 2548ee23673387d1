"""What people at a server notice of a batch that runs behind them: their first token, with and without.

One `quire serve` on the native engine and the demo model. People ask at random moments, at a share of
the rate that the server reaches when it is full; in every other round a batch of /v1/batches runs. The
rounds are taken in turns, and each one with a batch is compared to the one without beside it.

    python -m benchmarks.batch_behind
    python -m benchmarks.batch_behind 6 8 max_batch_completions=1    # rounds, seconds, arguments
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx

from benchmarks.measure import paired, report, table
from benchmarks.serving import Load, Side, free_port, measured, quire_words, server

ROUNDS = 5
SECONDS = 20.0
SHARES = (0.2, 0.5)
"""The rates of people's requests, of what the server does when it is full."""
ROWS = 20_000
NEW_TOKENS = 64
GOAL = 1.3


def batch_file() -> str:
    """Questions with answers of `NEW_TOKENS` tokens."""
    lines: list[str] = []
    for number in range(ROWS):
        messages = [{"role": "user", "content": f"What is {number} + 25? Tell me of quire."}]
        body = {"messages": messages, "max_tokens": NEW_TOKENS, "ignore_eos": True}
        line = {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions"}
        lines.append(json.dumps({**line, "body": body}))
    return "\n".join(lines)


@contextmanager
def a_batch(url: str, file_id: str) -> Iterator[list[float]]:
    """A batch that runs during the block; its rows per second are put into the list."""
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions"}
    batch = _json(httpx.post(f"{url}/batches", json={**asked, "completion_window": "24h"}))
    while _counts(url, batch["id"])["completed"] < 8:
        time.sleep(0.1)
    before, began = _counts(url, batch["id"])["completed"], time.monotonic()
    rates: list[float] = []
    try:
        yield rates
        done = _counts(url, batch["id"])["completed"] - before
        rates.append(done / (time.monotonic() - began))
    finally:
        httpx.post(f"{url}/batches/{batch['id']}/cancel", timeout=60)
        while _json(httpx.get(f"{url}/batches/{batch['id']}"))["status"] != "cancelled":
            time.sleep(0.1)


def _counts(url: str, batch_id: str) -> dict[str, int]:
    return _json(httpx.get(f"{url}/batches/{batch_id}"))["request_counts"]


def _json(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_error:
        raise RuntimeError(answer.text)
    return answer.json()


def compare(rounds: int, seconds: float, more: Sequence[str]) -> None:
    """Measure all rates, with and without a batch."""
    rows: list[list[object]] = []
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        words = quire_words(port, "infer_backend=native", f"batches_dir={folder}/batches", *more)
        side, url = Side(words, port, {}, "demo"), f"http://127.0.0.1:{port}/v1"
        with server(words, port, {}):
            file = {"file": ("rows.jsonl", batch_file())}
            sent = _json(httpx.post(f"{url}/files", data={"purpose": "batch"}, files=file))
            full = measured(side, seconds=min(seconds, 8)).requests
            for share in SHARES:
                rates: list[float] = []

                def alone(share: float = share) -> Load:
                    return measured(side, share * full, seconds)

                def behind(share: float = share, rates: list[float] = rates) -> Load:
                    with a_batch(url, sent["id"]) as found:
                        load = measured(side, share * full, seconds)
                    rates += found
                    return load

                pairs = paired(behind, alone, rounds)
                rows += _rows(share, share * full, pairs, statistics.median(rates))
                figures[str(share)] = [[asdict(one) for one in pair] for pair in pairs]
    header = ["", "requests/s", "first token, ms, p50", "p99", "batch rows/s", "errors"]
    report(
        "batch_behind",
        "People's first token with a batch behind them",
        table(header, rows),
        figures,
    )


def _rows(
    share: float, rate: float, pairs: Sequence[tuple[Load, Load]], batch_rate: float
) -> Iterator[list[object]]:
    name = f"{share:.0%} of full, {rate:.0f}/s"
    for index, what in ((1, "alone"), (0, "with a batch")):
        loads = [pair[index] for pair in pairs]
        yield [
            f"{name}, {what}",
            f"{statistics.median(one.requests for one in loads):.1f}",
            f"{1e3 * statistics.median(one.first_p50 for one in loads):.1f}",
            f"{1e3 * statistics.median(one.first_p99 for one in loads):.1f}",
            "" if index else f"{batch_rate:.1f}",
            sum(one.errors for one in loads),
        ]
    p50 = statistics.median(one.first_p50 / other.first_p50 for one, other in pairs)
    p99 = statistics.median(one.first_p99 / other.first_p99 for one, other in pairs)
    yield [f"{name}, ratio (goal: p99 at most {GOAL})", "", f"{p50:.2f}", f"{p99:.2f}", "", ""]


def main(words: Sequence[str]) -> None:
    numbers = [word for word in words if "=" not in word]
    rounds = int(numbers[0]) if numbers else ROUNDS
    seconds = float(numbers[1]) if len(numbers) > 1 else SECONDS
    compare(rounds, seconds, [word for word in words if "=" in word])


if __name__ == "__main__":
    main(sys.argv[1:])
