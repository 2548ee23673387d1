"""What a model writes in each shape of calls, through a whole engine: its stop tokens, its parser, HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from anthropic import Anthropic
from openai import OpenAI

from quire.chat import ChatModel
from tests.server.serving import Served, serving
from tests.template.call_shapes import OFFERED, SPEAKING, ask, lesson_of, make_polyglot, wear
from tests.template.real.conversations import ASK
from tests.template.real.reading import Read, as_value, problem

OVER_HTTP = ("actions", "json_in_tags", "parameter_tags", "pythonic", "sections")
GREEDY = {"temperature": 0, "max_tokens": 600}


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatModel]:
    folder = make_polyglot(tmp_path_factory.mktemp("parrot"))
    arguments = {
        "model_name_or_path": str(folder),
        "infer_backend": "native",
        "native_kv_cache_memory": "64MiB",
        "vllm_maxlen": 8192,
    }
    with ChatModel(arguments) as model:
        yield model


@pytest.fixture(scope="module")
def served(parrot: ChatModel) -> Iterator[Served]:
    with serving(parrot) as server:
        yield server


def check(shape: str, read: Read) -> None:
    answer, written = lesson_of(shape)
    assert not problem(answer, written, read), f"from {written.text!r}"


@pytest.mark.parametrize("shape", SPEAKING)
def test_on_the_native_engine(parrot: ChatModel, shape: str) -> None:
    wear(parrot, shape)
    check(shape, ask(parrot))
    *_, last = sums = list(parrot.stream([ASK], tools=OFFERED, temperature=0, max_new_tokens=600))
    assert last.finish_reason == "tool_calls"
    calls = [call for delta in sums for call in delta.tool_calls]
    read = tuple((call.name, as_value(call.arguments)) for call in calls)
    text, thought = (
        "".join(getattr(delta, kind) for delta in sums) for kind in ("content", "reasoning")
    )
    check(shape, Read(text, thought, read, last.finish_reason))


@pytest.mark.parametrize("shape", OVER_HTTP)
def test_for_openais_client(parrot: ChatModel, served: Served, shape: str) -> None:
    wear(parrot, shape)
    with OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        whole = client.chat.completions.create(
            model="demo",
            messages=cast("Any", [ASK]),
            tools=cast("Any", OFFERED),
            **GREEDY,  # type: ignore[call-overload]
        )
        (choice,) = whole.choices
        calls = tuple(
            (call.function.name, as_value(call.function.arguments))
            for call in choice.message.tool_calls or ()
        )
        thought = getattr(choice.message, "reasoning_content", None) or ""
        check(shape, Read(choice.message.content or "", thought, calls, choice.finish_reason))
        check(shape, streamed(client))


def streamed(client: OpenAI) -> Read:
    """The answer's deltas, added up as clients do."""
    text = thought = reason = ""
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    stream = client.chat.completions.create(
        model="demo",
        messages=cast("Any", [ASK]),
        tools=cast("Any", OFFERED),
        stream=True,
        **GREEDY,  # type: ignore[call-overload]
    )
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            reason = choice.finish_reason or reason
            for call in choice.delta.tool_calls or ():
                names[call.index] = names.get(call.index, "") + (call.function.name or "")
                arguments.setdefault(call.index, "")
                arguments[call.index] += call.function.arguments or ""
    calls = tuple((names[index], as_value(arguments[index])) for index in sorted(names))
    return Read(text, thought, calls, reason)


@pytest.mark.parametrize("shape", OVER_HTTP)
def test_for_anthropics_client(parrot: ChatModel, served: Served, shape: str) -> None:
    wear(parrot, shape)
    tools = [
        {
            "name": tool["function"]["name"],
            "description": tool["function"]["description"],
            "input_schema": tool["function"]["parameters"],
        }
        for tool in OFFERED
    ]
    with Anthropic(base_url=served.url, api_key="none", max_retries=0, timeout=60) as client:
        answer = client.messages.create(
            model="demo",
            messages=cast("Any", [ASK]),
            tools=tools,  # type: ignore[arg-type]
            max_tokens=600,
            extra_body={"temperature": 0},
        )
    text = "".join(block.text for block in answer.content if block.type == "text")
    thought = "".join(block.thinking for block in answer.content if block.type == "thinking")
    calls = tuple((block.name, block.input) for block in answer.content if block.type == "tool_use")
    reason = {"tool_use": "tool_calls"}.get(answer.stop_reason or "", "stop")
    check(shape, Read(text, thought, calls, reason))
