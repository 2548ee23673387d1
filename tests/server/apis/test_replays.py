"""What clients received goes back in the next turn as they keep it, with their notes and hints."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from anthropic import beta_tool
from openai import OpenAI
from pydantic import BaseModel

from quire.server.apis.anthropic.schema import DROPPED_BLOCKS, BlockRecord
from quire.server.apis.openai.messages import MESSAGE_RECORDS, PART_RECORDS
from quire.server.apis.openai.responses.items import (
    CALLS_OF_TOOLS,
    DROPPED_ITEMS,
    RESULTS_OF_TOOLS,
    ItemPartRecord,
    ItemRecord,
)
from quire.server.apis.openai.schema import ToolHints
from tests.server.apis.clients import claude
from tests.server.scenarios import WEATHER, asked, plain
from tests.server.serving import Served

Echo = Callable[..., Served]
DOCS = Path(__file__).parents[3] / "docs" / "server-apis.md"
HI: list[Any] = [{"role": "user", "content": "hi"}]
QUESTION = "What is the weather in Oslo and in Rome?"


class GetWeather(BaseModel):
    """Get the current weather for a city."""

    city: str


class Person(BaseModel):
    name: str
    age: int


def results_of(message: Any) -> list[Any]:
    return [
        {"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 21}'}
        for call in reversed(message.tool_calls)
    ]


# --- the clients themselves ------------------------------------------------------------------------


def test_a_message_of_the_sdks_stream_goes_back(client: OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")
    with client.chat.completions.stream(
        model="base", temperature=0, messages=asked(QUESTION), tools=[tool],
        extra_body={"enable_thinking": False},
    ) as stream:  # fmt: skip
        called: Any = stream.get_final_completion().choices[0].message
    assert [call.function.parsed_arguments.city for call in called.tool_calls] == ["Oslo", "Rome"]
    history = [*asked(QUESTION), called, *results_of(called)]
    with client.chat.completions.stream(
        model="base", temperature=0, messages=history, tools=[tool]
    ) as stream:
        told = stream.get_final_completion().choices[0].message
    assert "21" in (told.content or "")
    assert plain(client, [*history, told, *asked("Thanks!")], tools=[WEATHER]).choices


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the SDK's own classes
def test_a_message_of_the_sdks_parse_goes_back(client: OpenAI) -> None:
    question = asked("Make an object with the name Ada and the age 36.")
    parsed = client.chat.completions.parse(
        model="base", temperature=0, messages=question, response_format=Person
    )
    answer: Any = parsed.choices[0].message
    assert isinstance(answer.parsed, Person)
    again = client.chat.completions.parse(
        model="base",
        temperature=0,
        messages=[*question, answer, *asked("Once more.")],
        response_format=Person,
    )
    assert again.usage is not None
    assert again.usage.prompt_tokens > (parsed.usage.prompt_tokens if parsed.usage else 0)


def test_items_of_the_sdks_parse_go_back(client: OpenAI) -> None:
    tool: Any = openai.pydantic_function_tool(GetWeather, name="get_weather")
    function: Any = {"type": "function", **tool["function"]}
    options: Any = {"model": "base", "temperature": 0, "reasoning": {"effort": "none"}}
    turns: list[Any] = [{"role": "user", "content": QUESTION}]
    called = client.responses.parse(input=turns, tools=[function], **options)
    turns += called.output
    for item in reversed(called.output):
        assert item.type == "function_call"
        turns.append(
            {"type": "function_call_output", "call_id": item.call_id, "output": '{"sky": "sunny"}'}
        )
    told = client.responses.parse(input=turns, tools=[function], **options)
    asking: Any = [*turns, *told.output, {"role": "user", "content": "Who?"}]
    typed = client.responses.parse(input=asking, text_format=Person, **options)
    thanking: Any = [*turns, *typed.output, {"role": "user", "content": "Thanks!"}]
    last = client.responses.create(input=thanking, **options)
    assert isinstance(typed.output_parsed, Person)
    assert last.status == "completed"


@pytest.mark.parametrize("stream", [False, True])
def test_anthropics_tool_runner_goes_on_without_a_thread(served: Served, stream: bool) -> None:
    cities: list[str] = []

    @beta_tool
    def get_weather(city: str) -> str:
        """Get the weather in a city.

        Args:
            city: City name
        """
        cities.append(city)
        return json.dumps({"temperature": 21, "sky": "sunny"})

    options: Any = {"thinking": {"type": "disabled"}, "extra_body": {"temperature": 0}}
    runner: Any = claude(served).beta.messages.tool_runner(
        model="base",
        max_tokens=200,
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[get_weather],
        max_iterations=5,
        stream=stream,
        **options,
    )
    messages = [one.get_final_message() if stream else one for one in runner]
    assert cities == ["Paris"]
    assert [one.stop_reason for one in messages] == ["tool_use", "end_turn"]
    assert "21" in messages[-1].content[-1].text


def test_a_thread_is_refused_with_the_details_of_the_sdk(http: httpx.Client) -> None:
    body = {"model": "base", "max_tokens": 5, "messages": asked("hi"), "thread": {"type": "create"}}
    answer = http.post("/v1/messages?beta=true", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["details"]["error_code"] == "thread_unsupported_request"
    assert isinstance(error["details"]["unsupported"], list)
    assert http.post("/v1/messages", json={**body, "thread": None}).status_code == 200


# --- bodies as clients send them -------------------------------------------------------------------

# Codex, in its second turn after one at OpenAI: https://github.com/openai/codex, codex-rs.
CODEX: dict[str, Any] = {
    "model": "base",
    "instructions": "You are a coding agent.",
    "input": [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Go."}]},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "List the files."}],
            "internal_chat_message_metadata_passthrough": {"turn_id": "t1"},
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "I list."}],
            "content": None,
            "encrypted_content": "gAAAAAB",
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "On it."}],
            "phase": "commentary",
            "end_turn": False,
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "name": "shell",
            "namespace": None,
            "arguments": '{"command": ["ls"]}',
            "call_id": "call_1",
        },
        {"type": "local_shell_call", "call_id": "call_2", "status": "completed",
         "action": {"type": "exec", "command": ["pwd"], "env": None}},
        {"type": "custom_tool_call", "call_id": "call_3", "name": "apply_patch", "status": "completed",
         "input": "*** Begin Patch\n*** End Patch"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed",
         "action": {"type": "search", "query": "quire", "queries": ["quire"]}},
        {"type": "tool_search_call", "call_id": "call_4", "status": "completed",
         "execution": "client", "arguments": {"query": "x"}},
        {"type": "tool_search_output", "call_id": "call_4", "status": "completed",
         "execution": "client", "tools": []},
        {"type": "ghost_snapshot", "ghost_commit": {"id": "abc"}},
        {"type": "custom_tool_call_output", "call_id": "call_3", "output": "Done."},
        {"type": "function_call_output", "call_id": "call_2", "output": "/repo"},
        {"type": "function_call_output", "call_id": "call_1", "output": "a.py\nb.py"},
    ],
    "tools": [
        {
            "type": "function",
            "name": "shell",
            "description": "Runs a command.",
            "strict": False,
            "defer_loading": True,
            "parameters": {"type": "object", "properties": {"command": {"type": "array"}}},
        },
        {
            "type": "namespace",
            "name": "agents",
            "description": "Other agents.",
            "tools": [
                {
                    "type": "function",
                    "name": "close",
                    "strict": False,
                    "parameters": {
                        "type": "object",
                        "properties": {},
                        "additionalProperties": False,
                    },
                }
            ],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "medium", "summary": "detailed", "context": "all_turns"},
    "store": False,
    "stream": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "thread",
    "text": {"verbosity": "low"},
    "client_metadata": {"x-codex-installation-id": "1", "x-codex-turn-metadata": "{}"},
    "max_output_tokens": 4,
}  # fmt: skip

# Claude Code, as its traffic shows.
CLAUDE_CODE: dict[str, Any] = {
    "model": "base",
    "max_tokens": 4,
    "system": [
        {"type": "text", "text": "You are Claude Code."},
        {
            "type": "text",
            "text": "Rules.",
            "cache_control": {"type": "ephemeral", "ttl": "1h", "scope": "global"},
        },
    ],
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Find it.", "citations": None}]},
        {
            "role": "assistant",
            "content": [
                {"type": "redacted_thinking", "data": "AAAA"},
                {"type": "thinking", "thinking": "I search.", "signature": "AAAA"},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search",
                 "input": {"query": "quire"}, "caller": {"type": "direct"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []},
                {"type": "tool_use", "id": "toolu_1", "name": "ToolSearch",
                 "input": {"query": "x"}, "caller": {"type": "direct"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "tool_reference", "tool_name": "WebFetch"}],
                    "cache_control": {"type": "ephemeral"},
                }
            ],
        },
    ],
    "tools": [
        {
            "name": "ToolSearch",
            "description": "Finds tools.",
            "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}},
            "eager_input_streaming": True,
        },
        {
            "name": "WebFetch",
            "description": "Fetches.",
            "input_schema": {"type": "object", "properties": {}},
            "defer_loading": True,
            "allowed_callers": ["direct"],
            "input_examples": [{}],
        },
    ],
    "metadata": {"user_id": json.dumps({"device_id": "d" * 64, "session_id": "s" * 300})},
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "temperature": 1,
    "stream": False,
}  # fmt: skip

# A history that gateways and agents have kept of answers of other servers.
CHAT: dict[str, Any] = {
    "model": "base",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "S", "cache_control": {"type": "ephemeral"}}]},
        {"role": "user", "content": "Weather?", "id": "m1", "metadata": {"a": 1}, "timestamp": 5},
        {
            "role": "assistant",
            "content": None,
            "id": "msg_1",
            "reasoning": "I look.",
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}],
            "thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "y"}],
            "provider_specific_fields": {"a": None},
            "extra_content": {"google": {"thought_signature": "x"}},
            "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.b"}}],
            "refusal": None,
            "function_call": None,
            "audio": None,
            "tool_calls": [
                {
                    "id": "a",
                    "index": 0,
                    "type": "function",
                    "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}},
                    "extra_content": {"google": {"thought_signature": "x"}},
                    "provider_specific_fields": {"thought_signature": "x"},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": "5", "name": "f", "is_error": False},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}},
         "cache_control": {"type": "ephemeral"}, "defer_loading": True}
    ],
    "max_tokens": 4,
    "prompt_cache_retention": "24h",
    "verbosity": "low",
    "reasoning_effort": "max",
}  # fmt: skip
BODIES = {
    "/v1/responses": CODEX,
    "/v1/messages": CLAUDE_CODE,
    "/v1/chat/completions": CHAT,
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
def test_agents_and_histories_are_answered(http: httpx.Client, path: str, stream: bool) -> None:
    answer = http.post(path, json={**BODIES[path], "stream": stream})
    assert answer.status_code == 200, answer.text


def test_functions_of_a_namespace_are_called_and_go_back(http: httpx.Client) -> None:
    body = {**CODEX, "tools": CODEX["tools"][1:], "tool_choice": "required"}
    body |= {"reasoning": {"effort": "none"}, "parallel_tool_calls": False}
    (call,) = http.post("/v1/responses", json={**body, "max_output_tokens": 60}).json()["output"]
    assert (call["type"], call["namespace"], call["name"]) == ("function_call", "agents", "close")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "closed"}
    again = {**body, "tool_choice": "auto", "input": [*CODEX["input"], call, result]}
    answer = http.post("/v1/responses", json=again)
    assert answer.status_code == 200, answer.text
    plain = {"type": "function_call", "call_id": "c", "name": "agents.close", "arguments": "{}"}
    counts = [
        http.post("/v1/responses", json={**body, "tools": [], "tool_choice": "auto", "input": items})
        .json()["usage"]["input_tokens"]
        for items in (
            [*HI, {**plain, "name": "close", "namespace": "agents"}, {**result, "call_id": "c"}],
            [*HI, plain, {**result, "call_id": "c"}],
        )
    ]  # fmt: skip
    assert counts[0] == counts[1]


def test_what_the_clients_tools_did_is_in_the_prompt(echo: Echo) -> None:
    served = echo("qwen3", context_length=10_000)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        body = {**CODEX, "model": "demo", "max_output_tokens": 9000, "tools": []}
        texts = client.post("/v1/responses", json=body).json()["output"]
    written = json.dumps(texts)
    for part in ("pwd", "/repo", "Begin Patch", "Done.", "a.py"):
        assert part in written
    for part in ("ws_1", "ghost", "gAAAAAB"):
        assert part not in written


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("/v1/chat/completions", {"messages[2].prefix": True}, "messages[2].prefix"),
        ("/v1/chat/completions", {"messages[2].nonsense": 1}, "messages[2].nonsense"),
        ("/v1/chat/completions", {"messages[2].audio": {"id": "a"}}, "messages[2].audio"),
        ("/v1/chat/completions", {"tools[0].allowed_callers": ["x"]}, "tools[0].allowed_callers"),
        ("/v1/responses", {"input[1].nonsense": 1}, "input[1].nonsense"),
        ("/v1/responses", {"text.verbosity": "mute"}, "text.verbosity"),
        ("/v1/responses", {"tools[0].type": "web_search"}, "tools[0]"),
        ("/v1/responses", {"input[9].type": "compaction"}, "input[9]"),
        ("/v1/responses", {"input[9].type": "item_reference"}, "input[9]"),
    ],
)
def test_what_asks_for_something_is_refused_by_name(
    http: httpx.Client, path: str, change: dict[str, Any], param: str
) -> None:
    body = copy.deepcopy(BODIES[path])
    ((where, value),) = change.items()
    *steps, last = re.findall(r"\w+", where)
    inner: Any = body
    for step in steps:
        inner = inner[int(step) if step.isdigit() else step]
    inner[last] = value
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_the_docs_list_what_is_dropped() -> None:
    section = DOCS.read_text().partition("## What is taken and dropped")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([^`]+)`", section))
    records = (ToolHints, ItemRecord, ItemPartRecord, BlockRecord)
    dropped = {name for record in records for name in record.__annotations__}
    dropped |= MESSAGE_RECORDS | PART_RECORDS | set(DROPPED_ITEMS) | set(DROPPED_BLOCKS)
    dropped |= {*CALLS_OF_TOOLS, *RESULTS_OF_TOOLS}
    assert not dropped - listed
