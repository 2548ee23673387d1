"""What a server still does when far more is asked of it than it can do.

    python -m benchmarks.overload [--seconds 10]

`quire serve` serves the demo model. First clients ask one after another, as many at once as the
server runs, which is its capacity: how many requests a second it then answers. Then requests come by
an open clock at four times that rate, each with a deadline, whatever becomes of those before. Its
goodput is what it answers whole and in time; what it cannot do it must refuse early, and quickly.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUNNING = 32
TOKENS = (16, 96)  # fewest and most that a request wants
DEADLINE = 4.0  # seconds
WARM = 3.0  # seconds before what is measured
TIMES = 4


@dataclass
class Outcome:
    """What became of the requests of one load."""

    began: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Of the window in which answers count: from WARM seconds on, while requests come."""
    statuses: Counter[int] = field(default_factory=Counter[int])
    good: int = 0
    late: int = 0
    good_tokens: int = 0
    refused_after: list[float] = field(default_factory=list[float])

    @property
    def rate(self) -> float:
        return self.good / self.seconds

    @property
    def token_rate(self) -> float:
        return self.good_tokens / self.seconds


def body(tokens: int) -> bytes:
    return json.dumps(
        {
            "messages": [{"role": "user", "content": "Tell me of the sea."}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "timeout": DEADLINE,
        }
    ).encode()


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_FREE: list[Connection] = []
"""Connections that no request uses: clients keep theirs open."""


async def exchange(port: int, content: bytes) -> int:
    """One request and its whole answer, whose status this is."""
    reader, writer = _FREE.pop() if _FREE else await asyncio.open_connection("127.0.0.1", port)
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    answer = (await reader.readuntil(b"\r\n\r\n")).lower()
    await reader.readexactly(int(answer.split(b"content-length: ")[1].split(b"\r")[0]))
    _FREE.append((reader, writer))
    return int(answer.split(b" ", 2)[1])


async def ask(port: int, outcome: Outcome, tokens: int) -> None:
    """One request, counted."""
    began = time.monotonic()
    status = await exchange(port, body(tokens))
    seconds = time.monotonic() - began
    outcome.statuses[status] += 1
    if not WARM <= time.monotonic() - outcome.began <= WARM + outcome.seconds:
        return
    if status == 200 and seconds <= DEADLINE:
        outcome.good += 1
        outcome.good_tokens += tokens
    elif status == 200:
        outcome.late += 1
    else:
        outcome.refused_after.append(seconds)


async def at_capacity(port: int, seconds: float, chance: random.Random) -> Outcome:
    """As many clients as run at once, each asking again when it is answered."""
    outcome = Outcome(seconds=seconds)
    end = outcome.began + WARM + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await ask(port, outcome, chance.randint(*TOKENS))

    await asyncio.gather(*(client() for _ in range(RUNNING * 5 // 4)))
    return outcome


async def overloaded(port: int, rate: float, seconds: float, chance: random.Random) -> Outcome:
    """Requests at random moments, so many a second."""
    outcome, due = Outcome(seconds=seconds), 0.0
    tasks: list[asyncio.Task[None]] = []
    while due < WARM + seconds:
        due += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, outcome.began + due - time.monotonic()))
        tasks.append(asyncio.ensure_future(ask(port, outcome, chance.randint(*TOKENS))))
    await asyncio.gather(*tasks)
    return outcome


def start(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    """A server that is ready, and its port."""
    log = folder / "log"
    code = "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["port=0", f"max_running={RUNNING}", "max_waiting=256", f"log_file={log}"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *words, "native_num_threads=1"]
    )
    while not log.exists() or '"ready"' not in log.read_text():
        if process.poll() is not None:
            raise SystemExit("The server did not start.")
        time.sleep(0.05)
    for line in log.read_text().splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "listening":
            return process, int(event["address"].rsplit(":", 1)[1].split("/")[0])
    raise SystemExit("The server does not say where it listens.")


async def compare(port: int, seconds: float) -> None:
    chance = random.Random(4)
    usual = await at_capacity(port, seconds, chance)
    rate = TIMES * usual.rate
    much = await overloaded(port, rate, seconds, chance)
    refused = sorted(much.refused_after) or [0.0]
    print(f"at capacity:  {usual.rate:7.1f} requests/s in time, {usual.token_rate:8.0f} tokens/s")
    print(
        f"at {TIMES} times: {much.rate:8.1f} requests/s in time, {much.token_rate:8.0f} tokens/s "
        f"(asked: {rate:.0f}/s; late: {much.late}; {dict(much.statuses)})"
    )
    print(f"goodput kept: {100 * much.rate / usual.rate:.0f} % of requests, ", end="")
    print(f"{100 * much.token_rate / usual.token_rate:.0f} % of tokens")
    p99 = refused[int(len(refused) * 0.99)]
    p95 = refused[int(len(refused) * 0.95)]
    print(
        f"refusals:     p50 {statistics.median(refused) * 1e3:.1f} ms, p95 {p95 * 1e3:.1f} ms, "
        f"p99 {p99 * 1e3:.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    seconds = parser.parse_args().seconds
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        process, port = start(Path(folder))
        try:
            asyncio.run(compare(port, seconds))
        finally:
            process.terminate()
            process.wait(60)


if __name__ == "__main__":
    main()
