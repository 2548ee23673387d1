"""The OpenAPI page is right: what is answered has the form that it says, errors too."""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
TOOL = {"name": "get_weather", "description": "Get the weather in a city"}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/responses", {"model": "base", "input": "What is 17 + 25?", "top_logprobs": 1}),
    ("/v1/responses", {"model": "base", "input": "Hello!", "max_output_tokens": 2}),
    (
        "/v1/responses",
        {
            "model": "base",
            "input": "What is the weather in Paris?",
            "tools": [{"type": "function", "parameters": WEATHER, **TOOL}],
        },
    ),
    ("/v1/responses", {"input": "Hello!", "store": True}),
    ("/v1/messages", {"model": "base", "max_tokens": 99, "messages": ASK}),
    (
        "/v1/messages",
        {
            "model": "base",
            "max_tokens": 99,
            "messages": ASK,
            "tools": [{"input_schema": WEATHER, **TOOL}],
        },
    ),
    ("/v1/messages", {"model": "base", "messages": ASK}),
    ("/v1/messages/count_tokens", {"model": "base", "messages": ASK}),
    ("/v1/messages/count_tokens", {"model": "nothing", "messages": ASK}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/embeddings", {"input": ["a"], "encoding_format": "base64"}),
    ("/v1/score", {"input": "a"}),
    ("/v1/score/evaluation", {"messages": ["a"]}),
    ("/tokenize", {"prompt": "a", "return_token_strs": True}),
    ("/tokenize", {"messages": ASK}),
    ("/detokenize", {"tokens": [1]}),
    ("/v1/adapters", {"path": "a"}),
]


def schema_of(page: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    return {**content["application/json"]["schema"], "components": page["components"]}


@pytest.fixture(scope="module")
def page(http: httpx.Client) -> dict[str, Any]:
    return http.get("/openapi.json").json()


@pytest.mark.parametrize(("path", "body"), CASES)
def test_answers_are_as_the_page_says(
    http: httpx.Client, page: dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    operation = page["paths"][path]["post"]
    answer = http.post(path, json=body)
    content = operation["responses"][str(answer.status_code)]["content"]
    jsonschema.validate(answer.json(), schema_of(page, content))
    request = schema_of(page, operation["requestBody"]["content"])
    right = answer.status_code not in (400, 422)
    assert jsonschema.Draft202012Validator(request).is_valid(body) == right


def test_every_reference_of_the_page_leads_somewhere(page: dict[str, Any]) -> None:
    def walk(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                name = value["$ref"].removeprefix("#/components/schemas/")
                assert name in page["components"]["schemas"]
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                walk(item)

    walk(page)
