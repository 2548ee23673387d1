"""One hostile request, whatever the route and the body: refused in bounded memory, and it harms nobody.

`python -m benchmarks.attacks` measures what they cost.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.processes import Running, asked, read_all, running

SIZE = 2**20
MULTIPLE = 16
"""Bytes of memory for each of a body."""
SPARE = 48 * 2**20
"""Bytes of memory that do not depend on a body: threads' first use of an allocator, and the like."""

ROUTES = {
    "/v1/chat/completions": '{"messages":[{"role":"user","content":VALUE}]MORE}',
    "/v1/completions": '{"prompt":VALUE MORE}',
    "/v1/responses": '{"input":[{"role":"user","content":VALUE}]MORE}',
    "/v1/messages": (
        '{"model":"demo","max_tokens":4,"messages":[{"role":"user","content":VALUE}]MORE}'
    ),
    "/v1/messages/count_tokens": (
        '{"model":"demo","messages":[{"role":"user","content":VALUE}]MORE}'
    ),
    "/v1/embeddings": '{"input":VALUE MORE}',
    "/v1/score": '{"input":VALUE MORE}',
    "/v1/score/evaluation": '{"messages":[VALUE]MORE}',
    "/tokenize": '{"prompt":VALUE MORE}',
    "/detokenize": '{"tokens":VALUE MORE}',
    "/v1/adapters": '{"path":VALUE MORE}',
}


def filled(before: str, item: str, after: str) -> str:
    return before + item * ((SIZE - len(before) - len(after)) // len(item)) + after


def fields() -> str:
    return "".join(f',"a{number}":0' for number in range(60_000))


KINDS: dict[str, tuple[str, str]] = {
    "wrong items": (filled("[null", ",null", "]"), ""),
    "few wrong items": ("[null" + ",null" * 60_000 + "]", ""),
    "empty lists": ("[[]" + ",[]" * 60_000 + "]", ""),
    "empty objects": ("[{}" + ",{}" * 60_000 + "]", ""),
    "unknown fields": ('"hi"', fields()),
    "a long name": ('"hi"', filled(',"', "n", '":0')),
    "an option of the wrong kind": ('"hi"', ',"stop":[0' + ",0" * 200_000 + "]"),
    "words": (filled('"', "some words ", '"'), ""),
    "one word": (filled('"', "ab", '"'), ""),
    "spaces and a letter": (filled('"', " ", 'a"'), ""),
    "control texts": (filled('"', "<|im_end|> and ", '"'), ""),
    "letters of four bytes": (filled('"', "\\ud83d\\ude00", '"'), ""),
    "escapes": (filled('"', '\\"', '"'), ""),
}
REFUSED = {400, 403, 404, 405}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("attacked")
    with running(folder, "native_kv_cache_memory=64MiB") as one:
        httpx.post(f"{one.url}/v1/chat/completions", json=asked(2), timeout=60)
        yield one


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=120) as one:
        yield one


@contextmanager
def healthy(server: Running, client: httpx.Client) -> Iterator[None]:
    """/health is asked again and again, and always answers."""
    ended = threading.Event()
    statuses: list[int] = []

    def ask() -> None:
        while not (statuses and ended.is_set()):
            statuses.append(client.get(f"{server.url}/health").status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        ended.set()
        asking.join()
    assert set(statuses) == {200}


@contextmanager
def within(server: Running, most: int) -> Iterator[None]:
    """The block lets the server's memory grow by no more bytes, even for a moment."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # forgets the peak
    before = server.peak_memory()
    yield
    assert server.peak_memory() - before <= most


def post(server: Running, client: httpx.Client, path: str, body: bytes) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return client.post(f"{server.url}{path}", content=body, headers=headers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ROUTES)
def test_a_body_of_any_kind_is_refused_and_harms_nobody(
    server: Running, client: httpx.Client, path: str, kind: str
) -> None:
    value, more = KINDS[kind]
    body = ROUTES[path].replace("VALUE", value).replace("MORE", more).encode()
    with healthy(server, client), within(server, MULTIPLE * len(body) + SPARE):
        answer = post(server, client, path, body)
    if path == "/tokenize" and answer.status_code == 200:
        return  # a text of so many characters may be tokenised there
    assert answer.status_code in REFUSED, answer.text[:500]
    assert answer.json()["error"]["message"]
    assert len(answer.content) < 8192


async def test_honest_requests_are_served_afterwards(server: Running) -> None:
    status, answer = await read_all(server.port, asked(8))
    assert status == 200
    assert "data: [DONE]" in answer


def results_in_reverse(count: int) -> dict[str, Any]:
    calls = [{"type": "tool_use", "id": f"c{n}", "name": "f", "input": {}} for n in range(count)]
    results = [{"type": "tool_result", "tool_use_id": f"c{n}"} for n in range(count)]
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": calls},
        {"role": "user", "content": results[::-1]},
    ]
    return {"messages": turns, "max_tokens": 4}


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_model_that_is_not_served_is_said_so_before_any_work(
    server: Running, client: httpx.Client, path: str
) -> None:
    body = {"model": "nothing", **results_in_reverse(2000)}
    if "count" in path:
        del body["max_tokens"]
    answer = post(server, client, path, json.dumps(body).encode())
    assert answer.status_code == 404
