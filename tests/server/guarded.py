"""An application with all its middleware around an echoing engine, asked in this process."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from fastapi import FastAPI

from quire.server.admission import Admission
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.middleware.keys import KeyRing
from quire.server.middleware.stack import middleware_stack
from quire.server.observability.log import EventLog
from quire.server.observability.metrics import RequestMetrics, ServerCollector, metrics_router
from quire.server.observability.observer import RequestObserver
from quire.server.service import Service
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.polling import eventually

HI: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}


class StillSource:
    """Gauges of a server that does nothing."""

    def load(self) -> None:
        return None

    def state(self) -> str:
        return "ready"

    def counts(self) -> dict[str, float]:
        return dict.fromkeys(("running", "waiting", "refused", "dropped", "restarts"), 0.0)


@dataclass
class Guarded:
    """The application, who asks it, and what it noted."""

    app: FastAPI
    client: httpx.AsyncClient
    engine: EchoEngine
    gate: Admission
    figures: RequestMetrics
    log: EventLog
    written: io.BytesIO

    async def chat(self, body: Any = HI, **options: Any) -> httpx.Response:
        """One chat; `body` may be bytes."""
        headers = {"content-type": "application/json", **options.pop("headers", {})}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post("/v1/chat/completions", content=content, headers=headers)

    async def events(self) -> list[dict[str, Any]]:
        """The log so far: it is written in the order of its events, and this asks for one more."""
        self.log.event("asked")
        await eventually(lambda: self._names()[-1:] == ["asked"])
        return [event for event in self._written() if event["event"] != "asked"]

    def _names(self) -> list[str]:
        return [event["event"] for event in self._written()]

    def _written(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written.getvalue().splitlines()]


@asynccontextmanager
async def guarded(tokenizer: Tokenizer, **settings: Any) -> AsyncIterator[Guarded]:
    """A server with these arguments, with room for two completions at once."""
    arguments = ServerArguments(served_model_name="echo", **settings)
    engine = EchoEngine(tokenizer, reply="one two three four")
    gate = Admission(2, arguments.max_waiting, arguments.queue_timeout)
    figures, written = RequestMetrics(), io.BytesIO()
    log = EventLog(written)
    service = Service(arguments, gate, RequestObserver(figures), engine)
    collector = ServerCollector(figures, StillSource(), lambda: "echo")
    app = make_app(
        service,
        routers=(metrics_router(collector),),
        middleware=middleware_stack(arguments, KeyRing.of(arguments), gate, log),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield Guarded(app, client, engine, gate, figures, log, written)
