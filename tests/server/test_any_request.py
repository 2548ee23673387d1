"""Requests of any kind, right in form and odd in content: each is answered or refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties import EVERY_CHECK
from tests.server.serving import Served

TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["", "Hello!", "<|im_end|>", "<tool_call>", "{{ x }}", "\0", "</think>", "\ufeff"]
    ),
)
# No control token's text: a constraint that forces one is the engine's own matter.
PATTERNS = TEXTS.filter(lambda text: "<" not in text)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SCHEMAS = st.one_of(
    st.dictionaries(
        st.sampled_from(["type", "properties", "items", "enum", "$ref", "anyOf", "pattern"]), JSON
    ),
    st.just({"type": "object", "properties": {"a": {"type": "integer"}}}),
)
CALLS = st.fixed_dictionaries(
    {"function": st.fixed_dictionaries({"name": st.just("f"), "arguments": TEXTS})},
    optional={"id": TEXTS, "type": st.just("function")},
)
PARTS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"type": st.just("text"), "text": TEXTS}),
        st.fixed_dictionaries(
            {
                "type": st.just("image_url"),
                "image_url": st.fixed_dictionaries({"url": st.just("data:,x")}),
            }
        ),
    ),
    max_size=2,
)
MESSAGES = st.lists(
    st.one_of(
        st.fixed_dictionaries({"role": st.just("user"), "content": TEXTS | PARTS}),
        st.fixed_dictionaries({"role": st.sampled_from(["system", "developer"]), "content": TEXTS}),
        st.fixed_dictionaries(
            {"role": st.just("assistant"), "content": TEXTS | st.none()},
            optional={"tool_calls": st.lists(CALLS, max_size=2), "reasoning_content": TEXTS},
        ),
        st.fixed_dictionaries(
            {"role": st.just("tool"), "content": TEXTS}, optional={"tool_call_id": TEXTS}
        ),
    ),
    min_size=1,
    max_size=4,
)
ASKING = st.builds(
    lambda before, text: [*before, {"role": "user", "content": text}],
    st.sampled_from(
        [
            [],
            [{"role": "system", "content": "Be brief."}],
            [
                {"role": "user", "content": "x"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"function": {"name": "f", "arguments": "{]"}}],
                },
                {"role": "tool", "content": "7"},
                {"role": "assistant", "content": "7"},
            ],
        ]
    ),
    TEXTS,
)
TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g"])},
                optional={"parameters": SCHEMAS, "description": TEXTS, "strict": st.booleans()},
            ),
        }
    ),
    max_size=2,
)
FORMS = st.one_of(
    st.sampled_from([{"type": "text"}, {"type": "json_object"}, {"type": "grammar"}]),
    st.fixed_dictionaries({"type": st.just("regex"), "regex": PATTERNS}),
    st.fixed_dictionaries({"type": st.just("grammar"), "grammar": PATTERNS}),
    st.fixed_dictionaries({"type": st.just("choice"), "choice": st.lists(PATTERNS, min_size=1)}),
    st.fixed_dictionaries(
        {
            "type": st.just("json_schema"),
            "json_schema": st.fixed_dictionaries({"schema": SCHEMAS}),
        }
    ),
)
BODIES: Any = st.fixed_dictionaries(
    {"messages": ASKING | MESSAGES, "max_tokens": st.integers(1, 4)},
    optional={
        "model": st.sampled_from(["base", "demo", "none", ""]),
        "tools": TOOLS,
        "tool_choice": st.sampled_from(["auto", "none", "required"])
        | st.just({"type": "function", "function": {"name": "f"}}),
        "parallel_tool_calls": st.booleans(),
        "response_format": FORMS,
        "stream": st.booleans(),
        "n": st.integers(1, 3),
        "stop": TEXTS | st.lists(TEXTS, max_size=3),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(-1, 10**6),
        "logprobs": st.booleans(),
        "top_logprobs": st.integers(0, 20),
        "logit_bias": st.dictionaries(
            st.integers(0, 5000).map(str), st.floats(-100, 100), max_size=3
        ),
        "bad_words": st.lists(TEXTS, max_size=2),
        "min_tokens": st.integers(0, 9),
        "stop_token_ids": st.lists(st.integers(0, 10**6), max_size=2),
        "skip_special_tokens": st.booleans(),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "reasoning_effort": st.sampled_from(["none", "low"]),
        "return_token_ids": st.booleans(),
        "cache_salt": st.text(min_size=1, max_size=3),
    },
)
COMPLETIONS: Any = st.fixed_dictionaries(
    {
        "prompt": TEXTS
        | st.lists(TEXTS, max_size=3)
        | st.lists(st.integers(0, 10**4), max_size=3)
        | st.lists(st.lists(st.integers(0, 200), max_size=2), max_size=2),
        "max_tokens": st.integers(0, 3),
    },
    optional={
        "echo": st.booleans(),
        "logprobs": st.integers(0, 20),
        "prompt_logprobs": st.integers(0, 3),
        "stream": st.booleans(),
        "n": st.integers(1, 2),
        "stop": TEXTS,
        "structured_outputs": st.fixed_dictionaries({"regex": PATTERNS}),
        "add_special_tokens": st.booleans(),
    },
)


def ask(served: Served, path: str, body: Any) -> None:
    answer = httpx.post(f"{served.url}{path}", json=body, timeout=60)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]
    elif body.get("stream"):
        assert answer.text.endswith("data: [DONE]\n\n")
        assert '{"error"' not in answer.text
    else:
        assert answer.json()["choices"]


_EACH = settings(
    max_examples=60, deadline=None, suppress_health_check=EVERY_CHECK, derandomize=True
)


@_EACH
@given(body=BODIES)
def test_of_chat(body: Any, served: Served) -> None:
    ask(served, "/v1/chat/completions", body)


@_EACH
@given(body=COMPLETIONS)
def test_of_completions(body: Any, served: Served) -> None:
    ask(served, "/v1/completions", body)


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"stream": True}, {"temperature": 0}], ids=str)
@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/completions", {"prompt": "Hi"}),
    ],
)
def test_of_a_request_that_bans_every_token(
    served: Served, path: str, asked: Any, options: Any
) -> None:
    body = {
        **asked,
        "response_format": {"type": "choice", "choice": ["yes"]},
        "bad_words": ["yes", "ye", "y"],
        **options,
    }
    answer = httpx.post(f"{served.url}{path}", json=body, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "every token is banned" in error["message"]


@pytest.fixture(autouse=True, scope="module")
def unharmed(served: Served) -> Any:
    """All blocks are free in the end."""
    yield
    statistics = served.engine.statistics  # type: ignore[attr-defined]
    assert statistics.free_blocks == statistics.total_blocks
