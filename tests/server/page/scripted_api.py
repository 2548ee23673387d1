"""A server with the page and an API that answers from a script: what is asked says how."""

from __future__ import annotations

import asyncio
import json
import math
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from quire.server import page

MODELS = [{"id": "scripted", "parent": None}, {"id": "pirate", "parent": "scripted"}]

ATTACK = """# Hello
<script>window.broken = 1</script>
<img src=x onerror="window.broken = 2">
[click](javascript:window.broken=3) [data](data:text/html,<script>window.broken=4</script>)
[tab](java\tscript:window.broken=5) <a href="javascript:window.broken=6">raw</a>
![seen](https://elsewhere.invalid/pixel.png)
<svg onload="window.broken = 7"><iframe srcdoc="<script>parent.broken = 8</script>">
<javascript:window.broken=9>
<style>body { display: none }</style>
[ok](https://example.org "x\\" onmouseover=\\"window.broken=10")

```html"onmouseover="window.broken=11
<script>window.broken = 12</script>
```
"""

RICH = """Here is a table, and some code.

| Name | Count |
|:-----|------:|
| one  |     1 |

```python
def add(a: int, b: int) -> int:
    return a + b  # simple
```

1. first
2. second, see [the site][site]

[site]: https://example.org
"""


PIECES = (b"Gr\xc3\xbc", b"\xc3", b"\x9fe ", b"\n", b" ", b"\xf0\x9f", b"\x91\x8b", b" you", b"!")
"""Tokens of an answer, of which some hold only a part of a character."""


@dataclass
class ScriptedApi:
    """What the page asked, and what it is told."""

    url: str = ""
    key: str | None = None
    loading: bool = False
    away: bool = False
    """Whether the page's files are refused, as by a proxy whose server is gone."""
    models: list[dict[str, Any]] = field(default_factory=lambda: list(MODELS))
    bodies: list[dict[str, Any]] = field(default_factory=list)
    aborted: int = 0
    most_bytes: int = 200_000
    """Of a request, as the page is told."""
    cached: int = 0
    """Tokens of each prompt that were in the prefix cache."""
    answer: str | None = None
    """What every question is answered, if not by what it says."""
    hold: threading.Event = field(default_factory=threading.Event)
    """A stream that is "held" goes on once this is set."""

    @property
    def last(self) -> dict[str, Any]:
        return self.bodies[-1]

    def reset(self) -> None:
        self.key, self.loading, self.aborted, self.models = None, False, 0, list(MODELS)
        self.answer, self.cached, self.most_bytes, self.away = None, 0, 200_000, False
        self.bodies.clear()
        self.hold.clear()

    def app(self) -> FastAPI:
        app = FastAPI()
        app.include_router(page.router(), dependencies=[Depends(self._there)])

        @app.get("/v1/models")
        async def models(request: Request) -> Response:
            answer = {"object": "list", "data": self.models, "max_body_bytes": self.most_bytes}
            return self._refused(request) or JSONResponse(answer)

        @app.post("/tokenize")
        async def tokenize(request: Request) -> Response:
            """A token a word; a text without any is one that this server cannot count."""
            count = len((await request.json())["prompt"].split())
            return JSONResponse({"count": count}) if count else problem(400, "no words")

        @app.post("/v1/chat/completions")
        async def chat(request: Request) -> Response:
            refused = self._refused(request)
            if refused is not None:
                return refused
            body = await request.json()
            self.bodies.append(body)
            if body["model"] not in [model["id"] for model in self.models]:
                return problem(404, f"The model {body['model']!r} does not exist.")
            asked = text_of(body["messages"][-1])
            if asked == "fail":
                return problem(400, "The prompt is too long: 9000 tokens of 2048.")
            if asked == "busy":
                return problem(429, "The queue is full.", {"retry-after": "7"})
            return StreamingResponse(self._stream(body, asked), media_type="text/event-stream")

        return app

    def _there(self) -> None:
        if self.away:
            raise HTTPException(502, "Bad gateway")

    def _refused(self, request: Request) -> Response | None:
        if self.loading:
            return problem(503, "The model is being loaded.", {"retry-after": "5"})
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        return problem(401, "No API key, or an unknown one.")

    async def _stream(self, body: dict[str, Any], asked: str) -> AsyncIterator[bytes]:
        tokens = 0
        try:
            async for delta in self._deltas(body, asked):
                tokens += 1
                spelling, held = delta.pop("tokens", None), delta.pop("held_text", None)
                likely = probabilities(delta, spelling) if "logprobs" in body else None
                yield event(delta, model=body["model"], logprobs=likely, held=held)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if asked == "killed":
            await self._held()  # a browser drops what it was sent and has not read yet
            raise ConnectionError("as if the process had been killed")
        if asked == "break":
            yield b'data: {"error": {"message": "The engine died.", "type": "server_error"}}\n\n'
        elif asked != "cut":
            finish = {"weather": "tool_calls", "write": "tool_calls", "length": "length"}.get(
                asked, "stop"
            )
            yield event({}, finish, model=body["model"])
            yield usage(11, tokens, self.cached)
            yield b"data: [DONE]\n\n"

    async def _rest(self, begun: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """What follows the beginning of an answer: its thought's end, if it has no text yet."""
        text = text_of(begun)
        if not text:
            yield {"reasoning_content": "four."}
        yield {"content": " And"}
        if "Before" in text:
            await self._held()
        yield {"content": " on."}

    async def _held(self) -> None:
        while not self.hold.is_set():
            await asyncio.sleep(0.01)

    async def _deltas(self, body: dict[str, Any], asked: str) -> AsyncIterator[dict[str, Any]]:
        yield {"role": "assistant", "content": ""}
        if body.get("continue_final_message"):
            async for delta in self._rest(body["messages"][-1]):
                yield delta
            return
        if self.answer is not None:
            for start in range(0, len(self.answer), 5):
                yield {"content": self.answer[start : start + 5]}
                await asyncio.sleep(0.001)
        elif asked == "endless":
            for number in range(100_000):
                yield {"content": f"{number} "}
                await asyncio.sleep(0.01)
        elif asked == "held":
            yield {"content": "Before. "}
            await self._held()
            yield {"content": "After."}
        elif asked == "pieces":
            yield {"content": b"".join(PIECES).decode(), "tokens": PIECES}
        elif asked == "think":
            for word in ("Let me ", "see: **two**."):
                yield {"reasoning_content": word}
                await asyncio.sleep(0.02)
            yield {"content": "It is four."}
        elif asked == "ponder":
            yield {"reasoning_content": "Two and two are "}
            await self._held()
        elif asked == "weather":
            for delta in tool_deltas():
                yield delta
        elif asked == "write":
            yield {"content": "I look it up."}
            for piece in (
                "<tool_call>\n{",
                '"name": "get_we',
                'ather", "argum',
                'ents": {"city": ',
            ):
                yield {"held_text": piece}
            await self._held()
            yield {"held_text": '"Oslo"}}'}
            yield {"tool_calls": list(tool_deltas())[1]["tool_calls"]}
            yield {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "Oslo"}'}}]}
        elif asked == "attack":
            for start in range(0, len(ATTACK), 7):
                yield {"content": ATTACK[start : start + 7]}
        elif asked == "rich":
            for start in range(0, len(RICH), 5):
                yield {"content": RICH[start : start + 5]}
                await asyncio.sleep(0.001)
        elif asked == "long":
            for number in range(1500):
                if number == 750:
                    await self._held()
                yield {"content": f"Line {number} of **many**, with `code`.\n\n"}
        else:
            for word in ("You ", "said: ", asked or "(a file)", "."):
                yield {"content": word}
                await asyncio.sleep(0.005)


def tool_deltas() -> Iterator[dict[str, Any]]:
    """Two calls, the first in pieces as other servers send them."""
    yield {"content": "I look it up."}
    function = {"name": "get_weather", "arguments": ""}
    yield {"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}]}
    for piece in ('{"city": ', '"Oslo"}'):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}
    function = {"name": "get_time", "arguments": '{"zone": "CET"}'}
    yield {"tool_calls": [{"index": 1, "id": "c2", "type": "function", "function": function}]}


def text_of(message: dict[str, Any]) -> str:
    content = message["content"]
    if not isinstance(content, list):
        return content or ""
    return "".join(part.get("text", "") for part in content)


def event(
    delta: dict[str, Any],
    finish: str | None = None,
    *,
    model: str,
    logprobs: dict[str, Any] | None = None,
    held: str | None = None,
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    if held is not None:
        choice["held_text"] = held
    return f"data: {json.dumps({'model': model, 'choices': [choice]})}\n\n".encode()


def probabilities(
    delta: dict[str, Any], spelling: Sequence[bytes] | None = None
) -> dict[str, Any] | None:
    """Half for each token, a quarter for another one; a delta is one token if no other are given."""
    if not delta.get("content"):
        return None
    tokens: list[dict[str, Any]] = []
    for raw in spelling or [delta["content"].encode()]:
        top = [likely(raw, 0.5), likely(b"other ", 0.25)]
        tokens.append({**top[0], "top_logprobs": top})
    return {"content": tokens, "refusal": None}


def likely(raw: bytes, share: float) -> dict[str, Any]:
    return {"token": raw.decode(errors="replace"), "bytes": list(raw), "logprob": math.log(share)}


def usage(prompt: int, completion: int, cached: int) -> bytes:
    counts: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": completion}
    counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return f"data: {json.dumps({'choices': [], 'usage': counts})}\n\n".encode()


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, status, headers)


@contextmanager
def scripted_api() -> Iterator[ScriptedApi]:
    """Serve a `ScriptedApi` on a free port of the loopback, in a thread."""
    api = ScriptedApi()
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    server = uvicorn.Server(uvicorn.Config(api.app(), log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield api
    finally:
        server.should_exit = server.force_exit = True
        thread.join(10)
        listening.close()
