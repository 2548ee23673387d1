"""The protocol over an echoing engine: statuses, error bodies, aborts, the OpenAPI page."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import psutil
import pytest

from quire.chat import ChatModel
from quire.errors import EngineDeadError, OutOfMemoryError
from quire.outputs import AnswerSum
from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from quire.server.call import CALLER, Call, Caller
from quire.server.errors import Overloaded, problem_of
from quire.server.service import Service
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.polling import wait_until
from tests.server.serving import Served, service_over, serving

CHAT = "/v1/chat/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there, you all"}]}


@pytest.fixture
def engine(tokenizer: Tokenizer) -> EchoEngine:
    return EchoEngine(tokenizer, reply="one two three four five")


@asynccontextmanager
async def asking(service: Service, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(make_app(service, **options), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


def echo_service(engine: EchoEngine, **arguments: Any) -> Service:
    return service_over(engine, ServerArguments(served_model_name="echo", **arguments))


async def test_without_an_engine_all_is_refused_but_health() -> None:
    async with asking(service_over(None, ServerArguments())) as client:
        assert (await client.get("/health")).status_code == 200
        for answer in (
            await client.get("/ready"),
            await client.get("/v1/models"),
            await client.post(CHAT, json=HELLO),
            await client.post("/v1/completions", json={"prompt": "x"}),
        ):
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_ready"
            assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nowhere", None, 404),
        ("DELETE", CHAT, None, 405),
        ("POST", CHAT, b"", 400),
        ("POST", CHAT, b"[]", 400),
        ("POST", CHAT, b'{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        ("POST", CHAT, b'{"messages": [{"role": "user", "content": "\xff"}]}', 400),
        ("POST", CHAT, b'{"messages": [], "temperature": NaN}', 400),
        ("POST", CHAT, b'{"messages": null}', 400),
        ("POST", "/v1/completions", b'{"prompt": []}', 400),
        ("POST", "/v1/completions", b'{"prompt": [1, "a"]}', 400),
        ("POST", "/v1/completions", b'{"prompt": [[]]}', 400),
        ("POST", "/v1/completions", b'{"prompt": [-1]}', 400),
        ("POST", "/v1/completions", b'{"prompt": "x", "max_tokens": 0}', 400),
        ("GET", "/v1/models/none", None, 404),
    ],
)
async def test_errors_have_openais_form(
    engine: EchoEngine, method: str, path: str, body: bytes | None, status: int
) -> None:
    async with asking(echo_service(engine)) as client:
        answer = await client.request(method, path, content=body)
        assert answer.status_code == status
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["message"]
    assert engine.open_requests == 0


async def test_a_fault_of_our_own_is_not_described(
    engine: EchoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.tokens.preparation, "prepare", lambda *args: 1 / 0)
    async with asking(echo_service(engine)) as client:
        answer = await client.post(CHAT, json=HELLO)
    assert answer.status_code == 500
    assert "zero" not in answer.text
    assert answer.json()["error"]["type"] == "server_error"


def test_engine_errors_have_statuses() -> None:
    assert problem_of(EngineDeadError("dead")).status == 503
    assert problem_of(EngineDeadError("dead")).headers["retry-after"] == "5"
    assert problem_of(OutOfMemoryError("full")).code == "context_length_exceeded"
    assert problem_of(KeyError("x")).message == "The server failed at this request."


async def test_a_fault_in_a_stream_ends_it_with_an_error(tokenizer: Tokenizer) -> None:
    engine = EchoEngine(tokenizer, reply="one two three", fail_at=2)
    async with asking(echo_service(engine)) as client:
        streamed = await client.post(CHAT, json={**HELLO, "stream": True})
        whole = await client.post(CHAT, json=HELLO)
    assert streamed.status_code == 200
    assert "a made-up fault" in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert whole.status_code == 500
    assert whole.json()["error"]["message"] == "a made-up fault"


async def test_a_deadline_counts_from_the_beginning(tokenizer: Tokenizer) -> None:
    engine = EchoEngine(tokenizer, reply="one two three", delay=30)
    async with asking(echo_service(engine, request_timeout=1)) as client:
        answer = await client.post(CHAT, json=HELLO)
        assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
    async with asking(echo_service(engine)) as client:
        answer = await client.post("/v1/completions", json={"prompt": "x", "timeout": 1})
        assert answer.status_code == 408
    assert (engine.open_requests, engine.aborted) == (0, 2)


class FullGate:
    def enter(self, cost: int, *rest: object, **more: object) -> Any:
        raise Overloaded("Too many requests.", retry_after=2.5)


async def test_a_full_gate_is_429(engine: EchoEngine) -> None:
    service = echo_service(engine)
    service.admission = FullGate()  # pyright: ignore[reportAttributeAccessIssue]
    async with asking(service) as client:
        for stream in (False, True):
            answer = await client.post(CHAT, json={**HELLO, "stream": stream})
            assert answer.status_code == 429
            assert answer.headers["retry-after"] == "3"


async def test_callers_have_salts_of_their_own(engine: EchoEngine) -> None:
    found: list[str | None] = []

    def guard(app: Any) -> Any:
        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            scope[CALLER] = Caller("somebody", salt="s1")
            await app(scope, receive, send)

        return guarded

    for middleware in ((), (guard,)):
        async with asking(echo_service(engine), middleware=middleware) as client:
            for body in (HELLO, {**HELLO, "cache_salt": "own"}):
                assert (await client.post(CHAT, json=body)).status_code == 200
                assert engine.last_params is not None
                found.append(engine.last_params.cache_salt)
    assert found == [None, "/own", "s1/", "s1/own"]
    assert len(set(found)) == 4


async def test_a_service_answers_calls(engine: EchoEngine) -> None:
    service = echo_service(engine)
    call = Call(HELLO["messages"], options={"n": 2, "max_new_tokens": 2})
    answers = AnswerSum()
    async for delta in service.stream(call, Caller()):
        answers.add(delta)
    found = [(one.index, one.content, one.finish_reason) for one in answers.responses()]
    assert found == [
        (0, "one two ", "length"),
        (1, "one two ", "length"),
    ]


async def test_the_openapi_page_is_whole(engine: EchoEngine) -> None:
    async with asking(echo_service(engine)) as client:
        page = (await client.get("/openapi.json")).json()
    text = json.dumps(page)
    schemas = page["components"]["schemas"]
    for part in text.split('"#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas
    assert "$defs" not in text
    body = page["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"messages", "tools", "response_format", "seed"} <= set(body["properties"])
    assert {"200", "400", "429", "503"} <= set(page["paths"][CHAT]["post"]["responses"])


# --- what HTTP asks of any server -------------------------------------------------------------------


def all_paths() -> dict[str, set[str]]:
    """Every path with its methods; parameters are filled in."""
    found: dict[str, set[str]] = {}
    for route in make_app(service_over(None, ServerArguments())).routes:
        path = getattr(route, "path", "").replace("{name:path}", "js/app.js")
        path = path.replace("{model:path}", "echo").replace("{name}", "none")
        found.setdefault(path, set()).update(getattr(route, "methods", None) or ())
    return found


PATHS = all_paths()


@pytest.mark.parametrize("path", [path for path, methods in PATHS.items() if "GET" in methods])
async def test_head_is_answered_where_get_is(engine: EchoEngine, path: str) -> None:
    async with asking(echo_service(engine)) as client:
        got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    assert head.headers == got.headers


@pytest.mark.parametrize("path", PATHS)
async def test_a_405_says_what_is_allowed(engine: EchoEngine, path: str) -> None:
    allowed = PATHS[path] | ({"HEAD"} if "GET" in PATHS[path] else set())
    async with asking(echo_service(engine)) as client:
        for method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} - allowed:
            answer = await client.request(method, path)
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) == allowed


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("GET", "/nowhere", None, "nothing at this path"),
        ("DELETE", CHAT, None, "the header Allow lists them"),
        ("POST", CHAT, b'{"messages": []}', "messages needs at least 1 item, not 0."),
        ("POST", "/v1/completions", b'{"prompt": []}', "prompt needs at least 1 item, not 0."),
    ],
)
async def test_errors_say_what_to_do(
    engine: EchoEngine, method: str, path: str, body: bytes | None, words: str
) -> None:
    async with asking(echo_service(engine)) as client:
        answer = await client.request(method, path, content=body)
        assert words in answer.json()["error"]["message"]


async def test_what_a_model_cannot_do_is_allowed_by_no_method(engine: EchoEngine) -> None:
    async with asking(echo_service(engine)) as client:
        answer = await client.post("/v1/score", json={"input": "x"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "")


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/oauth2-redirect"])
async def test_no_page_loads_scripts_of_another_origin(engine: EchoEngine, path: str) -> None:
    async with asking(echo_service(engine)) as client:
        assert (await client.get(path)).status_code == 404
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/messages", "/v1/responses"])
async def test_a_byte_order_mark_before_the_body_is_taken(engine: EchoEngine, path: str) -> None:
    body = {**HELLO, "prompt": "x", "input": "x", "max_tokens": 4, "model": "echo"}
    fields = {
        CHAT: ("messages",),
        "/v1/completions": ("prompt",),
        "/v1/messages": ("messages", "max_tokens", "model"),
        "/v1/responses": ("input",),
    }[path]
    content = json.dumps({name: body[name] for name in fields}).encode("utf-8-sig")
    async with asking(echo_service(engine)) as client:
        answer = await client.post(path, content=content)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    "text", ["\\ud800", "\\udc00", "\\ud83d", "\\ud83d\\u0041", "a\\udfff", "\\uD800\\uD800"]
)
async def test_half_of_a_surrogate_pair_is_said_to_be_one(engine: EchoEngine, text: str) -> None:
    body = f'{{"messages": [{{"role": "user", "content": "{text}"}}]}}'
    async with asking(echo_service(engine)) as client:
        answer = await client.post(CHAT, content=body)
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]


# --- real connections ------------------------------------------------------------------------------


@contextmanager
def echoing(tokenizer: Tokenizer, *, reader_timeout: float = 60, **options: Any) -> Iterator[Any]:
    engine = EchoEngine(tokenizer, **options)
    model = ChatModel.from_engine(engine)
    with model, serving(model, reader_timeout=reader_timeout) as served:
        yield engine, served


def sent(served: Served, body: dict[str, Any]) -> socket.socket:
    """A connection on which a request was sent."""
    url = httpx.URL(served.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # little waits unread
    connection.connect((url.host, url.port or 80))
    content = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def is_held(client: tuple[str, int]) -> bool:
    """Whether the server, in this process, holds its end of a client's connection."""
    return any(one.raddr == client for one in psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    "body", [{}, {"stream": True}, {"n": 3}, {"n": 3, "stream": True}], ids=str
)
def test_a_client_that_goes_away_aborts_its_request(
    tokenizer: Tokenizer, body: dict[str, Any], reset: bool
) -> None:
    with echoing(tokenizer, reply="word " * 500, delay=0.01) as (engine, served):
        connection = sent(served, {**HELLO, **body})
        wait_until(lambda: engine.open_requests == 1)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        wait_until(lambda: engine.open_requests == 0)
        assert engine.aborted == 1


def test_a_client_that_goes_away_leaves_the_queue(tokenizer: Tokenizer) -> None:
    waiting: list[int] = []

    class Queue:
        @asynccontextmanager
        async def enter(self, cost: int, *rest: object, **more: object) -> AsyncIterator[None]:
            waiting.append(cost)
            try:
                await asyncio.sleep(60)
            finally:
                waiting.remove(cost)
            yield

    with echoing(tokenizer, reply="word") as (engine, served):
        served.service.admission = Queue()
        for stream in (False, True):
            connection = sent(served, {**HELLO, "stream": stream, "n": 2})
            wait_until(lambda: waiting == [2])
            connection.close()
            wait_until(lambda: not waiting)
        assert engine.last_params is None


def test_a_reader_that_stands_still_is_given_up(tokenizer: Tokenizer) -> None:
    """The client reads nothing; buffers fill, and then the connection is cut."""
    with echoing(tokenizer, reply="word " * 60_000, context_length=10**6, reader_timeout=0.3) as (
        engine,
        served,
    ):
        connection = sent(served, {**HELLO, "stream": True, "max_tokens": 10**5})
        wait_until(lambda: engine.last_params and not engine.open_requests)
        # The engine may have ended just before the reader's time was over.
        wait_until(lambda: not is_held(connection.getsockname()))
        connection.settimeout(60)
        received = 0
        with pytest.raises(ConnectionError):
            while chunk := connection.recv(1 << 20):
                received += len(chunk)
            raise ConnectionError("closed")
        connection.close()
        assert received < 60_000 * 4 * 40  # far less than all the events


def test_requests_given_up_at_any_moment_free_their_blocks(served: Served) -> None:
    """In the queue, in prefill, in decode, with several completions, whole answers too."""
    engine: Any = served.engine
    chance = random.Random(4)
    text = "Tell me of the cache. " * 80

    def at_rest() -> bool:
        now = engine.statistics
        return (now.running, now.waiting, now.free_blocks) == (0, 0, now.total_blocks)

    for turn in range(5):
        connections = [
            sent(
                served,
                {
                    "model": "base",
                    "messages": [{"role": "user", "content": f"{turn} {place} {text}"}],
                    "stream": bool(place % 2),
                    "n": 1 + place % 3,
                    "max_tokens": 2000,
                    "ignore_eos": True,
                },
            )
            for place in range(12)
        ]
        for connection in connections:
            steps = engine.statistics.steps + chance.randrange(4)
            wait_until(lambda steps=steps: engine.statistics.steps >= steps or at_rest())
            connection.close()

    wait_until(at_rest)
    answer = httpx.post(f"{served.url}{CHAT}", json={**HELLO, "max_tokens": 2}, timeout=60)
    assert answer.status_code == 200


def test_a_slow_reader_gets_everything(tokenizer: Tokenizer) -> None:
    text = "word " * 40_000  # events of 10 MB: more than the system keeps for a reader
    with echoing(tokenizer, reply=text, context_length=10**6) as (engine, served):
        connection = sent(served, {**HELLO, "stream": True, "max_tokens": 10**5})
        # All of it is written meanwhile, most of it merged.
        wait_until(lambda: engine.last_params and not engine.open_requests)
        received = b""
        connection.settimeout(60)
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(1 << 16)
        connection.close()
    lines = [line for line in received.decode().split("\n") if line.startswith("data: {")]
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content", "") for delta in deltas) == text
    assert len(lines) < 40_000
