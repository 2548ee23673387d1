"""gpt-oss over HTTP: each API has the parts of an answer in the order in which the model wrote them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from anthropic import Anthropic
from openai import OpenAI

from quire.chat import ChatModel
from tests.chat.test_gpt_oss import CALL
from tests.gpt_oss import make_gpt_oss
from tests.server.conftest import client_of
from tests.server.serving import Served, serving

ASK: Any = {"role": "user", "content": "How is it in Paris?"}
PARAMETERS: Any = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
}
FUNCTION: Any = {"name": "get_weather", "description": "The weather.", "parameters": PARAMETERS}
WRITTEN = [
    ("thought", "I need a tool."),
    ("text", "Let me look."),
    ("thought", "Now call it."),
    ("call", '{"city": "Paris"}'),
]


@pytest.fixture(scope="module")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = make_gpt_oss(tmp_path_factory.mktemp("gpt_oss"), CALL)
    arguments = {
        "model_name_or_path": str(folder),
        "infer_backend": "native",
        "native_kv_cache_memory": "32MiB",
    }
    with ChatModel(arguments) as model, serving(model) as served:
        yield served


@pytest.fixture(scope="module")
def openai(gpt_oss: Served) -> Iterator[OpenAI]:
    with client_of(gpt_oss) as client:
        yield client


@pytest.fixture(scope="module")
def anthropic(gpt_oss: Served) -> Iterator[Anthropic]:
    with Anthropic(base_url=gpt_oss.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


def prompt_of(answer: Any, served: Served) -> str:
    """The prompt of a chat completion that was asked for its token ids."""
    tokenizer = served.engine.tokens.preparation.tokenizer
    return tokenizer.decode(answer.prompt_token_ids, False)


TOOL: Any = {"type": "function", "function": FUNCTION}
IDS = {"return_token_ids": True}


def test_chat_completions(openai: OpenAI, gpt_oss: Served) -> None:
    answer = openai.chat.completions.create(model="demo", messages=[ASK], tools=[TOOL])
    (choice,) = answer.choices
    message: Any = choice.message
    assert choice.finish_reason == "tool_calls"
    assert message.reasoning_content == "I need a tool.Now call it."
    assert message.content == "Let me look."
    (call,) = message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    assert answer.usage
    details: Any = answer.usage.completion_tokens_details
    assert details.reasoning_tokens > 5

    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    again = openai.chat.completions.create(
        model="demo", messages=[ASK, message, result], tools=[TOOL], extra_body=IDS
    )
    assert prompt_of(again, gpt_oss).endswith(
        f"{ASK['content']}<|end|><|start|>assistant<|channel|>analysis<|message|>I need a tool."
        "Now call it.<|end|><|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
        '<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{"city": '
        '"Paris"}<|call|><|start|>functions.get_weather to=assistant<|channel|>commentary'
        '<|message|>"rain"<|end|><|start|>assistant'
    )


def test_chat_completions_as_a_stream(openai: OpenAI) -> None:
    chunks = openai.chat.completions.create(model="demo", messages=[ASK], tools=[TOOL], stream=True)
    found: list[tuple[str, str]] = []
    reasons: list[str] = []
    for chunk in chunks:
        (choice,) = chunk.choices
        delta: Any = choice.delta
        for kind, text in (
            ("thought", getattr(delta, "reasoning_content", None)),
            ("text", delta.content),
            *(("call", call.function.arguments) for call in delta.tool_calls or ()),
        ):
            if text:
                _add(found, kind, text)
        reasons += [choice.finish_reason] if choice.finish_reason else []
    assert found == WRITTEN
    assert reasons == ["tool_calls"]


def _add(found: list[tuple[str, str]], kind: str, text: str) -> None:
    if found and found[-1][0] == kind:
        text = found.pop()[1] + text
    found.append((kind, text))


def of_items(items: Any) -> list[tuple[str, str]]:
    """A response's items as kinds and texts."""
    found: list[tuple[str, str]] = []
    for item in items:
        if item.type == "function_call":
            found.append(("call", item.arguments))
        else:
            kind = "thought" if item.type == "reasoning" else "text"
            found.append((kind, "".join(part.text for part in item.content)))
    return found


def test_responses(openai: OpenAI, gpt_oss: Served) -> None:
    tool: Any = {"type": "function", "strict": False, **FUNCTION}
    answer = openai.responses.create(model="demo", input=[ASK], tools=[tool])
    assert of_items(answer.output) == WRITTEN
    with openai.responses.stream(model="demo", input=[ASK], tools=[tool]) as stream:
        kinds = [event.item.type for event in stream if event.type == "response.output_item.done"]
        assert of_items(stream.get_final_response().output) == WRITTEN
    assert kinds == ["reasoning", "message", "reasoning", "function_call"]

    call: Any = answer.output[-1]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
    history: Any = [ASK, *(item.model_dump(exclude_none=True) for item in answer.output), result]
    again = openai.responses.create(model="demo", input=history, tools=[tool])
    assert again.usage
    assert again.usage.input_tokens == _chat_tokens(openai, "I need a tool.\n\nNow call it.")


def _chat_tokens(openai: OpenAI, thought: str) -> int:
    """The prompt tokens of the conversation after the call, as chat completions has it."""
    call = {"id": "a", "type": "function", "function": {"name": "get_weather"}}
    call["function"]["arguments"] = '{"city": "Paris"}'  # type: ignore[index]
    said: Any = {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": thought,
        "tool_calls": [call],
    }
    result: Any = {"role": "tool", "tool_call_id": "a", "content": "rain"}
    answer = openai.chat.completions.create(
        model="demo", messages=[ASK, said, result], tools=[TOOL]
    )
    assert answer.usage
    return answer.usage.prompt_tokens


def of_blocks(blocks: Any) -> list[tuple[str, str]]:
    """A message's blocks as kinds and texts."""
    found: list[tuple[str, str]] = []
    for block in blocks:
        if block.type == "tool_use":
            found.append(("call", json.dumps(block.input)))
        elif block.type == "thinking":
            found.append(("thought", block.thinking))
        else:
            found.append(("text", block.text))
    return found


def test_messages(anthropic: Anthropic, openai: OpenAI) -> None:
    tool: Any = {
        "name": "get_weather",
        "description": "The weather.",
        "input_schema": PARAMETERS,
    }
    asked: Any = {"model": "demo", "max_tokens": 1000, "tools": [tool]}
    answer = anthropic.messages.create(messages=[ASK], **asked)
    assert of_blocks(answer.content) == WRITTEN
    assert answer.stop_reason == "tool_use"
    with anthropic.messages.stream(messages=[ASK], **asked) as stream:
        assert of_blocks(stream.get_final_message().content) == WRITTEN

    use: Any = answer.content[-1]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "rain"}
    said: Any = [block.model_dump(exclude_none=True) for block in answer.content]
    history: Any = [
        ASK,
        {"role": "assistant", "content": said},
        {"role": "user", "content": [result]},
    ]
    counted = anthropic.messages.count_tokens(model="demo", messages=history, tools=[tool])
    assert counted.input_tokens == _chat_tokens(openai, "I need a tool.\n\nNow call it.")


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_the_effort_reaches_the_prompt_from_each_api(
    openai: OpenAI, anthropic: Anthropic, gpt_oss: Served, effort: Any
) -> None:
    chat = openai.chat.completions.create(
        model="demo", messages=[ASK], reasoning_effort=effort, max_tokens=1, extra_body=IDS
    )
    prompt = prompt_of(chat, gpt_oss)
    assert f"Reasoning: {effort}\n" in prompt
    kwargs = {"chat_template_kwargs": {"reasoning_effort": effort}}
    again = openai.chat.completions.create(
        model="demo", messages=[ASK], max_tokens=1, extra_body={**IDS, **kwargs}
    )
    assert prompt_of(again, gpt_oss) == prompt
    response = openai.responses.create(
        model="demo", input=[ASK], reasoning={"effort": effort}, max_output_tokens=16
    )
    counted = anthropic.messages.count_tokens(
        model="demo", messages=[ASK], output_config={"effort": effort}
    )
    assert response.usage
    assert chat.usage
    assert response.usage.input_tokens == counted.input_tokens == chat.usage.prompt_tokens
