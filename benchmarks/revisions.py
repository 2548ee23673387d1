"""This checkout beside another revision of it: nothing may have become slower.

    python -m benchmarks.revisions be1a885              every point, 5 rounds
    python -m benchmarks.revisions HEAD~1 --rounds 9    the commit before

The other revision is checked out into a temporary worktree. Both stay loaded, each in a process of its
own with its own sources, and are measured point by point, one right after the other in changing order;
the other one waits in a read meanwhile. Points: the first token from a cold process, tokens a second at
1 to 64 streams, whole answers, a prompt of 1,024 tokens, requests of a single token, and streams over
HTTP. Only what the public interface has in both revisions is used.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from benchmarks.measure import paired, report, table
from benchmarks.models import qwen2_26m
from benchmarks.throughput import WORDS

ROOT = Path(__file__).parents[1]
NEW_TOKENS = 128
STREAMS = (1, 8, 32, 64)
GREEDY: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}


Seconds: TypeAlias = tuple[float, float]
"""By the clock, and of the CPU."""


def conversation(number: int, words: int) -> list[dict[str, str]]:
    """One message of so many words, unlike that of any other number."""
    text = " ".join(WORDS[(number * 7 + index) % len(WORDS)] for index in range(words))
    return [{"role": "user", "content": f"{number} {text}"}]


# --- the measured process --------------------------------------------------------------------------


class Subject:
    """One revision's ChatModel, in its own process; `measure` is told a point by name."""

    def __init__(self, model: str) -> None:
        from quire import ChatModel

        arguments = {"model_name_or_path": model, "template": "qwen"}
        self.model = ChatModel({**arguments, "native_prefix_caching": False})
        self._number = 0

    def measure(self, point: str) -> Seconds:
        """What the work of a point takes."""
        kind, _, count = point.partition("-")
        run: Callable[[int], Any] = {
            "streams": self._streams,
            "answers": self._answers,
            "prompt": self._prompt,
            "single": self._single,
        }[kind]
        began, cpu = time.perf_counter(), time.process_time()
        result = run(int(count))
        if asyncio.iscoroutine(result):
            asyncio.run(result)
        return time.perf_counter() - began, time.process_time() - cpu

    def _next(self, words: int) -> list[dict[str, str]]:
        self._number += 1
        return conversation(self._number, words)

    async def _streams(self, count: int) -> None:
        async def one() -> None:
            items = 0
            stream = self.model.astream_chat(self._next(24), max_new_tokens=NEW_TOKENS, **GREEDY)
            async for _ in stream:
                items += 1

        await asyncio.gather(*(one() for _ in range(count)))

    async def _answers(self, count: int) -> None:
        chats = (
            self.model.achat(self._next(24), max_new_tokens=NEW_TOKENS, **GREEDY)
            for _ in range(count)
        )
        await asyncio.gather(*chats)

    def _prompt(self, words: int) -> None:
        self.model.chat(self._next(words), max_new_tokens=1, **GREEDY)

    def _single(self, count: int) -> None:
        for _ in range(count):
            for _ in self.model.stream_chat(self._next(4), max_new_tokens=1, **GREEDY):
                pass


def work(model: str) -> None:
    """Answer points, one a line, with seconds."""
    subject = Subject(model)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(subject.measure(line.strip())), flush=True)


# --- the measuring process -------------------------------------------------------------------------


_COMMAND = (
    "import sys; from quire.cli.main import main; sys.exit(main())"  # before `python -m quire`
)


class Revision:
    """One checkout, with its process and its server."""

    def __init__(self, root: Path, model: str) -> None:
        self._environment = {**os.environ, "PYTHONPATH": str(root / "src")}
        self._model = model
        words = [sys.executable, str(Path(__file__)), "--work", model]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # `benchmarks` is this checkout's in both: the points are the same.
            env={**self._environment, "PYTHONPATH": f"{root / 'src'}{os.pathsep}{ROOT}"},
            cwd=root,
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        serve = ["serve", model, "template=qwen", "native_prefix_caching=false"]
        serve += ["--port", str(self._port), "--log_file", os.devnull]
        self._server = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *serve],
            env=self._environment,
            cwd=root,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._await_server()

    def _await_server(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/ready", timeout=5).close()
                return
            time.sleep(0.2)
        raise TimeoutError("the server has not become ready")

    def measure(self, point: str) -> Seconds:
        """What one point takes."""
        if point == "start":
            return self._start()
        if point.startswith("http"):
            times = psutil.Process(self._server.pid).cpu_times
            cpu, began = sum(times()[:2]), time.perf_counter()
            asyncio.run(self._http(int(point.partition("-")[2])))
            return time.perf_counter() - began, sum(times()[:2]) - cpu
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(point + "\n")
        self._process.stdin.flush()
        wall, cpu = json.loads(self._process.stdout.readline())
        return wall, cpu

    def _start(self) -> Seconds:
        code = (
            "from quire import ChatModel; import sys; model = ChatModel({'model_name_or_path': "
            "sys.argv[1], 'template': 'qwen'}); "
            "model.chat([{'role': 'user', 'content': 'Hello'}], max_new_tokens=1); model.close()"
        )
        began, cpu = time.perf_counter(), sum(os.times()[2:4])
        subprocess.run([sys.executable, "-c", code, self._model], env=self._environment, check=True)
        return time.perf_counter() - began, sum(os.times()[2:4]) - cpu

    async def _http(self, streams: int) -> None:
        await asyncio.gather(*(self._one_stream(number) for number in range(streams)))

    async def _one_stream(self, number: int) -> None:
        body = json.dumps(
            {
                "messages": conversation(number, 24),
                "max_tokens": NEW_TOKENS,
                "stream": True,
                **GREEDY,
            }
        ).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(head + body)
        text = await reader.read()
        writer.close()
        assert b"data: [DONE]" in text, text[:500]

    def close(self) -> None:
        """End both processes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._server.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._server.wait(60)


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[Path]:
    """A checkout of a revision, removed at the end."""
    with tempfile.TemporaryDirectory(prefix="quire-revision-") as folder:
        path = Path(folder) / "checkout"
        command = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*command, "add", "--quiet", "--detach", path, revision], check=True)
        try:
            yield path
        finally:
            subprocess.run([*command, "remove", "--force", path], check=True)


POINTS = {
    "start": "first token from a cold process",
    **{f"streams-{count}": f"{count} streams of {NEW_TOKENS} tokens" for count in STREAMS},
    "answers-64": f"64 whole answers of {NEW_TOKENS} tokens",
    "prompt-1024": "a prompt of some 1,024 tokens",
    "single-200": "200 requests of one token, one after the other",
    "http-64": f"64 streams of {NEW_TOKENS} tokens over HTTP",
}


def main() -> None:
    """Measure, and print a row for each point."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("revision", help="what to compare with, as git knows it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--points", default=",".join(POINTS), help="some of: %(default)s")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.revision)
        return
    model = str(qwen2_26m())
    with worktree(options.revision) as before, contextlib.ExitStack() as running:
        old, new = Revision(before, model), Revision(ROOT, model)
        running.callback(old.close)
        running.callback(new.close)
        figures: dict[str, Any] = {}
        rows: list[tuple[str, ...]] = []
        for point in options.points.split(","):
            pairs = paired(
                lambda point=point: old.measure(point),
                lambda point=point: new.measure(point),
                options.rounds,
                warm_up=1,
            )
            figures[point] = pairs
            row = [POINTS[point]]
            for kind in (0, 1):
                before_now = [(one[kind], other[kind]) for one, other in pairs]
                medians = [statistics.median(column) for column in zip(*before_now, strict=True)]
                ratios = [one / other for one, other in before_now]
                low, middle, high = statistics.quantiles(ratios, n=4)
                row += [f"{value:.2f}" for value in medians]
                row.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
            rows.append(tuple(row))
            print(*row, sep=" | ", file=sys.stderr, flush=True)
    names = (f"{options.revision}, s", "now, s", "times as fast (quartiles)")
    header = ("", *names, *(f"CPU: {name}" for name in names))
    report("revisions", "Beside another revision", table(header, rows), figures)


if __name__ == "__main__":
    main()
