"""A server on 127.0.0.1 that speaks vLLM's protocol, and fails on demand.

It runs in a thread of its own. Its answers have the form of those recorded from vLLM 0.32.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Self

MODEL = "fake-model"
WORDS = ("Once", " upon", " a", " time")
IDS = (101, 102, 103, 104)


@dataclass(frozen=True)
class Seen:
    """One request as the server received it."""

    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class FakeServer:
    """`mode` says how the next requests are answered:

    "answer", "refuse" (with `status` and `message`), "die" (in the middle of the stream), "hang up"
    (before the response), "silent" (after the first event), "hold" (until `resume` is set), "cut"
    (the stream ends without a finish reason), "garbage", "strange", "error event", "endless line".
    """

    def __init__(self, *, models: tuple[str, ...] = (MODEL,), max_model_len: int = 512) -> None:
        self.mode = "answer"
        self.status, self.message, self.param = 503, "not now", ""
        self.health = 200
        self.key: str | None = None
        self.cached: int | None = None
        self.limit_refused = False
        self.models, self.max_model_len = models, max_model_len
        self.chat_deltas: list[dict[str, Any]] = [{"content": word} for word in WORDS]
        self.seen: list[Seen] = []
        self.in_flight = self.aborted = 0
        self.resume = threading.Event()
        # A socket that is bound and does not listen keeps the port while the server is stopped.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._place.bind(("127.0.0.1", 0))
        self.port: int = self._place.getsockname()[1]

    # --- lifecycle ---

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def posts(self) -> list[Seen]:
        return [one for one in self.seen if one.method == "POST"]

    def start(self) -> Self:
        """Listen; a second start, after `stop`, listens at the same port."""
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(60)
        return self

    def stop(self) -> None:
        """Close all connections, and refuse others."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(60)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._place.close()

    def _run(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(ready))
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        server = await asyncio.start_server(
            self._handle, "127.0.0.1", self.port, reuse_address=True
        )
        ready.set()
        await self._stopping.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- requests ---

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await self._read(reader)
            self.seen.append(request)
            await self._route(request, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, path, _ = head[0].split(" ")
        pairs = (line.split(": ", 1) for line in head[1:] if line)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Seen(method, path, headers, json.loads(body) if body else {})

    async def _route(
        self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if request.path.endswith("/health"):
            return self._send(writer, self.health, {})
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return self._send(writer, 401, {"error": "Unauthorized"})
        if request.path.endswith("/v1/models"):
            cards = [
                {"id": name, "parent": None, "max_model_len": self.max_model_len}
                for name in self.models
            ]
            return self._send(writer, 200, {"object": "list", "data": cards})
        if self.mode == "refuse":
            return self._refuse(writer)
        if self.limit_refused and "max_tokens" in request.body:
            self.message = "This model's maximum context length is 512 tokens."
            self.status = 400
            return self._refuse(writer)
        await self._answer(request, reader, writer)

    def _refuse(self, writer: asyncio.StreamWriter) -> None:
        error = {"message": self.message, "param": self.param, "code": self.status}
        self._send(writer, self.status, {"error": error})

    def _send(self, writer: asyncio.StreamWriter, status: int, content: Any) -> None:
        body = json.dumps(content).encode()
        writer.write(
            f"HTTP/1.1 {status} Some Reason\r\nContent-Type: application/json\r\n"
            f"Location: http://127.0.0.1:1/\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )

    async def _answer(
        self, request: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.in_flight += 1

        playing = asyncio.ensure_future(self._play(request, writer))
        closed = asyncio.ensure_future(reader.read(1))
        try:
            await asyncio.wait({playing, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not playing.done():
                self.aborted += 1
        finally:
            self.in_flight -= 1
            playing.cancel()
            closed.cancel()
        if playing.done() and not playing.cancelled():
            playing.result()

    async def _play(self, request: Seen, writer: asyncio.StreamWriter) -> None:
        if self.mode == "hang up":
            return
        if not request.body.get("stream"):
            while self.mode == "hold" and not self.resume.is_set():
                await asyncio.sleep(0.01)
            self._send(writer, 200, self._whole(request))
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        async for line in self._lines(request):
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            await writer.drain()
        if self.mode != "die":
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def _lines(self, request: Seen) -> AsyncIterator[bytes]:
        events = self._events(request)
        yield b": a comment\n\n"
        yield _line(events[0])
        if self.mode == "silent":
            await asyncio.sleep(60)
        while self.mode == "hold" and not self.resume.is_set():
            await asyncio.sleep(0.01)
        if self.mode == "die":
            return
        if self.mode == "garbage":
            yield b"data: {broken\n\n"
        if self.mode == "strange":
            yield b'data: {"choices": [{"index": 7, "text": "?"}]}\n\n'
        if self.mode == "error event":
            yield _line({"error": {"message": "a step failed", "code": 500}})
        if self.mode == "endless line":
            for _ in range(40):
                yield b"data: " if _ == 0 else b"x" * 2**19
        for event in events[1:-2] if self.mode == "cut" else events[1:]:
            yield _line(event)
        yield b"data: [DONE]\n\n"

    # --- answers ---

    def _usage(self, count: int) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": 9, "completion_tokens": count}
        if self.cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.cached}
        return usage

    def _events(self, request: Seen) -> list[dict[str, Any]]:
        count = request.body.get("n", 1)
        if "chat" in request.path:
            events = [
                _choice({"delta": delta}, index, position, len(self.chat_deltas))
                for position, delta in enumerate(self.chat_deltas)
                for index in range(count)
            ]
        else:
            events = [
                _choice({"text": word}, index, position, len(WORDS))
                for position, word in enumerate(WORDS)
                for index in range(count)
            ]
        return [*events, {"choices": [], "usage": self._usage(len(events))}]

    def _whole(self, request: Seen) -> dict[str, Any]:
        choices: list[dict[str, Any]] = []
        for index in range(request.body.get("n", 1)):
            choice = {"index": index, "finish_reason": "stop", "token_ids": list(IDS)}
            if "chat" in request.path:
                content = "".join(delta.get("content", "") for delta in self.chat_deltas)
                choice["message"] = {"role": "assistant", "content": content}
            else:
                choice["text"] = "".join(WORDS)
            choices.append(choice)
        return {"choices": choices, "usage": self._usage(len(IDS))}


def _choice(content: dict[str, Any], index: int, position: int, length: int) -> dict[str, Any]:
    last = position == length - 1
    choice = {
        **content,
        "index": index,
        "token_ids": [IDS[position % len(IDS)]],
        "finish_reason": "stop" if last else None,
    }
    return {"choices": [choice]}


def _line(event: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(event)}\n\n".encode()
