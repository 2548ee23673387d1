"""Servers under load: `quire serve` on vLLM beside vLLM's own, and on the native engine beside others.

One load tool for all, in a process of its own: streams of /v1/chat/completions over kept connections,
closed (so many clients, each with one request after another) or open (requests at random moments,
whatever is under way). All servers of a comparison run at once and are asked in turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import report, table
from quire.demo import demo_model_path
from quire.engines.vllm.plan import UNIPROC

CLIENTS = 64
SECONDS = 10.0
ROUNDS = 5
NEW_TOKENS = 64
OPEN_SHARE = 0.6
"""The rate of the open load, of what the slower server did under the closed one."""
QUESTIONS = (
    "Hello! Who are you?",
    "What is PagedAttention?",
    "What is 17 + 25?",
    "Tell me of quire.",
)
START_SECONDS = 180.0


@dataclass(frozen=True)
class Load:
    """What one run measured. Times in seconds."""

    requests: float
    tokens: float
    first_p50: float
    first_p99: float
    errors: int


# --- the load tool, in its own process -------------------------------------------------------------


class Client:
    """One kept connection. It speaks as much of HTTP as the servers here do."""

    def __init__(self, port: int, model: str, to_the_end: bool) -> None:
        self._port, self._model, self._to_the_end = port, model, to_the_end
        self._ways: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, number: int) -> tuple[float, int]:
        """Stream one answer; return the seconds to the first piece, and the tokens."""
        if self._ways is None or self._ways[0].at_eof():  # idle for long, and closed
            self._ways = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._ways
        text = f"{QUESTIONS[number % len(QUESTIONS)]} ({number})"
        body = json.dumps(
            {
                "model": self._model,
                "messages": [{"role": "user", "content": text}],
                "max_tokens": NEW_TOKENS,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **({"ignore_eos": True} if self._to_the_end else {}),
            }
        ).encode()
        began, first = time.perf_counter(), 0.0
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(status.decode())
        await reader.readuntil(b"\r\n\r\n")
        tokens = 0
        while True:
            size = int(await reader.readline(), 16)
            piece = await reader.readexactly(size + 2)
            if size == 0:
                return first, tokens
            written = piece.replace(b'"content":""', b"").count(b'"content":"')
            if not first and written:
                first = time.perf_counter() - began
            tokens += written  # where no usage comes: a piece is a token there
            if b'"completion_tokens":' in piece:
                tokens = int(
                    piece.rsplit(b'"completion_tokens":', 1)[1].split(b",")[0].strip(b"} ")
                )


class Run:
    def __init__(
        self, port: int, model: str, to_the_end: bool, rate: float, clients: int = CLIENTS
    ) -> None:
        self.port, self.model, self.to_the_end, self.rate = port, model, to_the_end, rate
        self.clients = clients
        self.firsts: list[float] = []
        self.tokens = self.errors = 0
        self.number = random.randrange(10**9)  # so that no prompt is in a cache

    async def one(self, client: Client) -> None:
        self.number += 1
        try:
            first, tokens = await client.ask(self.number)
        except (RuntimeError, OSError, asyncio.IncompleteReadError):
            self.errors += 1
            return
        self.firsts.append(first)
        self.tokens += tokens

    async def closed(self, end: float) -> None:
        client = Client(self.port, self.model, self.to_the_end)
        while time.perf_counter() < end:
            await self.one(client)

    async def open(self, end: float) -> None:
        idle: list[Client] = []
        waiting: set[asyncio.Task[None]] = set()

        async def ask() -> None:
            client = idle.pop() if idle else Client(self.port, self.model, self.to_the_end)
            await self.one(client)
            idle.append(client)

        while time.perf_counter() < end:
            task = asyncio.create_task(ask())
            waiting.add(task)
            task.add_done_callback(waiting.discard)
            await asyncio.sleep(random.expovariate(self.rate))
        await asyncio.gather(*waiting)

    async def measure(self, seconds: float) -> Load:
        began = time.perf_counter()
        if self.rate:
            await self.open(began + seconds)
        else:
            await asyncio.gather(*(self.closed(began + seconds) for _ in range(self.clients)))
        took = time.perf_counter() - began
        firsts = sorted(self.firsts)
        return Load(
            len(firsts) / took,
            self.tokens / took,
            firsts[len(firsts) // 2],
            firsts[int(len(firsts) * 0.99)],
            self.errors,
        )


def load_tool(
    port: str, model: str, to_the_end: str, rate: str, seconds: str, clients: str
) -> None:
    run = Run(int(port), model, to_the_end == "True", float(rate), int(clients))
    found = asyncio.run(run.measure(float(seconds)))
    print(json.dumps(asdict(found)))


def measured(
    side: Side, rate: float = 0.0, seconds: float = SECONDS, clients: int = CLIENTS
) -> Load:
    """One run of the load tool."""
    asked = [str(side.port), side.model, str(side.to_the_end), str(rate), str(seconds)]
    asked.append(str(clients))
    words = [sys.executable, "-m", "benchmarks.serving", "load", *asked]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Side:
    """A server of a comparison; `to_the_end`: whether its answers all have NEW_TOKENS tokens."""

    words: Sequence[str]
    port: int
    environment: Mapping[str, str]
    model: str
    to_the_end: bool = True


# --- the servers -----------------------------------------------------------------------------------


@contextmanager
def server(words: Sequence[str], port: int, environment: Mapping[str, str]) -> Iterator[None]:
    """A server's process, from when it answers until it is ended."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env={**os.environ, **environment}, start_new_session=True
        )
        try:
            _wait(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(process: subprocess.Popen[bytes], port: int, log: Any) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        if _answers(port):
            return
        time.sleep(0.5)
    log.seek(0)
    raise RuntimeError(f"The server did not start:\n{log.read().decode()[-3000:]}")


def _answers(port: int) -> bool:
    import httpx

    try:
        found = httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2)
        if found.status_code == 404:  # not quire's
            found = httpx.get(f"http://127.0.0.1:{port}/health", timeout=2)
        return found.status_code == 200
    except httpx.HTTPError:
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _script(name: str) -> str:
    """A command of this environment."""
    return str(Path(sys.executable).with_name(name))


def quire_words(port: int, *more: str) -> list[str]:
    return [
        _script("quire"), "serve", str(demo_model_path()), f"port={port}",
        "served_model_name=demo", "vllm_maxlen=1024", "infer_dtype=float32", *more,
    ]  # fmt: skip


VLLM_MEMORY = 512 * 2**20


VLLM_TUNED = [
    "--distributed-executor-backend", UNIPROC, "--scheduling-policy", "priority",
    "--disable-log-stats", "--max-logprobs", "64",
]  # fmt: skip
"""What quire chooses by itself where nothing is said of it."""
VLLM_ENVIRONMENT = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
"""As `VLLM_TUNED`."""


def vllm_words(port: int, *more: str) -> list[str]:
    """With the settings that quire's user gives, and more."""
    return [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port),
        "--host", "127.0.0.1", "--model", str(demo_model_path()), "--served-model-name", "demo",
        "--max-model-len", "1024", "--dtype", "float32", "--enforce-eager",
        "--kv-cache-memory-bytes", str(VLLM_MEMORY), *more,
    ]  # fmt: skip


def transformers_words(port: int) -> list[str]:
    return [
        _script("transformers"), "serve", str(demo_model_path()),
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--device", "cpu",
        "--continuous-batching",
    ]  # fmt: skip


def compare(name: str, title: str, sides: Mapping[str, Side]) -> None:
    """Measure all sides in turns; the first is quire's, the others what it is compared to."""
    found: dict[str, dict[str, list[Load]]] = {side: {"closed": [], "open": []} for side in sides}
    with ExitStack() as stack:
        for side in sides.values():
            stack.enter_context(server(side.words, side.port, side.environment))
        for side in sides.values():
            measured(side, seconds=4)
        for number in range(ROUNDS):
            for side in sorted(sides, reverse=bool(number % 2)):
                found[side]["closed"].append(measured(sides[side]))
        rate = OPEN_SHARE * min(
            statistics.median(load.requests for load in loads["closed"]) for loads in found.values()
        )
        for number in range(ROUNDS):
            for side in sorted(sides, reverse=bool(number % 2)):
                found[side]["open"].append(measured(sides[side], rate))
    rows = [
        _row(
            f"{side}, {kind}" + (f" {rate:.0f}/s" if kind == "open" else f" {CLIENTS}"), loads[kind]
        )
        for kind in ("closed", "open")
        for side, loads in found.items()
    ]
    first, *others = sides
    rows += [
        _ratios(f"{first} / {other}, {kind}", found[first][kind], found[other][kind])
        for other in others
        for kind in ("closed", "open")
    ]
    header = ["", "requests/s", "tokens/s", "first token, ms, p50", "p99", "errors"]
    figures = {
        f"{side} {kind}": [asdict(load) for load in loads[kind]]
        for side, loads in found.items()
        for kind in loads
    }
    report(name, title, table(header, rows), figures)


def _row(name: str, loads: Sequence[Load]) -> list[object]:
    def of(field: str, scale: float = 1.0) -> str:
        return f"{scale * statistics.median(getattr(load, field) for load in loads):.0f}"

    errors = sum(load.errors for load in loads)
    return [name, of("requests"), of("tokens"), of("first_p50", 1e3), of("first_p99", 1e3), errors]


def _ratios(name: str, loads: Sequence[Load], others: Sequence[Load]) -> list[object]:
    def of(field: str) -> str:
        ratios = [getattr(a, field) / getattr(b, field) for a, b in zip(loads, others, strict=True)]
        return f"{statistics.median(ratios):.2f}"

    return [name, of("requests"), of("tokens"), of("first_p50"), of("first_p99"), ""]


def compare_vllm() -> None:
    quire, vllm, plain = free_port(), free_port(), free_port()
    own = json.dumps({"kv_cache_memory_bytes": VLLM_MEMORY})
    words = quire_words(
        quire, "infer_backend=vllm", "vllm_enforce_eager=true", f"vllm_config={own}"
    )
    compare(
        "serving_vllm",
        "quire serve beside vLLM's server, both on vLLM",
        {
            "quire": Side(words, quire, {}, "demo"),
            "vLLM, tuned as quire tunes it": Side(
                vllm_words(vllm, *VLLM_TUNED), vllm, VLLM_ENVIRONMENT, "demo"
            ),
            "vLLM": Side(vllm_words(plain), plain, {}, "demo"),
        },
    )


def compare_native() -> None:
    quire, other = free_port(), free_port()
    native = quire_words(quire, "infer_backend=native")
    folder = str(Path(demo_model_path()))
    compare(
        "serving_native",
        "quire serve on the native engine beside transformers serve",
        {
            "quire": Side(native, quire, {}, "demo", to_the_end=False),
            "transformers": Side(
                transformers_words(other), other, {"HF_HUB_OFFLINE": "1"}, folder, to_the_end=False
            ),
        },
    )


def main(names: list[str]) -> None:
    if names[:1] == ["load"]:
        load_tool(*names[1:])
        return
    parts = {"vllm": compare_vllm, "native": compare_native}
    for name in names or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
