"""Forced calls, formats beside tools, and budgets for thoughts, over each API."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from quire.server.apis.anthropic.request import prompt_call
from quire.server.apis.anthropic.schema import CountTokensRequest

CHAT, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/responses", "/v1/messages"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PARIS: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
SUM: list[Any] = [{"role": "user", "content": "What is 17 + 25?"}]
NAME = "get_weather"


def functions(parameters: Any) -> dict[str, list[Any]]:
    """The tool in each API's form."""
    about = {"name": NAME, "description": "The weather in a city."}
    return {
        CHAT: [{"type": "function", "function": {**about, "parameters": parameters}}],
        RESPONSES: [{"type": "function", **about, "parameters": parameters}],
        MESSAGES: [{**about, "input_schema": parameters}],
    }


NAMED: dict[str, Any] = {
    CHAT: {"type": "function", "function": {"name": NAME}},
    RESPONSES: {"type": "function", "name": NAME},
    MESSAGES: {"type": "tool", "name": NAME},
}
REQUIRED: dict[str, Any] = {CHAT: "required", RESPONSES: "required", MESSAGES: {"type": "any"}}


def post(
    http: httpx.Client, path: str, messages: list[Any], most: int = 100, **fields: Any
) -> dict[str, Any]:
    asked = {"input": messages} if path == RESPONSES else {"messages": messages}
    limit = {"max_output_tokens": most} if path == RESPONSES else {"max_tokens": most}
    answer = http.post(path, json={"model": "base", "temperature": 0, **asked, **limit, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def call_of(path: str, answer: dict[str, Any]) -> tuple[str, Any, str | None]:
    """The one call of an answer: its name, its arguments, and why the answer ended."""
    if path == CHAT:
        choice = answer["choices"][0]
        (call,) = choice["message"]["tool_calls"]
        return (
            call["function"]["name"],
            call["function"]["arguments"],
            choice["finish_reason"],
        )
    if path == RESPONSES:
        (item,) = answer["output"]
        reason = (answer["incomplete_details"] or {}).get("reason")
        return item["name"], item["arguments"], reason
    (block,) = answer["content"]
    return block["name"], block["input"], answer["stop_reason"]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("choices", [REQUIRED, NAMED], ids=["required", "named"])
def test_a_forced_call(http: httpx.Client, path: str, choices: dict[str, Any]) -> None:
    fields = {"tools": functions(PARAMETERS)[path], "tool_choice": choices[path]}
    name, arguments, _ = call_of(path, post(http, path, PARIS, **fields))
    assert name == NAME
    assert (json.loads(arguments) if path != MESSAGES else arguments) == {"city": "Paris"}


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
@pytest.mark.parametrize("choices", [REQUIRED, NAMED], ids=["required", "named"])
def test_a_forced_call_that_is_cut(http: httpx.Client, path: str, choices: dict[str, Any]) -> None:
    fields = {"tools": functions(PARAMETERS)[path], "tool_choice": choices[path]}
    name, arguments, reason = call_of(path, post(http, path, PARIS, most=16, **fields))
    assert name == NAME
    text = arguments["arguments"] if path == MESSAGES else arguments
    assert '{"city": "Paris"}'.startswith(text)
    assert reason in ("length", "max_output_tokens", "max_tokens")


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_tool_whose_schema_cannot_be_enforced(http: httpx.Client, path: str) -> None:
    hard = {**PARAMETERS, "not": {"required": ["town"]}}
    fields = {"tools": functions(hard)[path], "tool_choice": REQUIRED[path]}
    assert call_of(path, post(http, path, PARIS, **fields))[0] == NAME


def test_a_format_beside_tools_and_beside_a_forced_call(http: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [1, 2]}}}
    fields = {"tools": functions(PARAMETERS)[CHAT], "response_format": form}
    free = post(http, CHAT, PARIS, **fields)
    forced = post(http, CHAT, PARIS, tool_choice="required", **fields)
    none = post(http, CHAT, PARIS, tool_choice="none", **fields)
    assert call_of(CHAT, free)[0] == call_of(CHAT, forced)[0] == NAME
    assert none["choices"][0]["message"]["content"] in ("1", "2")


@pytest.mark.parametrize("name", ["thinking_budget", "thinking_token_budget"])
def test_a_budget_in_chat(http: httpx.Client, name: str) -> None:
    answer = post(http, CHAT, SUM, **{name: 4})
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] <= 4
    assert answer["choices"][0]["message"]["content"]
    free = post(http, CHAT, SUM)
    assert free["usage"]["completion_tokens_details"]["reasoning_tokens"] > 4
    body = {"model": "base", "messages": SUM, "thinking_budget": 1, "thinking_token_budget": 2}
    assert "thinking_budget" in http.post(CHAT, json=body).json()["error"]["message"]


def test_a_budget_in_responses(http: httpx.Client) -> None:
    answer = post(http, RESPONSES, SUM, thinking_budget=4)
    assert answer["usage"]["output_tokens_details"]["reasoning_tokens"] <= 4
    assert answer["output"][-1]["content"][0]["text"]


def test_a_budget_in_messages(http: httpx.Client) -> None:
    thinking = {"type": "enabled", "budget_tokens": 1024}
    answer = post(http, MESSAGES, SUM, most=2000, thinking=thinking)
    assert answer["content"][-1]["text"]
    body = CountTokensRequest.model_validate(
        {"model": "base", "messages": SUM, "thinking": thinking}
    )
    assert prompt_call(body).options["thinking_budget"] == 1024


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_call_is_seen_while_it_is_written(http: httpx.Client, choice: str) -> None:
    body = {
        "model": "base",
        "messages": PARIS,
        "temperature": 0,
        "max_tokens": 100,
        "tools": functions(PARAMETERS)[CHAT],
        "tool_choice": choice,
        "stream": True,
    }

    def choices(**options: bool) -> list[dict[str, Any]]:
        answer = http.post(CHAT, json={**body, "stream_options": options or None})
        events = [line.removeprefix("data: ") for line in answer.text.split("\n\n")]
        return [json.loads(event)["choices"][0] for event in events if event.startswith("{")]

    found = choices(include_held_text=True)
    is_call = [bool(one["delta"].get("tool_calls")) for one in found]
    at = is_call.index(True)
    held = "".join(one.get("held_text", "") for one in found[:at])
    assert NAME in held
    assert '"Paris' in held
    assert sum("held_text" in one for one in found[:at]) > 5  # as it is written
    assert all("held_text" not in one for one in found if one["delta"])
    assert not any("held_text" in one for one in choices())
