"""The chat API: request bodies in OpenAI's form, and answers read into parts."""

from typing import Any

import pytest

from quire.engines.remote.chat_engine import ChatReader, chat_body, openai_messages
from quire.errors import GenerationError
from quire.messages import ToolCall, read_conversation
from quire.outputs import Delta, TextPart, Usage
from quire.sampling import SamplingParams

TOOL = {"name": "weather", "description": "", "parameters": {"type": "object"}}


def test_messages_keep_their_order_and_calls_get_ids() -> None:
    conversation = read_conversation(
        [
            {"role": "user", "content": "Paris and Rome?"},
            {
                "role": "assistant",
                "content": "",
                "reasoning_content": "Two calls.",
                "tool_calls": [
                    {"function": {"name": "weather", "arguments": {"city": "Paris"}}},
                    {"id": "own", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                ],
            },
            {"role": "tool", "content": "rain"},
            {"role": "tool", "content": "sun"},
        ],
        system="Be brief.",
    )
    system, user, call, rain, sun = openai_messages(conversation)
    assert system == {"role": "system", "content": "Be brief."}
    assert user == {"role": "user", "content": "Paris and Rome?"}
    first, second = call["tool_calls"]
    assert call["content"] is None
    assert call["reasoning_content"] == "Two calls."
    assert first["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert second["id"] == "own"
    assert (rain["tool_call_id"], sun["tool_call_id"]) == (first["id"], "own")
    assert first["id"] not in ("", "own")


def test_tools_and_template_variables_are_sent() -> None:
    conversation = read_conversation([{"role": "user", "content": "Hi"}], None, [TOOL])
    body = chat_body(
        conversation,
        SamplingParams(max_tokens=1),
        {},
        "m",
        template_variables={"enable_thinking": False},
    )
    assert body["tools"] == [{"type": "function", "function": TOOL}]
    assert body["tool_choice"] == "auto"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("chosen", "fields"),
    [
        ({}, {}),
        (
            {"continue_final_message": True},
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ({"add_generation_prompt": False}, {"add_generation_prompt": False}),
        ({"add_generation_prompt": True}, {}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"documents": [{"text": "a"}]}, {"documents": [{"text": "a"}]}),
    ],
)
def test_how_the_prompt_is_written_is_sent(chosen: dict[str, Any], fields: dict[str, Any]) -> None:
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"}]
    conversation = read_conversation(said, may_end_with_answer=True)
    body = chat_body(conversation, SamplingParams(max_tokens=1), chosen, "m", template_variables={})
    names = {*fields, "continue_final_message", "add_generation_prompt", "documents"}
    names |= {"reasoning_effort"}
    assert {name: body[name] for name in names if name in body} == fields
    assert body["messages"] == said


def event(
    index: int = 0, finish: str | None = None, ids: Any = None, **delta: Any
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish, "token_ids": ids}
    return {"choices": [choice]}


def read(reader: ChatReader, *events: dict[str, Any]) -> list[Delta]:
    deltas = [delta for one in events for delta in reader.add(one)]
    return deltas + reader.flush()


def test_thought_content_and_calls_become_parts() -> None:
    def call(
        index: int, arguments: str, name: str | None = None, identity: str | None = None
    ) -> Any:
        return [
            {"index": index, "id": identity, "function": {"name": name, "arguments": arguments}}
        ]

    deltas = read(
        ChatReader(SamplingParams(max_tokens=9)),
        event(role="assistant", content=""),
        event(reasoning="Let me ", ids=[1]),
        event(reasoning_content="look.", ids=[2]),
        event(content="Wait.", ids=[3]),
        event(tool_calls=call(0, "", "weather", "c0"), ids=[4]),
        event(tool_calls=call(0, '{"city": '), ids=[5]),
        event(tool_calls=call(0, '"Paris"}'), ids=[6]),
        event(tool_calls=call(1, "{}", "time", "c1"), ids=[7]),
        event(finish="stop", ids=[8]),
        {
            "choices": [],
            "usage": {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}},
        },
    )
    assert "".join(delta.reasoning for delta in deltas) == "Let me look."
    assert "".join(delta.content for delta in deltas) == "Wait."
    assert [token for delta in deltas for token in delta.token_ids] == [1, 2, 3, 4, 5, 6, 7, 8]
    last = deltas[-1]
    assert last.tool_calls == (
        ToolCall("weather", '{"city": "Paris"}', "c0"),
        ToolCall("time", "{}", "c1"),
    )
    assert (last.finish_reason, last.usage) == ("tool_calls", Usage(5, 8, 4))


def test_text_after_calls_follows_them() -> None:
    """The start of another call does not complete one: their fragments may be interleaved."""

    def call(index: int, arguments: str, name: str | None = None) -> Any:
        return [{"index": index, "function": {"name": name, "arguments": arguments}}]

    deltas = read(
        ChatReader(SamplingParams(max_tokens=9)),
        event(content="a"),
        event(tool_calls=call(0, "{", "f")),
        event(tool_calls=call(1, "{", "g")),
        event(tool_calls=call(0, "}")),
        event(tool_calls=call(1, "}")),
        event(content="b"),
        event(tool_calls=call(2, "{}", "h")),
        event(finish="stop"),
        {"choices": [], "usage": {"completion_tokens_details": {"reasoning_tokens": 3}}},
    )
    parts = [part for delta in deltas for part in delta.all_parts()]
    f, g, h = (ToolCall(name, "{}") for name in "fgh")
    assert parts == [TextPart("a"), f, g, TextPart("b"), h]
    assert deltas[-1].finish_reason == "tool_calls"
    assert deltas[-1].usage == Usage(0, 0, 0, 3)


def test_deltas_carry_the_index_of_their_completion() -> None:
    deltas = read(
        ChatReader(SamplingParams(max_tokens=9, n=2)),
        event(1, content="b", ids=[1]),
        event(0, content="a", ids=[2, 3]),
        event(1, "length", [4], content="B"),
        event(0, "stop", [5], content="A"),
    )
    texts = {
        index: "".join(delta.content for delta in deltas if delta.index == index)
        for index in (0, 1)
    }
    assert texts == {0: "aA", 1: "bB"}
    ends = {delta.index: delta for delta in deltas if delta.finish_reason}
    assert (ends[0].finish_reason, ends[1].finish_reason) == ("stop", "length")
    assert [ends[index].usage.completion_tokens for index in (0, 1)] == [3, 2]  # type: ignore[union-attr]


def test_usage_without_token_ids_comes_from_the_server() -> None:
    deltas = read(
        ChatReader(SamplingParams(max_tokens=9)),
        event(content="a"),
        event(finish="stop"),
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}},
    )
    assert deltas[-1].usage == Usage(5, 2)


@pytest.mark.parametrize(
    "strange",
    [
        {},
        {"choices": 3},
        {"choices": [{"index": 4, "delta": {}}]},
        {"choices": [{"index": 0, "delta": "text"}]},
        {"choices": [{"index": 0, "delta": {"tool_calls": [3]}}]},
        {"choices": [{"index": 0, "delta": {}, "token_ids": ["x"]}]},
    ],
)
def test_malformed_answer_is_refused(strange: dict[str, Any]) -> None:
    with pytest.raises(GenerationError, match="form"):
        ChatReader(SamplingParams(max_tokens=9)).add(strange)


def test_logprobs_without_token_ids_are_refused() -> None:
    content = [{"token": "Hello", "logprob": -0.1, "top_logprobs": []}]
    choice = {"index": 0, "delta": {"content": "Hello"}, "logprobs": {"content": content}}
    with pytest.raises(GenerationError, match="logprobs"):
        ChatReader(SamplingParams(max_tokens=9, logprobs=1)).add({"choices": [choice]})
