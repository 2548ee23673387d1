"""Details of the Responses and Messages protocols on an engine that says what it is told to."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any, cast

import anthropic
import httpx
import openai
import pytest

from tests.polling import wait_until
from tests.server.apis.clients import claude, gpt
from tests.server.serving import Served

Echo = Callable[..., Served]
MESSAGES: Any = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/responses": {"model": "demo", "input": "hi"},
    "/v1/messages": {"model": "demo", "max_tokens": 1000, "messages": MESSAGES},
}


@pytest.mark.parametrize("path", [*BODIES, "/v1/chat/completions"])
def test_a_stream_comes_as_it_is_written(echo: Echo, path: str) -> None:
    served = echo(reply="one two three", delay=0.05)
    chat = {"model": "demo", "messages": MESSAGES}
    body = {**BODIES.get(path, chat), "stream": True}
    with httpx.stream("POST", f"{served.url}{path}", json=body, timeout=60) as answer:
        lines = list(answer.iter_lines())
    parts = [part for line in lines for part in re.findall(r'"(one |two |thre|e)"', line)]
    assert parts == ["one ", "two ", "thre", "e"]


def test_a_fault_before_the_first_event_has_a_status(echo: Echo) -> None:
    served = echo(reply="some text to write", fail_at=0)
    with pytest.raises(openai.InternalServerError, match="made-up fault"):
        gpt(served).responses.create(model="demo", input="hi", stream=True)
    with pytest.raises(anthropic.InternalServerError) as failed:
        claude(served).messages.create(model="demo", max_tokens=9, messages=MESSAGES, stream=True)
    body: Any = failed.value.body
    assert body["error"] == {"type": "api_error", "message": "a made-up fault"}


def test_a_fault_in_a_stream_is_its_last_event(echo: Echo) -> None:
    served = echo(reply="some text to write", fail_at=2)
    events = list(gpt(served).responses.create(model="demo", input="hi", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error is not None
    assert "made-up" in events[-1].response.error.message
    with (
        pytest.raises(anthropic.APIStatusError, match="made-up fault"),
        claude(served).messages.stream(model="demo", max_tokens=9, messages=MESSAGES) as stream,
    ):
        list(stream)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_aborts_the_request(echo: Echo, path: str, stream: bool) -> None:
    served = echo(reply="word " * 500, delay=0.05)
    engine: Any = served.engine
    body = {**BODIES[path], "stream": stream}
    url = httpx.URL(served.url)
    connection = HTTPConnection(url.host, url.port, timeout=60)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    if stream:
        connection.getresponse().readline()
    wait_until(lambda: engine.open_requests)
    connection.close()
    wait_until(lambda: not engine.open_requests)
    assert (engine.open_requests, engine.aborted) == (0, 1)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/x"])
def test_all_errors_below_messages_have_anthropics_form(echo: Echo, path: str) -> None:
    with httpx.Client(base_url=echo().url, timeout=60) as client:
        for answer in (
            client.post(path, content=b"{broken"),
            client.post(path, content=b'{"messages": "\xff"}'),
            client.post(path, json={"model": "demo", "messages": MESSAGES, "nonsense": 1}),
            client.get(path),
        ):
            assert answer.status_code in (400, 404, 405)
            body = answer.json()
            assert set(body) == {"type", "error"}
            assert body["type"] == "error"
            assert set(body["error"]) == {"type", "message"}


def test_prompts_of_the_dialects_are_the_same(echo: Echo) -> None:
    """One conversation, with a thought, calls and results, said in three ways."""
    served = echo("qwen3", context_length=100_000)
    weather = {"type": "object", "properties": {"city": {"type": "string"}}}
    function: dict[str, Any] = {
        "name": "get_weather",
        "description": "Look it up",
        "parameters": weather,
    }
    arguments = json.dumps({"city": "Rome"})
    call: dict[str, Any] = {"name": "get_weather", "arguments": arguments}
    in_chat = gpt(served).chat.completions.create(
        model="demo",
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [{"id": "a", "type": "function", "function": cast("Any", call)}],
            },
            {"role": "tool", "tool_call_id": "a", "content": "21 degrees"},
        ],
        tools=[{"type": "function", "function": cast("Any", function)}],
        max_tokens=5000,
    )
    turns: list[Any] = [
        {"role": "user", "content": [{"type": "input_text", "text": "Weather in Rome?"}]},
        {"role": "assistant", "content": "I look."},
        {"type": "function_call", "call_id": "a", **call},
        {"type": "function_call_output", "call_id": "a", "output": "21 degrees"},
    ]
    tools: list[Any] = [{"type": "function", "strict": None, **function}]
    in_responses = gpt(served).responses.create(
        model="demo",
        instructions="Be kind.",
        input=turns,
        tools=tools,
        max_output_tokens=5000,
    )
    in_messages = claude(served).messages.create(
        model="demo",
        max_tokens=5000,
        system="Be kind.",
        messages=[
            {"role": "user", "content": "Weather in Rome?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "I look."},
                    {
                        "type": "tool_use",
                        "id": "a",
                        "name": "get_weather",
                        "input": {"city": "Rome"},
                    },
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "a", "content": "21 degrees"}],
            },
        ],
        tools=[{"name": "get_weather", "description": "Look it up", "input_schema": weather}],
    )
    counts = (
        in_chat.usage.prompt_tokens if in_chat.usage else 0,
        in_responses.usage.input_tokens if in_responses.usage else 0,
        in_messages.usage.input_tokens,
    )
    assert counts[0] == counts[1] == counts[2] > 50


def test_results_of_parallel_calls_come_in_any_order(echo: Echo) -> None:
    """They go to their calls by their ids, on each API to the same prompt."""
    served = echo("qwen3", context_length=100_000)
    cities = {"a": "Oslo", "b": "Rome", "c": "Lima"}
    chat_calls = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": json.dumps(city)}}
        for one, city in cities.items()
    ]
    items = [
        {"type": "function_call", "call_id": one, "name": "f", "arguments": json.dumps(city)}
        for one, city in cities.items()
    ]

    def in_chat(order: str) -> str:
        results: list[Any] = [
            {"role": "tool", "tool_call_id": one, "content": f"it rains in {cities[one]}"}
            for one in order
        ]
        called: Any = {"role": "assistant", "tool_calls": chat_calls}
        answer = gpt(served).chat.completions.create(
            model="demo", messages=[*MESSAGES, called, *results], max_tokens=9000
        )
        return answer.choices[0].message.content or ""

    def in_responses(order: str) -> str:
        results = [
            {
                "type": "function_call_output",
                "call_id": one,
                "output": f"it rains in {cities[one]}",
            }
            for one in order
        ]
        turns: Any = [*MESSAGES, *items, *results]
        return gpt(served).responses.create(model="demo", input=turns).output_text

    prompts = {in_chat(order) for order in ("abc", "cba", "bca", "cab")}
    prompts |= {in_responses(order) for order in ("abc", "cba")}
    (prompt,) = prompts
    told = [prompt.index(f"it rains in {city}") for city in cities.values()]
    assert told == sorted(told)
    for order in ("abx", "x"):
        cities["x"] = "nowhere"
        for ask in (in_chat, in_responses):
            with pytest.raises(openai.BadRequestError, match="for the call 'x', which is none"):
                ask(order)


def test_an_error_of_a_tool_is_told(echo: Echo) -> None:
    served = echo()
    result = {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": "no such city",
        "is_error": True,
    }
    message = claude(served).messages.create(
        model="demo",
        max_tokens=1000,
        messages=[
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}],
            },
            {"role": "user", "content": [result]},  # type: ignore[list-item]
        ],
    )
    (block,) = message.content
    assert block.type == "text"
    assert "Error: no such city" in block.text


def test_options_reach_the_engine(echo: Echo) -> None:
    served = echo(reply="some text")
    engine: Any = served.engine
    gpt(served).responses.create(
        model="demo",
        input="hi",
        temperature=0.5,
        top_p=0.9,
        max_output_tokens=7,
        top_logprobs=3,
        include=["message.output_text.logprobs"],
        extra_body={"priority": 4},
    )
    params = engine.last_params
    assert (params.temperature, params.top_p, params.max_tokens) == (0.5, 0.9, 7)
    assert (params.logprobs, params.priority) == (3, 4)
    claude(served).messages.create(
        model="demo",
        max_tokens=8,
        messages=MESSAGES,
        stop_sequences=["END"],
        extra_body={"temperature": 0.25, "top_k": 3, "top_p": 0.8},
    )
    params = engine.last_params
    assert (params.temperature, params.top_p, params.top_k) == (0.25, 0.8, 3)
    assert params.max_tokens == 8
    assert "END" in params.stop
