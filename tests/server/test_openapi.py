"""The OpenAPI document beside the server: schemathesis asks each operation, in its schema and out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.polling import wait_until
from tests.properties import EVERY_CHECK
from tests.server.processes import Running, running

CASES = 30
"""Of each operation with a body, in each of the two modes."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
WITH_BODY = (
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/responses",
    "POST /v1/messages",
    "POST /v1/messages/count_tokens",
    "POST /v1/embeddings",
    "POST /v1/score",
    "POST /v1/score/evaluation",
    "POST /tokenize",
    "POST /detokenize",
    "POST /v1/adapters",
)
WITHOUT = (
    "GET /v1/models",
    "GET /v1/models/{name}",
    "GET /v1/adapters",
    "DELETE /v1/adapters/{name}",
    "GET /health",
    "GET /ready",
    "GET /metrics",
    "GET /tokenizer_info",
    "GET /version",
)
ADMIN = "an-admin-key"
HEADERS = {"Authorization": f"Bearer {ADMIN}"}


def _operation(result: Any) -> Any:
    assert isinstance(result, Ok), result
    return result.ok()


# schemathesis loads most of itself with the first document: here, where nothing else runs. Modules that
# were parsed while the collector closed a generator failed in CPython 3.11 ("AST constructor recursion
# depth mismatch").
_EMPTY = {"responses": {"200": {"description": "nothing"}}}
for _loaded in schemathesis.openapi.from_dict(
    {"openapi": "3.1.0", "info": {"title": "", "version": ""}, "paths": {"/": {"get": _EMPTY}}}
).get_all_operations():
    _operation(_loaded).as_strategy(GenerationMode.POSITIVE)
    assert _operation(_loaded).schema.transport


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The whole command, asked as an admin; its answers are short."""
    folder = tmp_path_factory.mktemp("server")
    words = ("native_kv_cache_memory=64MiB", "max_new_tokens=8")
    with running(folder, *words, QUIRE_ADMIN_KEY=ADMIN) as one:
        one.headers = HEADERS
        yield one


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=60) as one:
        yield one


@pytest.fixture(scope="module")
def operations(server: Running) -> dict[str, Any]:
    """All operations of the document, by name."""
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json", headers=HEADERS)
    found = (_operation(result) for result in document.get_all_operations())
    return {operation.label: operation for operation in found}


def test_no_operation_is_left_out(operations: dict[str, Any]) -> None:
    assert sorted(operations) == sorted((*WITH_BODY, *WITHOUT))


def statuses(operation: Any, mode: GenerationMode) -> Counter[int]:
    """Ask an operation, and hold each answer against the document."""
    seen: Counter[int] = Counter()

    @seed(20261125)
    @settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=EVERY_CHECK,
    )
    @given(case=operation.as_strategy(mode))
    def ask(case: Case) -> None:
        response = case.call(session=session, headers=HEADERS, timeout=60)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    with requests.Session() as session:
        ask()
    return seen


@pytest.mark.parametrize("name", WITH_BODY + WITHOUT)
def test_what_fits_the_document(name: str, operations: dict[str, Any]) -> None:
    seen = statuses(operations[name], GenerationMode.POSITIVE)
    assert sum(seen.values()) >= (CASES if name in WITH_BODY else 1)
    assert not seen.keys() & {401, 403}


@pytest.mark.parametrize("name", WITH_BODY)
def test_what_does_not_fit_is_refused(name: str, operations: dict[str, Any]) -> None:
    seen = statuses(operations[name], GenerationMode.NEGATIVE)
    assert sum(seen.values()) >= CASES
    assert all(400 <= status < 500 for status in seen)


BROKEN = {
    "nothing": b"",
    "NUL": b"\0",
    "a NUL in JSON": b'{"messages": "\0"}',
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "UTF-8 cut off": b'{"model": "\xe2\x82"}',
    "UTF-16": '{"model": "demo"}'.encode("utf-16"),
    "a lone surrogate": b'{"model": "\\ud800", "prompt": "\\udc00", "input": "\\ud800"}',
    "deep lists": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "cut off": b'{"model": "demo", "prom',
    "no object": b"[1, 2]",
    "no number": b'{"temperature": NaN, "top_p": -Infinity}',
    "a long number": b'{"n": ' + b"9" * 5000 + b"}",
    "a key twice": b'{"prompt": "a", "prompt": {"b": 1}}',
}


@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/json;charset=x"])
@pytest.mark.parametrize("name", WITH_BODY)
def test_bytes_that_are_no_request(name: str, kind: str, client: httpx.Client) -> None:
    path = name.split()[1]
    headers = {**HEADERS, "content-type": kind}
    for what, body in BROKEN.items():
        answer = client.post(path, content=body, headers=headers)
        assert 400 <= answer.status_code < 500, (what, answer.text)
        assert json.loads(answer.text)["error"]["message"], what


def test_the_engine_is_alive_and_empty_afterwards(server: Running) -> None:
    asked = {"messages": [{"role": "user", "content": "What is 31 + 47?"}], "max_tokens": 200}
    url = f"{server.url}/v1/chat/completions"
    answer = httpx.post(url, json={**asked, "temperature": 0}, headers=HEADERS, timeout=60).json()
    assert "78" in answer["choices"][0]["message"]["content"]
    wait_until(lambda: server.metrics()["vllm:kv_cache_usage_perc"] == 0)
    assert server.process.poll() is None
