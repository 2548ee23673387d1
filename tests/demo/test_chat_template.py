"""The chat model's own template writes what quire's `qwen3` format writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire.demo import demo_model_path
from quire.messages import read_conversation
from quire.template.registry import get_template
from quire.template.template import elements_to_json
from tests.demo.speaking import tokenizer_of

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "prompt_formats.json").read_text("utf-8")
)
CASES = list(GOLDEN["templates"]["qwen3"]["prompts"])


@pytest.mark.parametrize("key", CASES)
def test_golden_scenarios(key: str) -> None:
    scenario, _, think = key.partition("/think=")
    made = GOLDEN["scenarios"][scenario]
    expected = "".join(map(str, GOLDEN["templates"]["qwen3"]["prompts"][key]))
    messages, tools = _openai(made)
    switch = {} if think == "on" else {"enable_thinking": False}
    assert _rendered(messages, tools, **switch) == expected


def test_messages_of_calls_as_the_named_format_writes_them() -> None:
    calls = [_call("get_weather", city=city) for city in ("Oslo", "Bergen")]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Weather in Oslo and Bergen?"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        {"role": "tool", "content": '{"temp": 3}'},
        {"role": "tool", "content": '{"temp": 5}'},
        {"role": "assistant", "content": "It is 3 and 5 degrees."},
        {"role": "user", "content": "Thanks"},
    ]
    conversation = read_conversation(messages)
    elements = get_template("qwen3", None).render(conversation)
    expected = "".join(str(element) for element in elements_to_json(elements))
    assert _rendered(messages, None) == expected


def _call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _openai(made: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None]:
    """Turn a golden scenario into the messages and tools that chat templates read."""
    messages: list[dict[str, Any]] = []
    if made["system"]:
        messages.append({"role": "system", "content": made["system"]})
    for message in made["messages"]:
        if message["role"] == "function":
            found = json.loads(message["content"])
            calls = [_call(call["name"], **call["arguments"]) for call in found]
            messages.append({"role": "assistant", "content": "", "tool_calls": calls})
        elif message["role"] == "observation":
            messages.append({**message, "role": "tool"})
        else:
            messages.append(message)
    tools = made["tools"]
    return messages, json.loads(tools) if isinstance(tools, str) else tools


def _rendered(messages: Any, tools: Any, **more: Any) -> str:
    tokenizer = tokenizer_of(demo_model_path())
    return tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=True, **more
    )
