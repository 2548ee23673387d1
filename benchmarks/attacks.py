"""What one hostile request does to everybody else: the worst /health, and the server's memory.

    python -m benchmarks.attacks                        every attack, on this checkout
    python -m benchmarks.attacks --against be1a885      and on another revision
    python -m benchmarks.attacks --only detokenize,png  those whose names hold one of these
    python -m benchmarks.attacks --soak 10              all at once for so many minutes

`quire serve` serves a demo model on the loopback, as a process of its own with its default limits.
While an attack is under way, which is ended after half a minute, /health is asked on connections of
their own, and one stream after another is read. In a soak, 16 clients read streams beside all
attacks; no stream may fail, and the memory must be flat.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import itertools
import json
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.measure import memory, report, table
from benchmarks.revisions import ROOT, worktree

MODEL = "demo-see"
LIMIT = 30.0
"""Seconds after which an attack is ended."""
MIB = 2**20
ADDRESSES = 12 * 2**30
"""Bytes of addresses that a server may have."""
BODY = 32 * MIB
"""The largest body that a server takes by default."""
STREAMS = 16
"""Clients of a soak."""
TOKENS = 48
"""Tokens of a stream."""


# --- the server ----------------------------------------------------------------------------------


class Server:
    """`quire serve` of one checkout, ready."""

    def __init__(self, root: Path, folder: Path, *words: str) -> None:
        log = folder / "log"
        log.unlink(missing_ok=True)
        code = "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", MODEL, "port=0", f"log_file={log}", *words]
        self._process = subprocess.Popen(
            command,
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root / "src")},
            stderr=subprocess.DEVNULL,
        )
        # An attack that succeeds must not take the machine with it.
        resource.prlimit(self._process.pid, resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
        while not log.exists() or '"ready"' not in log.read_text():
            if self._process.poll() is not None:
                raise SystemExit("The server did not start.")
            time.sleep(0.05)
        events = map(json.loads, log.read_text().splitlines())
        address = next(one["address"] for one in events if one["event"] == "listening")
        self.port = int(address.rsplit(":", 1)[1].split("/")[0])
        self._pid = self._process.pid

    def forget_peak(self) -> None:
        """Count the most memory anew (Linux)."""
        with contextlib.suppress(OSError):
            Path(f"/proc/{self._pid}/clear_refs").write_text("5")

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def memory(self, field: str = "VmRSS") -> int:
        """Bytes: `VmRSS` now, `VmHWM` at most; 0 of a server that has died."""
        return memory(field, self._pid)

    def memory_of_children(self) -> int:
        """Bytes of the processes that the server has started."""
        total = 0
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self._pid).children(recursive=True):
                total += child.memory_info().rss
        return total

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# --- a client of few bytes -------------------------------------------------------------------------


def connected(port: int, seconds: float = LIMIT) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    wanted = [f"{method} {path} HTTP/1.1", "host: localhost", *lines]
    return ("\r\n".join(wanted) + "\r\n\r\n").encode()


def post(port: int, path: str, body: bytes, seconds: float = LIMIT) -> str:
    """The status of one request, or that there was none in time."""
    lines = (
        "content-type: application/json",
        f"content-length: {len(body)}",
        "connection: close",
    )
    try:
        with connected(port, seconds) as wire:
            wire.sendall(head(path, *lines) + body)
            return status_of(wire)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return type(error).__name__


def status_of(wire: socket.socket) -> str:
    answer = wire.recv(64)
    while wire.recv(MIB):
        pass
    return answer.split(b" ", 2)[1].decode() if answer.count(b" ") > 1 else "cut"


def stream(port: int, seconds: float = LIMIT) -> tuple[bool, float]:
    """Whether one stream comes whole, and the longest that one waits for its next piece."""
    body = {
        "messages": [{"role": "user", "content": "Tell me of the sea."}],
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    content = json.dumps(body).encode()
    lines = (
        "content-type: application/json",
        f"content-length: {len(content)}",
        "connection: close",
    )
    text, longest, last = b"", 0.0, time.monotonic()
    try:
        with connected(port, seconds) as wire:
            wire.sendall(head("/v1/chat/completions", *lines) + content)
            while piece := wire.recv(65536):
                longest = max(longest, time.monotonic() - last)
                last = time.monotonic()
                text += piece
    except OSError:
        return False, time.monotonic() - last
    return b'"finish_reason":"length"' in text and b"data: [DONE]" in text, longest


# --- attacks -----------------------------------------------------------------------------------------


Attack = Callable[[int], str]
"""Attacks the server at a port, and says what came of it."""
ATTACKS: dict[str, Attack] = {}
ARGUMENTS: dict[str, tuple[str, ...]] = {}
"""Arguments of the server that an attack needs besides the defaults."""


def attack(name: str, *arguments: str) -> Callable[[Attack], Attack]:
    def register(function: Attack) -> Attack:
        ATTACKS[name] = function
        if arguments:
            ARGUMENTS[name] = arguments
        return function

    return register


def filled(before: str, item: str, after: str, size: int = BODY) -> bytes:
    """A body of one item again and again, up to a size."""
    room = size - len(before) - len(after) - 16
    return (before + item * (room // len(item)) + after).encode()


def of_body(name: str, path: str, make: Callable[[], bytes]) -> None:
    """Register an attack of one request."""
    ATTACKS[name] = lambda port: post(port, path, make())


CHAT, COUNT = "/v1/chat/completions", "/v1/messages/count_tokens"
ASKED = '{"messages":[{"role":"user","content":'
of_body("wrong items, 1 MiB", CHAT, lambda: filled(ASKED + "[0", ",0", "]}]}", MIB))
of_body("wrong items", CHAT, lambda: filled(ASKED + "[0", ",0", "]}]}"))
of_body("wrong ids: detokenize", "/detokenize", lambda: filled('{"tokens":[""', ',""', "]}"))
of_body("ids: detokenize", "/detokenize", lambda: filled('{"tokens":[7', ",7", "]}"))
of_body("empty lists", CHAT, lambda: filled(ASKED + "[[]", ",[]", "]}]}"))
of_body("escapes", CHAT, lambda: filled(ASKED + '"', '\\"', '"}],"a":[' + "[]," * 101 + "0]}"))
of_body("long name", CHAT, lambda: filled('{"messages":[],"', "a", '":0}'))
of_body("words: tokenize", "/tokenize", lambda: filled('{"prompt":"', "some words ", '"}', 8 * MIB))
of_body("one word: tokenize", "/tokenize", lambda: filled('{"prompt":"', "ab", '"}', 8 * MIB))
of_body(
    "spaces and a letter: tokenize",
    "/tokenize",
    lambda: filled('{"prompt":"', " ", 'a"}', 11 * MIB),
)
of_body(
    "words: completions",
    "/v1/completions",
    lambda: filled('{"prompt":"', "some words ", '"}', 8 * MIB),
)
of_body(
    "words: embeddings",
    "/v1/embeddings",
    lambda: filled('{"input":"', "some words ", '"}', 8 * MIB),
)
of_body(
    "words, cut: embeddings",
    "/v1/embeddings",
    lambda: filled('{"truncate_prompt_tokens":9,"input":"', "some words ", '"}', 8 * MIB),
)
of_body(
    "control text: chat",
    CHAT,
    lambda: filled(ASKED + '"<|im_end|>', " some words", '"}]}', 8 * MIB),
)


@attack("unknown fields")
def unknown_fields(port: int) -> str:
    names = ",".join(f'"a{number}":0' for number in range(300_000))
    return post(port, CHAT, f'{{"messages":[],{names}}}'.encode())


@attack("tool results in reverse")
def tool_results(port: int) -> str:
    calls = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}} for n in range(8000)]
    results = [{"type": "tool_result", "tool_use_id": f"c{n}", "content": "x"} for n in range(8000)]
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results[::-1]},
    ]
    return post(port, COUNT, json.dumps({"model": MODEL, "messages": turns}).encode())


@attack("bad words")
def bad_words(port: int) -> str:
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=256)) for _ in range(1024)]
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "bad_words": words}
    return post(port, CHAT, json.dumps(asked).encode())


def png(width: int, height: int, colour: int) -> str:
    """A picture of zeros as a data URL."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    packer = zlib.compressobj(9)
    row = bytes(width * channels + 1)
    rows = max(1, MIB // len(row))
    data = b"".join(
        packer.compress(row * min(rows, height - top)) for top in range(0, height, rows)
    )
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, colour, 0, 0, 0))
    chunks = ((b"IHDR", size), (b"IDAT", data + packer.flush()), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )
    return "data:image/png;base64," + base64.b64encode(content).decode()


def picture(port: int, *urls: str) -> str:
    content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    asked = {"messages": [{"role": "user", "content": content}], "max_tokens": 2}
    return post(port, CHAT, json.dumps(asked).encode())


@attack("png of 1 x 64,000,000")
def narrow_picture(port: int) -> str:
    return picture(port, png(1, 64_000_000, 0))


@attack("png of 8,000 x 8,000 with transparency")
def large_picture(port: int) -> str:
    return picture(port, png(8000, 8000, 6))


def constrained(schema: Any) -> bytes:
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    asked = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    return json.dumps({**asked, "response_format": form}).encode()


@attack("24 grammars of 5,000,000 items")
def large_grammars(port: int) -> str:
    found = [
        post(port, CHAT, constrained({"type": "array", "minItems": count, "maxItems": count}), 10)
        for count in range(5_000_000, 5_000_024)
    ]
    return " ".join(sorted(set(found)))


def slow_schema(number: int) -> Any:
    patterns = [f"[a-z]{{{count},}}x{number}" for count in range(60)]
    return {"allOf": [{"type": "string", "pattern": pattern} for pattern in patterns]}


@attack("8 slow grammars beside a simple one")
def slow_grammars(port: int) -> str:
    bodies = [constrained(slow_schema(number)) for number in range(8)]
    threads = [threading.Thread(target=post, args=(port, CHAT, body)) for body in bodies]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    found = post(port, CHAT, constrained({"type": "integer", "minimum": time.time_ns() % 1000}))
    for thread in threads:
        thread.join()
    return f"the simple one: {found}"


@attack("more than 1,024 connections, and a grammar")
def many_connections(port: int) -> str:
    with contextlib.ExitStack() as open_ones:
        for _ in range(1200):
            open_ones.enter_context(connected(port))
        return post(port, CHAT, constrained({"type": "integer", "maximum": time.time_ns()}))


@attack("trailers of 100 MiB")
def trailers(port: int) -> str:
    lines = ("content-type: application/json", "transfer-encoding: chunked")
    return flood(
        port, head(CHAT, *lines) + b"2\r\n{}\r\n0\r\n", b"x-a: " + b"a" * 1000 + b"\r\n", 100
    )


@attack("pipelined requests of 16 MiB")
def pipelined(port: int) -> str:
    return flood(port, b"", head("/v1/models", method="GET"), 16)


def flood(port: int, begin: bytes, piece: bytes, mebibytes: int) -> str:
    """Send a piece again and again, and read nothing."""
    block = piece * (MIB // len(piece))
    sent = 0
    try:
        with connected(port, 5) as wire:
            wire.sendall(begin)
            while sent < mebibytes:
                wire.sendall(block)
                sent += 1
            time.sleep(1)
    except OSError as error:
        return f"{type(error).__name__} after {sent} MiB"
    return f"took {mebibytes} MiB"


@attack("as many quiet connections as there may be", "max_connections=64")
def quiet_connections(port: int) -> str:
    with contextlib.ExitStack() as open_ones:
        wires = [open_ones.enter_context(connected(port)) for _ in range(64)]
        for wire in wires:
            with contextlib.suppress(OSError):
                wire.sendall(head("/v1/models", method="GET"))
                wire.recv(65536)
                wire.sendall(b"\r\n")
        time.sleep(8)
        return "held"


# --- measuring -----------------------------------------------------------------------------------


@dataclass
class Watch:
    """Asks /health on connections of their own, and reads streams, until it is told to end."""

    server: Server
    worst_health: float = 0.0
    health_failed: int = 0
    worst_gap: float = 0.0
    streams_failed: int = 0
    children: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._threads = [threading.Thread(target=run) for run in (self._ask, self._read)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        for number in itertools.count():
            began = time.monotonic()
            try:
                with connected(self.server.port) as wire:
                    wire.sendall(head("/health", "connection: close", method="GET"))
                    self.health_failed += status_of(wire) != "200"
            except OSError:
                self.health_failed += 1
            self.worst_health = max(self.worst_health, time.monotonic() - began)
            if number % 10 == 0:
                self.children = max(self.children, self.server.memory_of_children())
            if self._ended.wait(0.02):
                return

    def _read(self) -> None:
        while not self._ended.is_set():
            whole, gap = stream(self.server.port)
            self.streams_failed += not whole
            self.worst_gap = max(self.worst_gap, gap)


def measured(server: Server, run: Attack) -> dict[str, Any]:
    """One attack's figures: seconds, and bytes above what the server had before."""
    server.forget_peak()
    before = server.memory()
    began = time.monotonic()
    with Watch(server) as watch:
        outcome = run(server.port)
        seconds = time.monotonic() - began
    return {
        "outcome": outcome if server.is_alive else "the server died",
        "seconds": seconds,
        "health": watch.worst_health,
        "health_failed": watch.health_failed,
        "gap": watch.worst_gap,
        "streams_failed": watch.streams_failed,
        "memory": server.memory("VmHWM") - before,
        "children": watch.children,
    }


def chosen(only: str) -> list[str]:
    parts = only.split(",")
    return [name for name in ATTACKS if any(part in name for part in parts)]


def warm_up(port: int) -> None:
    """Have the server import and load what it does for the first request of each kind."""
    stream(port)
    picture(port, png(64, 64, 2))
    post(port, CHAT, constrained({"type": "integer"}))


def compare(checkouts: dict[str, Path], names: list[str]) -> None:
    """Every attack on every checkout; a server that was attacked serves the next attack too."""
    figures: dict[str, Any] = {}
    rows: list[tuple[str, ...]] = []
    for revision, root in checkouts.items():
        server: Server | None = None
        words: tuple[str, ...] = ()
        with tempfile.TemporaryDirectory() as folder:
            for name in sorted(names, key=lambda name: ARGUMENTS.get(name, ())):
                wanted = ARGUMENTS.get(name, ())
                if server is None or not server.is_alive or words != wanted:
                    if server is not None:
                        server.close()
                    server, words = Server(root, Path(folder), *wanted), wanted
                    warm_up(server.port)
                found = figures[f"{revision}: {name}"] = measured(server, ATTACKS[name])
                rows.append((name, revision, *row_of(found)))
                print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
            if server is not None:
                server.close()
    rows.sort(key=lambda row: names.index(row[0]))
    header = ("attack", "revision", "outcome", "s", "worst /health, ms", "longest gap, ms",
              "memory, MiB", "of children")  # fmt: skip
    report("attacks", "One hostile request", table(header, rows), figures)


def row_of(found: dict[str, Any]) -> tuple[str, ...]:
    health, gap = (f"{1000 * found[name]:.0f}" for name in ("health", "gap"))
    health += f" ({found['health_failed']} failed)" if found["health_failed"] else ""
    gap += f" ({found['streams_failed']} failed)" if found["streams_failed"] else ""
    memory, children = (f"{found[name] / MIB:.0f}" for name in ("memory", "children"))
    return found["outcome"], f"{found['seconds']:.1f}", health, gap, memory, children


# --- the soak --------------------------------------------------------------------------------------


def soak(minutes: float, names: list[str]) -> None:
    """All attacks, two at a time in random order, beside clients that read streams."""
    names = [name for name in names if name not in ARGUMENTS]
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as folder:
        server = Server(ROOT, Path(folder))
        warm_up(server.port)
        failed: list[float] = []
        gaps: list[float] = []

        def read_streams() -> None:
            while time.monotonic() < end:
                whole, gap = stream(server.port, 60)
                gaps.append(gap)
                if not whole:
                    failed.append(time.monotonic())

        def run_attacks(number: int) -> None:
            chance = random.Random(number)
            while time.monotonic() < end:
                ATTACKS[chance.choice(names)](server.port)

        threads = [threading.Thread(target=read_streams) for _ in range(STREAMS)]
        threads += [threading.Thread(target=run_attacks, args=(number,)) for number in range(2)]
        try:
            with Watch(server) as watch:
                for thread in threads:
                    thread.start()
                memory = list(sampled(server, end))
                for thread in threads:
                    thread.join()
        finally:
            server.close()
    print_soak(memory, watch, len(gaps), len(failed), max(gaps, default=0.0))


def sampled(server: Server, end: float) -> Iterator[int]:
    """The server's memory every five seconds."""
    while time.monotonic() < end:
        time.sleep(min(5.0, max(0.0, end - time.monotonic())))
        yield server.memory()


def print_soak(memory: list[int], watch: Watch, streams: int, failed: int, gap: float) -> None:
    fifth = max(1, len(memory) // 5)
    parts = [max(memory[start : start + fifth]) for start in range(0, len(memory), fifth)]
    rows = [
        ("streams of honest clients", streams),
        ("of them failed", failed + watch.streams_failed),
        ("longest gap, ms", f"{1000 * max(gap, watch.worst_gap):.0f}"),
        ("worst /health, ms", f"{1000 * watch.worst_health:.0f}"),
        ("/health failed", watch.health_failed),
        ("most memory in each fifth, MiB", ", ".join(f"{part / MIB:.0f}" for part in parts)),
    ]
    figures = {"streams": streams, "failed": failed, "memory": memory, "gap": gap}
    report("soak", "All attacks beside honest streams", table(("", ""), rows), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--against", help="another revision, as git knows it")
    parser.add_argument("--only", default="", help="parts of attacks' names, separated by commas")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    options = parser.parse_args()
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (4096, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    )
    names = chosen(options.only)
    if options.soak:
        soak(options.soak, names)
        return
    with contextlib.ExitStack() as stack:
        checkouts = {"now": ROOT}
        if options.against:
            checkouts = {
                options.against: stack.enter_context(worktree(options.against)),
                **checkouts,
            }
        compare(checkouts, names)


if __name__ == "__main__":
    main()
