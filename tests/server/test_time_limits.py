"""A request's time limit, and a client that goes, hold wherever the request is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from quire.chat.preparation import Preparation
from quire.constraints.compiler import ConstraintCompiler
from quire.errors import RequestTimeoutError
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.call import ANONYMOUS
from quire.server.service import Service
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.polling import eventually
from tests.server.serving import Served, service_over

SOON = 0.05
LONG = "word " * 2000  # it is prepared in a thread
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": LONG}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**CHAT, "max_tokens": 4},
    "/v1/completions": {"prompt": LONG, "max_tokens": 4},
    "/v1/responses": {"input": LONG, "max_output_tokens": 4},
    "/v1/messages": {"model": "demo", "max_tokens": 4, **CHAT},
    "/v1/messages/count_tokens": {"model": "demo", **CHAT},
    "/tokenize": {"prompt": LONG},
}


class Gate:
    """Blocks what calls it until it is opened, and says that it was called."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def before(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def blocked(*args: Any, **options: Any) -> Any:
            self.reached.set()
            self.open.wait(60)
            return work(*args, **options)

        return blocked


@pytest.fixture
async def gate() -> AsyncIterator[Gate]:
    """Asynchronous, so that it is opened before the event loop waits for its threads."""
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def blocked(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Preparation and tokenising do not end."""
    monkeypatch.setattr(Preparation, "_read", gate.before(Preparation._read))
    monkeypatch.setattr(Tokenizer, "encode_whole", gate.before(Tokenizer.encode_whole))
    return gate


@asynccontextmanager
async def asking(tokenizer: Tokenizer, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    arguments = ServerArguments(served_model_name="demo", **settings)
    app = make_app(service_over(EchoEngine(tokenizer), arguments))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


@pytest.mark.parametrize("path", BODIES)
async def test_the_servers_limit_counts_preparation(
    tokenizer: Tokenizer, blocked: Gate, path: str
) -> None:
    for limit in (SOON, 2, 30):  # a busy machine may need longer to begin the thread
        async with asking(tokenizer, request_timeout=limit) as client:
            answer = await client.post(path, json=BODIES[path])
        assert answer.status_code == 408
        if blocked.reached.is_set():
            break
    assert blocked.reached.is_set()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_requests_own_limit_counts_preparation(
    tokenizer: Tokenizer, blocked: Gate, path: str
) -> None:
    async with asking(tokenizer) as client:
        answer = await client.post(path, json={**BODIES[path], "timeout": SOON})
    assert answer.status_code == 408


@pytest.mark.parametrize("path", BODIES)
async def test_who_goes_while_a_prompt_is_prepared_is_waited_for_no_more(
    tokenizer: Tokenizer, blocked: Gate, path: str
) -> None:
    arguments = ServerArguments(served_model_name="demo")
    service = service_over(EchoEngine(tokenizer), arguments)
    app = make_app(service)
    gone = asyncio.Event()
    body = httpx.Request("POST", "http://localhost", json=BODIES[path]).content
    first = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        if first:
            return first.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    answering = asyncio.ensure_future(app(scope, receive, send))
    await eventually(blocked.reached.is_set)
    gone.set()
    await asyncio.wait_for(answering, 60)  # while the thread is still blocked
    assert not blocked.open.is_set()
    assert [one["status"] for one in sent if one["type"] == "http.response.start"] in ([], [499])
    assert service.admission.running == service.admission.waiting == 0


async def test_the_rest_of_the_time_is_what_tokenising_leaves(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = EchoEngine(tokenizer)
    service: Service = service_over(engine, ServerArguments())
    async for _ in service.complete([LONG], {"timeout": 60.0, "max_new_tokens": 1}, ANONYMOUS):
        pass
    params = engine.echo.last_params
    assert params is not None
    assert params.timeout is not None
    assert 0 < params.timeout < 60.0


# --- grammars ------------------------------------------------------------------------------------


REGEX = {"type": "regex", "regex": "[0-9]{1,3}"}


@pytest.mark.parametrize("ends", ["timeout", "cancelled"])
async def test_a_grammar_that_is_being_compiled_holds_nobody(
    served: Served, gate: Gate, monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(ConstraintCompiler, "compile", gate.before(ConstraintCompiler.compile))
    messages = [{"role": "user", "content": "hi"}]
    options: dict[str, Any] = {"response_format": {**REGEX, "regex": f"[0-9]{{1,{len(ends)}}}"}}
    if ends == "timeout":
        with pytest.raises(RequestTimeoutError):
            await served.engine.chat(messages, timeout=SOON, **options)
        return
    asked = asyncio.ensure_future(served.engine.chat(messages, **options))
    await eventually(gate.reached.is_set)
    asked.cancel()
    await asyncio.wait([asked])
    assert asked.cancelled()
    assert not gate.open.is_set()
