"""Large bodies: few errors are made however much is wrong, and they say what small ones' say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from quire.server.apis import body as bodies
from quire.server.apis.adapters import LoadAdapterRequest
from quire.server.apis.anthropic.schema import CountTokensRequest, MessagesRequest
from quire.server.apis.body import Body, parse_body
from quire.server.apis.openai.embeddings import EmbeddingsRequest
from quire.server.apis.openai.responses.schema import ResponsesRequest
from quire.server.apis.openai.schema import ChatCompletionRequest, CompletionRequest
from quire.server.apis.openai.scores import ScoreEvaluationRequest, ScoreRequest
from quire.server.apis.tokens import DetokenizeRequest, TokenizeRequest
from quire.server.errors import BadRequest
from tests.properties import EVERY_CHECK
from tests.server.apis.test_any_body import BODIES, changed

KINDS: dict[str, type[Body]] = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/v1/embeddings": EmbeddingsRequest,
    "/v1/score": ScoreRequest,
    "/v1/score/evaluation": ScoreEvaluationRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
    "/v1/adapters": LoadAdapterRequest,
}
EXAMPLES = {
    **BODIES,
    "/v1/chat/completions": {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "x"},
        ],
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "metadata": {"a": "b"},
        "logit_bias": {"1": 2},
        "stop": ["a"],
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
        "stream_options": {"include_usage": True},
    },
    "/v1/completions": {"prompt": [[1, 2], [3]], "stop": ["a"], "logprobs": 2},
}  # fmt: skip
WRONG: dict[str, Any] = {
    "items": [None] * 3000,
    "lists": [[None]] * 3000,
    "parts": [{"type": "text"}] * 3000,
    "fields": {f"a{number}": 0 for number in range(3000)},
    "parts of fields": [{f"a{number}": 0 for number in range(3000)}] * 2,
}
MOST = 100


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = [(value, key) for key, _ in items]
    inner = [value[key] for _, key in found if isinstance(value[key], (dict, list))]
    return found + [place for one in inner for place in places(one)]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("path", KINDS)
def test_few_errors_are_made_wherever_a_body_is_wrong(
    path: str, wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []
    refusal = bodies.refusal

    def counted(error: ValidationError, kind: type[Body]) -> BadRequest:
        counts.append(error.error_count())
        return refusal(error, kind)

    monkeypatch.setattr(bodies, "refusal", counted)
    for index in range(len(places(EXAMPLES[path]))):
        example = json.loads(json.dumps(EXAMPLES[path]))
        container, key = places(example)[index]
        container[key] = WRONG[wrong]
        found = read(json.dumps(example).encode(), KINDS[path])
        assert isinstance(found, Body) or len(str(found)) < 2000
    with pytest.raises(BadRequest):
        parse_body(json.dumps({**EXAMPLES[path], **WRONG["fields"]}).encode(), KINDS[path])
    assert 0 < max(counts) <= MOST


@pytest.mark.parametrize("path", KINDS)
def test_a_large_body_is_read_as_a_small_one(path: str) -> None:
    kind = KINDS[path]

    @given(changed(EXAMPLES[path]))
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=EVERY_CHECK)
    def check(body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        small, large = (read(content + b" " * spaces, kind) for spaces in (0, 10_000))
        assert type(small) is type(large)
        if isinstance(small, Body):
            assert small == large
            assert isinstance(large, Body)
            assert small.model_fields_set == large.model_fields_set

    check()


def read(content: bytes, kind: type[Body]) -> Body | BadRequest:
    try:
        return parse_body(content, kind)
    except BadRequest as error:
        return error


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"messages": [{"role": "user", "content": "x", "extra": 1}]}, "messages[0].extra", "unknown_parameter"),
        ({"messages": [], "temprature": 1}, "temprature", "unknown_parameter"),
        ({}, "messages", "missing_parameter"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}, "messages[0].content[0].text", None),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]", None),
        ({"messages": [{"role": "user", "content": "x"}], "temperature": 3}, "temperature", None),
    ],
)  # fmt: skip
def test_errors_of_a_large_body_name_the_field(body: Any, param: str, code: str | None) -> None:
    content = json.dumps(body).encode()
    for padding in (b"", b" " * 10_000):
        with pytest.raises(BadRequest) as refused:
            parse_body(content + padding, ChatCompletionRequest)
        assert (refused.value.param, refused.value.code) == (param, code)


def test_a_long_name_is_cut_in_the_error() -> None:
    with pytest.raises(BadRequest, match="Unknown parameter 'aaa") as refused:
        parse_body(json.dumps({"messages": [], "a" * 100_000: 1}).encode(), ChatCompletionRequest)
    assert len(str(refused.value)) < 500
