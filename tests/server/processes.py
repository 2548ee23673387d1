"""`quire serve` as a process of its own, on the demo model, and a client of few bytes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.polling import wait_until

STARTS = "import sys; from quire.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass
class Running:
    """A server's process; its log is read from its standard error's file."""

    process: subprocess.Popen[bytes]
    log: Path
    port: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def until(self, event: str) -> dict[str, Any]:
        """The first event of a name."""
        wait_until(lambda: self._named(event) or self._ended())
        return self._named(event)[0]

    def _named(self, event: str) -> list[dict[str, Any]]:
        return [one for one in self.events() if one["event"] == event]

    def _ended(self) -> bool:
        """False; a process that ended fails the test."""
        assert self.process.poll() is None, self.log.read_text()
        return False

    def until_ready(self) -> None:
        """Wait for the server to say that it is, over HTTP."""

        def is_ready() -> bool:
            with suppress(httpx.TransportError):
                return httpx.get(f"{self.url}/ready", timeout=60).status_code == 200
            return self._ended()

        wait_until(is_ready)

    def metrics(self) -> dict[str, float]:
        """Samples of metrics without other labels than the model's."""
        text = httpx.get(f"{self.url}/metrics", headers=self.headers, timeout=60).text
        return {
            sample.name: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if set(sample.labels) <= {"model_name"}
        }

    def peak_memory(self) -> int:
        """Bytes that the process had in memory at most."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        row = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(row.split()[1]) * 1024

    def terminate(self, seconds: float) -> int:
        """Ask it to end; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


_KEPT: list[socket.socket] = []
"""Sockets that keep ports, up to the end of this process."""


def kept_port() -> int:
    """A port for a server to come, which nobody else is given meanwhile.

    A socket that does not listen is bound to it, and servers that set SO_REUSEADDR may be, too.
    """
    kept = socket.socket()
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("0.0.0.0", 0))
    _KEPT.append(kept)
    return kept.getsockname()[1]


def listening_port(process: subprocess.Popen[Any]) -> int:
    """The port at which a process listens, as soon as it does."""

    def ports() -> list[int]:
        assert process.poll() is None, "the server ended"
        sockets = psutil.Process(process.pid).net_connections("tcp")
        return [one.laddr.port for one in sockets if one.status == psutil.CONN_LISTEN]

    wait_until(ports)
    return ports()[0]


@contextmanager
def started(folder: Path, *words: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """The process of a server; its standard error is the file `stderr`."""
    command = [sys.executable, "-c", STARTS, "serve", *words, "native_num_threads=1"]
    with (folder / "stderr").open("wb") as output:
        process = subprocess.Popen(command, stderr=output, env={**os.environ, **environment})
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


@contextmanager
def running(folder: Path, *words: str, **environment: str) -> Iterator[Running]:
    """Serve the demo model at a free port; the server is ready."""
    with started(folder, "port=0", *words, **environment) as process:
        server = Running(process, folder / "stderr")
        listening = server.until("listening")
        server.port = int(listening["address"].rsplit(":", 1)[1].split("/")[0])
        server.until("ready")
        yield server


async def posted(port: int, body: dict[str, Any], **headers: str) -> tuple[Any, Any]:
    """A connection on which a chat was asked for, and nothing read."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        f"connection: close\r\n{more}content-length: {len(content)}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    await writer.drain()
    return reader, writer


async def read_all(port: int, body: dict[str, Any]) -> tuple[int, str]:
    """The status of one chat, and all that was answered."""
    reader, writer = await posted(port, body)
    answer = (await reader.read()).decode()
    writer.close()
    return int(answer.split(" ", 2)[1]), answer


def asked(max_tokens: int, **options: Any) -> dict[str, Any]:
    """A stream of exactly so many tokens."""
    return {
        "messages": [{"role": "user", "content": "Tell me of the sea."}],
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "stream": True,
        **options,
    }
