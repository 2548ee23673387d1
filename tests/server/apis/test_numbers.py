"""Every number of every API, however large or small: it is taken, or refused as the client's fault."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import httpx
import pytest

from quire.server.app import make_app
from quire.server.arguments import ServerArguments
from tests.server.serving import Served, service_over

HI = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI, "max_tokens": 2, "logprobs": True},
    "/v1/completions": {"prompt": "Hi", "max_tokens": 2, "logprobs": 1},
    "/v1/responses": {"input": "Hi", "max_output_tokens": 2},
    "/v1/messages": {"messages": HI, "max_tokens": 2, "model": "demo"},
    "/v1/messages/count_tokens": {"messages": HI, "model": "demo"},
    "/v1/embeddings": {"input": "Hi"},
    "/v1/score": {"input": "Hi"},
    "/v1/score/evaluation": {"messages": ["Hi"]},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [5]},
    "/v1/adapters": {"path": "none", "name": "none"},
}
NUMBERS = (
    *("-0.0", "5e-324", "1e-300", "1e-45", "1e-38", "-1e-38", "3.5e38", "1.7e308", "1e309"),
    *("2147483648", "18446744073709551616", "9" * 400, "9" * 5000),
)


def numeric_fields() -> Iterator[tuple[str, str]]:
    """The paths and names of all fields that may hold a number, by the OpenAPI page."""
    page = make_app(service_over(None, ServerArguments())).openapi()
    for path, methods in page["paths"].items():
        if "post" not in methods:
            continue
        schema = methods["post"]["requestBody"]["content"]["application/json"]["schema"]
        name = schema.get("$ref", "").rpartition("/")[2]
        properties = (page["components"]["schemas"][name] if name else schema)["properties"]
        for field, kind in properties.items():
            if '"integer"' in json.dumps(kind) or '"number"' in json.dumps(kind):
                yield path, field


FIELDS: dict[str, list[str]] = {}
for _path, _field in numeric_fields():
    FIELDS.setdefault(_path, []).append(_field)


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def ask_with_each(url: str, path: str, fields: Iterable[str]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        for field, number in itertools.product(fields, NUMBERS):
            body = {name: value for name, value in BODIES[path].items() if name != field}
            content = f'{json.dumps(body)[:-1]}, "{field}": {number}}}'
            answer = client.post(path, content=content)
            assert answer.status_code < 500, (field, number, answer.text)
            assert len(answer.content) < 20_000, (field, number)
            json.loads(answer.text, parse_constant=refuse_constant)


def test_the_page_names_them() -> None:
    assert sum(map(len, FIELDS.values())) > 50
    assert FIELDS.keys() <= BODIES.keys()


@pytest.mark.parametrize("path", FIELDS)
def test_on_the_native_engine(served: Served, path: str) -> None:
    ask_with_each(served.url, path, FIELDS[path])


def test_on_vllm(on_vllm: Served) -> None:
    path = "/v1/chat/completions"  # with all options; the engine knows nothing of the path
    ask_with_each(on_vllm.url, path, FIELDS[path])
