"""Limits: what is refused before a route sees it, and what a call may ask for."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.errors import ConfigError
from quire.server.arguments import ServerArguments
from quire.server.call import is_larger
from quire.server.middleware import limits
from quire.server.middleware.limits import LimitsMiddleware, body_problem, depth_of
from quire.tokenizer import Tokenizer
from tests.server.guarded import HI, guarded

SMALL: dict[str, Any] = {"max_body_bytes": 2000, "max_header_bytes": 1000, "max_json_depth": 10}
SMALL["max_json_values"] = 30


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        (b'{"messages": ' + b" " * 3000 + b"[]}", {}, 413, "request_too_large"),
        (nested(11), {}, 400, "too_deep"),
        (b"[" + b"0," * 40 + b"0]", {}, 400, "too_many"),
        (b'{"a": "\xff"}', {}, 400, "bad_encoding"),
        (b'{"a": "\x00"}', {}, 400, "bad_encoding"),
        (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
        (b"{}", {"content-encoding": "gzip"}, 415, "unsupported_encoding"),
        (b"{}", {"x-long": "a" * 1000}, 431, "headers_too_large"),
        (b"{}", {f"x-{n}": "a" for n in range(130)}, 431, "headers_too_large"),
        (b"{}", {"host": "evil.example.org"}, 421, "wrong_host"),
        (b"{}", {"host": "localhost.evil.example.org:80"}, 421, "wrong_host"),
        (b"{", {}, 400, "json"),
    ],
)
async def test_what_is_refused(
    tokenizer: Tokenizer, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    async with guarded(tokenizer, **SMALL) as server:
        answer = await server.chat(body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert server.engine.open_requests == 0
        assert (await server.chat()).status_code == 200


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "127.0.0.1:80", "[::1]:9", "[::1]"]
)
async def test_hosts_that_mean_this_machine(tokenizer: Tokenizer, host: str) -> None:
    async with guarded(tokenizer) as server:
        assert (await server.chat(headers={"host": host})).status_code == 200


async def test_with_keys_any_host_is_taken(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, api_key="some-long-key") as server:
        headers = {"host": "models.example.org", "x-api-key": "some-long-key"}
        assert (await server.chat(headers=headers)).status_code == 200


async def test_a_proxy_may_forward_another_host_where_it_is_allowed(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, allow_no_key=True) as server:
        answer = await server.chat(headers={"host": "models.example.org"})
        assert answer.status_code == 200


async def test_a_body_in_pieces_is_counted_as_it_comes(tokenizer: Tokenizer) -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b" " * 100

    async with guarded(tokenizer, **SMALL) as server:
        headers = {"content-type": "application/json"}
        answer = await server.client.post("/v1/completions", content=pieces(), headers=headers)
        assert answer.status_code == 413


async def test_all_bodies_together_are_bounded(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, max_held_bytes=3000) as server:
        server.engine.echo.delay = 0.05
        long = {**HI, "messages": [{"role": "user", "content": "a" * 1000}]}
        answers = await asyncio.gather(*(server.chat(long) for _ in range(4)))
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses == [200, 200, 429, 429]
        assert (await server.chat(long)).status_code == 200  # what was held was given back


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it is not asked")

    async def never() -> Any:
        await asyncio.sleep(60)

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    limits = LimitsMiddleware(app, ServerArguments(read_timeout=0.02))
    headers = [(b"host", b"localhost"), (b"content-length", b"5")]
    headers.append((b"content-type", b"application/json"))
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await limits(scope, never, send)
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"n": 33}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs"),
        ({"logit_bias": {str(n): 1 for n in range(1025)}}, "logit_bias"),
        ({"messages": HI["messages"] * 5000}, "messages"),
        ({"response_format": {"type": "regex", "regex": "a" * 70_000}}, "response_format"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"enum": ["ab"] * 20_000}},
                }
            },
            "response_format",
        ),
    ],
)
async def test_calls_that_ask_for_too_much(
    tokenizer: Tokenizer, options: dict[str, Any], param: str
) -> None:
    async with guarded(tokenizer) as server:
        answer = await server.chat({**HI, **options})
        assert answer.status_code == 400, answer.text
        assert param in (answer.json()["error"]["param"] or answer.json()["error"]["message"])
        assert server.gate.running == 0


LIMITS: dict[str, tuple[str, Any]] = {
    # what a request has that many of
    "max_n": ("/v1/chat/completions", lambda n: {**HI, "n": n}),
    "max_messages": ("/v1/chat/completions", lambda n: {**HI, "messages": HI["messages"] * n}),
    "max_tools": ("/v1/chat/completions", lambda n: {**HI, "tools": [TOOL] * n}),
    "max_stop_strings": ("/v1/chat/completions", lambda n: {**HI, "stop": ["x"] * n}),
    "max_logprobs": (
        "/v1/chat/completions",
        lambda n: {**HI, "logprobs": True, "top_logprobs": n},
    ),
    "max_bias_tokens": (
        "/v1/chat/completions",
        lambda n: {**HI, "logit_bias": {str(token): 1 for token in range(n)}},
    ),
    "max_completions": ("/v1/completions", lambda n: {"prompt": ["x"] * n, "max_tokens": 1}),
    "max_schema_bytes": (
        "/v1/chat/completions",
        lambda n: {**HI, "response_format": {"type": "regex", "regex": "a" * (n - 24)}},
    ),
}
TOOL = {"type": "function", "function": {"name": "f"}}
RAISED = {"max_n": 100, "max_logprobs": 60, "max_schema_bytes": 2**18, "max_messages": 5000}


@pytest.mark.parametrize("setting", LIMITS)
async def test_each_limit_can_be_set_and_is_named(tokenizer: Tokenizer, setting: str) -> None:
    path, body = LIMITS[setting]
    default = getattr(ServerArguments(), setting)
    assert isinstance(default, int)
    for limit in (max(default // 4, 3), RAISED.get(setting, 2 * default)):
        async with (
            guarded(tokenizer, max_completions=600, **{setting: limit})
            if (setting != "max_completions")
            else guarded(tokenizer, max_completions=limit) as server
        ):
            server.gate.capacity = 10**6
            within = await server.client.post(path, json=body(limit))
            assert setting not in within.text
            assert within.status_code in (200, 400), within.text
            over = await server.client.post(path, json=body(limit + 1))
            assert over.status_code == 400, over.text
            assert f"({setting})" in over.json()["error"]["message"]
            assert f"{limit:,}" in over.json()["error"]["message"]


async def test_forty_stop_strings_are_told_to_be_too_many(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        answer = await server.chat({**HI, "stop": ["x"] * 40})
        assert answer.json()["error"]["message"] == (
            "stop: at most 16 entries are allowed here (max_stop_strings)."
        )


@pytest.mark.parametrize("setting", ["max_n", "max_logprobs", "max_schema_bytes"])
def test_a_limit_above_what_the_engines_take_is_refused_at_the_start(setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        ServerArguments(**cast("Any", {setting: 10**9}))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**HI, "top_p": 0}),
        ("/v1/chat/completions", {**HI, "top_p": 0, "temperature": 0.9}),
        ("/v1/completions", {"prompt": "x", "top_p": 0.0}),
        ("/v1/responses", {"input": "Hi", "top_p": 0}),
        ("/v1/messages", {**HI, "model": "echo", "top_p": 0}),
    ],
)
async def test_top_p_0_is_the_likeliest_token(
    tokenizer: Tokenizer, path: str, body: dict[str, Any]
) -> None:
    """In Python it is LLaMA-Factory's word for "unset"; on these wires it never was."""
    async with guarded(tokenizer) as server:
        answer = await server.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        assert server.engine.last_params is not None
        assert server.engine.last_params.greedy


async def test_messages_are_counted_as_they_were_sent(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, max_messages=8) as server:
        most = await server.chat({**HI, "messages": HI["messages"] * 8})
        assert most.status_code == 200, most.text
        refused = await server.chat({**HI, "messages": HI["messages"] * 9})
        assert refused.status_code == 400
        assert "max_messages" in refused.text


async def test_completions_count_prompts_too(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer, max_completions=8) as server:
        headers = {"content-type": "application/json"}
        body = json.dumps({"prompt": ["a"] * 5, "n": 2, "model": "echo"})
        answer = await server.client.post("/v1/completions", content=body, headers=headers)
        assert answer.status_code == 400
        assert "max_completions" in answer.text


async def test_cors_is_off_unless_asked_for(tokenizer: Tokenizer) -> None:
    asked = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    async with guarded(tokenizer) as server:
        answer = await server.client.options("/v1/chat/completions", headers=asked)
        assert not any(name.startswith("access-control") for name in answer.headers)
    origin = "https://chat.example.org"
    async with guarded(tokenizer, api_key="some-long-key", cors_origins=origin) as server:
        answer = await server.client.options("/v1/chat/completions", headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        other = {**asked, "origin": "https://evil.example.org"}
        answer = await server.client.options("/v1/chat/completions", headers=other)
        assert "access-control-allow-origin" not in answer.headers
        refused = await server.chat(headers={"origin": origin})
        assert refused.status_code == 401
        # So that a page can read it.
        assert refused.headers["access-control-allow-origin"] == origin


PREFLIGHT = "access-control-request-headers"
# As the clients of these two send them from a browser, with what helpers and options add.
CLIENT_HEADERS = {
    "openai": "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,"
    "x-stainless-package-version,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout,openai-organization,openai-project,"
    "x-stainless-helper-method,openai-beta,user-agent",
    "anthropic": "anthropic-beta, anthropic-dangerous-direct-browser-access, anthropic-version, "
    "Content-Type, X-Api-Key, X-Stainless-Helper, x-stainless-stream-helper",
    "one of them": "x-stainless-something-new",
}


@pytest.mark.parametrize("client", CLIENT_HEADERS)
@pytest.mark.parametrize("origins", ["https://chat.example.org", "*"])
async def test_the_headers_of_clients_for_browsers_pass(
    tokenizer: Tokenizer, client: str, origins: str
) -> None:
    asked = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    async with guarded(tokenizer, api_key="some-long-key", cors_origins=origins) as server:
        names = CLIENT_HEADERS[client]
        answer = await server.client.options("/v1/messages", headers={**asked, PREFLIGHT: names})
        assert answer.status_code == 200
        allowed = {
            one.strip() for one in answer.headers["access-control-allow-headers"].lower().split(",")
        }
        assert {name.strip().lower() for name in names.split(",")} <= allowed
        assert answer.headers["access-control-allow-origin"] == origins


@pytest.mark.parametrize(
    "name",
    ["x-other", "x-stainless-", "x-stainless-a\tb", "not-openai-beta", "anthropic", "cookie"],
)
async def test_other_headers_do_not_pass(tokenizer: Tokenizer, name: str) -> None:
    asked = {"origin": "https://chat.example.org", "access-control-request-method": "POST"}
    async with guarded(tokenizer, cors_origins=asked["origin"]) as server:
        headers = {**asked, PREFLIGHT: f"content-type, {name}, x-stainless-os"}
        answer = await server.client.options("/v1/messages", headers=headers)
        assert answer.status_code == 400
        allowed = answer.headers["access-control-allow-headers"].lower().split(",")
        assert name not in {one.strip() for one in allowed}


@pytest.mark.parametrize("second", ["localhost", "evil.example.org"])
async def test_two_hosts_are_refused(tokenizer: Tokenizer, second: str) -> None:
    for allowed in (False, True):
        async with guarded(tokenizer, allow_no_key=allowed) as server:
            headers = [("host", "localhost"), ("host", second)]
            answer = await server.client.get("/health", headers=headers)
            assert answer.status_code == 400
            assert "Host" in answer.json()["error"]["message"]


@pytest.mark.parametrize("length", ["9" * 5000, "0" * 5000 + "9" * 10, "9" * 21, "9" * 20])
async def test_a_length_of_many_digits_is_too_large(tokenizer: Tokenizer, length: str) -> None:
    async with guarded(tokenizer) as server:
        answer = await server.chat(headers={"content-length": length})
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_zeros_before_a_length_change_nothing(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        body = json.dumps(HI).encode()
        headers = {"content-length": "0" * 5000 + str(len(body))}
        assert (await server.chat(body, headers=headers)).status_code == 200


async def test_a_limit_is_named_as_the_api_names_it(tokenizer: Tokenizer) -> None:
    async with guarded(tokenizer) as server:
        body = {**HI, "model": "echo", "stop_sequences": ["x"] * 40}
        answer = await server.client.post("/v1/messages", json=body)
        assert answer.json()["error"]["message"].startswith("stop_sequences: at most 16")
        body = {"input": "Hi", "include": ["message.output_text.logprobs"], "top_logprobs": 21}
        answer = await server.client.post("/v1/responses", json=body)
        assert "top_logprobs" in answer.json()["error"]["message"]


JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.sampled_from(['"[', "\\", "]}{", '\\"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=25,
)  # fmt: skip


def plain_depth(value: Any) -> int:
    children = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return 0
    return 1 + max(map(plain_depth, children), default=0)


@given(JSON, st.booleans())
@settings(deadline=None)
def test_depth_is_what_a_parser_finds(value: Any, ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert depth_of(body) == plain_depth(value)


def plain_values(value: Any) -> int:
    """The values in a value, itself and the keys of objects included; what is empty is two."""
    if isinstance(value, dict):
        return 1 + (sum(1 + plain_values(inner) for inner in value.values()) or 1)
    return 1 + (sum(map(plain_values, value)) or 1) if isinstance(value, list) else 1


@given(JSON, st.booleans(), st.integers(1, 200))
@settings(deadline=None)
def test_values_are_counted_wherever_the_pieces_end(
    value: Any, ascii_only: bool, piece: int
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    count = plain_values(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "_PIECE", piece)
        assert depth_of(body) == plain_depth(value)
        if b"\xed" not in body:  # half a surrogate pair is no UTF-8
            assert body_problem(body, 100, count) is None
            if count > 1:
                assert getattr(body_problem(body, 100, count - 1), "code", None) == "too_many"


@pytest.mark.parametrize("letter", ["a", "é", "😀", "\\n"])
def test_a_long_text_is_one_value_and_is_text_wherever_the_pieces_end(letter: str) -> None:
    for before in range(4):
        text = "x" * before + letter * 100_000 + ', [{"a":1}]'
        assert body_problem(json.dumps([text]).encode(), 1, 2) is None
        assert body_problem(json.dumps([text], ensure_ascii=False).encode(), 1, 2) is None


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_looked_at_without_harm(body: bytes) -> None:
    problem = body_problem(body, 3, 300_000)
    assert problem is None or problem.status == 400


def test_long_strings_cost_no_more_than_their_length() -> None:
    assert depth_of(b'["' + b"\\\\" * 500_000 + b'", [' + b'"' + b"a[" * 500_000) == 2


@given(JSON)
@settings(deadline=None)
def test_size_grows_with_what_is_in_it(value: Any) -> None:
    size = len(json.dumps(value, ensure_ascii=False))
    assert is_larger([value, "x" * 100], 100)
    assert not is_larger(value, 3 * size + 10)


LARGE_TOOL = {
    "type": "function",
    "function": {"name": "large", "parameters": {"type": "object", "description": "x" * 300_000}},
}


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"bad_words": ["x" * 200] * 100}, "bad_words"),
        ({"bad_words": ["x" * 256] * 1024}, "bad_words"),
        ({"tools": [LARGE_TOOL], "tool_choice": "required"}, "tools"),
        (
            {
                "tools": [TOOL, LARGE_TOOL],
                "tool_choice": {"type": "function", "function": {"name": "large"}},
            },
            "tools",
        ),
    ],
)
async def test_what_is_too_large_in_all_is_named(
    tokenizer: Tokenizer, options: dict[str, Any], param: str
) -> None:
    async with guarded(tokenizer) as server:
        answer = await server.chat({**HI, **options})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
        assert server.engine.echo.last_params is None


async def test_a_large_tool_that_is_not_the_forced_one_is_no_hindrance(
    tokenizer: Tokenizer,
) -> None:
    forced = {"type": "function", "function": {"name": "f"}}
    async with guarded(tokenizer) as server:
        answer = await server.chat({**HI, "tools": [TOOL, LARGE_TOOL], "tool_choice": forced})
        assert "tools" not in (answer.json().get("error") or {}).get("message", "")
