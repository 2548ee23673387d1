"""Whatever a body holds, the answer is a 200 or says what is wrong: bodies changed at random."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.chat import ChatModel
from quire.tokenizer import Tokenizer
from tests.chat.echo_engine import EchoEngine
from tests.properties import EVERY_CHECK
from tests.server.serving import Served, serving

WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}}
IMAGE = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
TURNS: list[Any] = [
    {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "text", "text": "you"}]},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "tool_use", "id": "a", "name": "f", "input": {"city": "Rome"}},
        ],
    },
    {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "d"},
            },
        ],
    },
]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {
        "model": "demo",
        "instructions": "Be kind.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {
                "type": "reasoning",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "h"}],
            },
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "x"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": WEATHER, "strict": True}],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "f"}],
        },
        "text": {"format": {"type": "text"}},
        "reasoning": {"effort": "low"},
        "top_logprobs": 2,
        "max_output_tokens": 20,
        "temperature": 0.5,
        "stream": True,
        "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "model": "demo",
        "max_tokens": 20,
        "system": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}],
        "messages": TURNS,
        "tools": [{"name": "f", "input_schema": WEATHER}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 2000},
        "stop_sequences": ["x"],
        "temperature": 0.5,
        "top_k": 5,
    },
    "/v1/messages/count_tokens": {"model": "demo", "messages": TURNS, "system": "a"},
    "/v1/embeddings": {"input": ["a"], "dimensions": 3, "encoding_format": "float"},
    "/v1/score": {"text_1": "a", "text_2": ["b"], "priority": 1, "timeout": 3.0},
    "/v1/score/evaluation": {"model": "x", "messages": ["a"], "max_length": 3},
    "/tokenize": {
        "messages": [{"role": "user", "content": "hi"}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": WEATHER}}],
        "chat_template_kwargs": {"enable_thinking": False},
        "return_token_strs": True,
    },
    "/detokenize": {"tokens": [1, 2, 3]},
    "/v1/adapters": {"path": "a", "name": "b"},
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=6),
    st.sampled_from(["\0", "demo", "auto", "text", "<image>", "\ud800", "a" * 3000]),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


@st.composite
def changed(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """The body with one or two things replaced, removed, doubled or added."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(1, 2))):
        found = list(places(body))
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        how = draw(st.sampled_from(["replace", "replace", "remove", "double", "add"]))
        if how == "replace":
            container[key] = draw(VALUES)
        elif how == "remove":
            del container[key]
        elif isinstance(container, list):
            container.append(copy.deepcopy(container[key]) if how == "double" else draw(VALUES))
        else:
            container[draw(st.text(max_size=5))] = draw(VALUES)
    return body


@pytest.fixture(scope="module")
def anything(tokenizer: Tokenizer) -> Iterator[Served]:
    engine = EchoEngine(tokenizer, "qwen3", reply="yes")
    with ChatModel.from_engine(engine) as model, serving(model) as served:
        yield served


@pytest.mark.parametrize("path", BODIES)
def test_no_body_is_too_strange(anything: Served, path: str) -> None:
    with httpx.Client(base_url=anything.url, timeout=60) as client:
        first = client.post(path, json=BODIES[path])
        assert first.status_code < 500, first.text

        @given(changed(BODIES[path]))
        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            suppress_health_check=EVERY_CHECK,
        )
        def check(body: dict[str, Any]) -> None:
            answer = client.post(
                path,
                content=json.dumps(body).encode(),
                headers={"content-type": "application/json"},
            )
            assert answer.status_code in (200, 400, 403, 404, 405), answer.text
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]

        check()
