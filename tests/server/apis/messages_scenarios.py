"""What Anthropic's official client does with /v1/messages, whatever engine answers there."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import jsonschema
import pytest
from anthropic import Anthropic

CITY: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "City name"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "name": "get_weather",
    "description": "Get the weather in a city",
    "input_schema": CITY,
}
CLOCK: Any = {"name": "get_time", "input_schema": {"type": "object", "properties": {}}}


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


HELLO = asked("Hello! Who are you?")


def settings(options: dict[str, Any]) -> Any:
    """Greedy, of the bare model, without a thought; fields that the client does not know go along."""
    body = {"temperature": 0, **options.pop("extra_body", {})}
    given = {"model": "base", "max_tokens": 200, "thinking": {"type": "disabled"}, **options}
    return {**given, "extra_body": body}


def plain(client: Anthropic, messages: Any = HELLO, **options: Any) -> Any:
    return client.messages.create(messages=messages, **settings(options))


def a_whole_answer(client: Anthropic) -> None:
    message = plain(client, metadata={"user_id": "me"}, service_tier="auto")
    assert (message.role, message.model, message.stop_reason) == ("assistant", "base", "end_turn")
    assert [block.type for block in message.content] == ["text"]
    assert message.content[0].text
    assert message.usage.output_tokens > 3


def a_stream_is_the_whole_answer(client: Anthropic) -> None:
    whole = plain(client)
    with client.messages.stream(messages=HELLO, **settings({})) as stream:
        counted = stream.current_message_snapshot.usage.input_tokens if next(stream) else 0
        texts = list(stream.text_stream)
        final: Any = stream.get_final_message()
    usage = final.usage
    assert counted == usage.input_tokens + (usage.cache_read_input_tokens or 0) > 10
    assert texts  # in one, perhaps: what a slow reader has not taken yet is joined
    assert "".join(texts) == whole.content[0].text == final.content[0].text
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens == whole.usage.output_tokens
    read = (final.usage, whole.usage)
    totals = [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in read]
    assert totals[0] == totals[1] > 0


def tokens_are_counted(client: Anthropic) -> None:
    options: Any = {"system": "You are kind.", "tools": [WEATHER]}
    usage = plain(client, max_tokens=1, **options).usage
    counted = client.messages.count_tokens(
        model="base", messages=HELLO, thinking={"type": "disabled"}, **options
    )
    assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def system_is_text_or_blocks(client: Anthropic) -> None:
    def count(**options: Any) -> int:
        return client.messages.count_tokens(model="base", messages=HELLO, **options).input_tokens

    block = {"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}}
    assert count(system=[block]) == count(system="You are kind.") > count()


def system_turns_may_come_later(client: Anthropic) -> None:
    later = [*HELLO, {"role": "system", "content": "Be kind."}]
    first = plain(client)
    assert plain(client, later).usage.input_tokens > first.usage.input_tokens
    greeted = [{"role": "assistant", "content": "Welcome!"}, *HELLO]
    assert plain(client, greeted).stop_reason == "end_turn"


def thoughts_are_blocks(client: Anthropic) -> None:
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    question = asked("What is 17 + 25?")
    message = plain(client, question, thinking=thinking)
    thought, answer = message.content
    assert (thought.type, answer.type) == ("thinking", "text")
    assert thought.thinking
    assert "42" in answer.text
    assert message.usage.output_tokens_details.thinking_tokens > 0
    with client.messages.stream(messages=question, **settings({"thinking": thinking})) as stream:
        final: Any = stream.get_final_message()
    assert (final.content[0].thinking, final.content[1].text) == (thought.thinking, answer.text)
    omitted = plain(client, question, thinking={**thinking, "display": "omitted"})
    assert omitted.content[0].thinking == ""
    assert omitted.content[1].text == answer.text
    again = [*question, {"role": "assistant", "content": message.content}, *asked("Hello!")]
    assert plain(client, again).stop_reason == "end_turn"


def a_tool_loop_ends_by_itself(client: Anthropic) -> None:
    messages = asked("What is the weather in Paris?")
    cities: list[str] = []
    message: Any = None
    for _ in range(5):
        message = plain(client, messages, tools=[WEATHER])
        messages.append({"role": "assistant", "content": message.content})
        if message.stop_reason != "tool_use":
            break
        results: list[Any] = []
        for block in message.content:
            if block.type == "tool_use":
                cities.append(block.input["city"])
                text = json.dumps({"temperature": 21, "sky": "sunny"})
                content = [{"type": "text", "text": text}]
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": content})
        messages.append({"role": "user", "content": results})
    assert cities == ["Paris"]
    assert message.stop_reason == "end_turn"
    assert "21" in message.content[-1].text


def calls_stream_as_blocks(client: Anthropic) -> None:
    question = asked("What is the weather in Paris and in Rome?")
    whole = plain(client, question, tools=[WEATHER])
    assert [block.input for block in whole.content] == [{"city": "Paris"}, {"city": "Rome"}]
    with client.messages.stream(messages=question, **settings({"tools": [WEATHER]})) as stream:
        kinds = [event.type for event in stream]
        final: Any = stream.get_final_message()
    assert "input_json" in kinds
    assert [block.input for block in final.content] == [block.input for block in whole.content]
    assert len({block.id for block in final.content}) == 2
    one: Any = {"type": "auto", "disable_parallel_tool_use": True}
    assert len(plain(client, question, tools=[WEATHER], tool_choice=one).content) == 1


def tools_are_chosen(client: Anthropic) -> None:
    tools = [CLOCK, WEATHER]
    none = plain(client, asked("Weather in Paris?"), tools=tools, tool_choice={"type": "none"})
    assert [block.type for block in none.content] == ["text"]
    named = plain(client, tools=tools, tool_choice={"type": "tool", "name": "get_weather"})
    assert [block.name for block in named.content] == ["get_weather"]
    jsonschema.validate(named.content[0].input, CITY)
    assert named.stop_reason == "tool_use"
    required: Any = {"type": "any", "disable_parallel_tool_use": True}
    some = plain(client, tools=tools, tool_choice=required)
    assert [block.type for block in some.content] == ["tool_use"]


def stop_sequences_and_limits(client: Anthropic) -> None:
    text = plain(client).content[0].text
    word = text.split()[3]
    stopped = plain(client, stop_sequences=["never there", word])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)
    assert stopped.content[0].text == text[: text.index(word)]
    cut = plain(client, max_tokens=3)
    assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 3)


def answers_follow_a_schema(client: Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    config: Any = {"format": {"type": "json_schema", "schema": schema}}
    message = plain(client, asked("Give me a person as JSON."), output_config=config)
    jsonschema.validate(json.loads(message.content[0].text), schema)


def adapters_answer(client: Anthropic) -> None:
    assert plain(client, model="adapter").content[0].text != plain(client).content[0].text


def turn(role: str, *blocks: Any) -> Any:
    return [{"role": role, "content": list(blocks)}]


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (HELLO, {"extra_body": {"container": "c"}}, "container"),
    (HELLO, {"extra_body": {"mcp_servers": [{"type": "url"}]}}, "mcp_servers"),
    (HELLO, {"tools": [{"type": "web_search_20250305", "name": "w"}]}, "web_search_20250305"),
    (HELLO, {"thinking": {"type": "enabled"}}, "budget_tokens"),
    (HELLO, {"output_config": {"task_budget": {"total": 9}}}, "output_config.task_budget"),
    (HELLO, {"tool_choice": {"type": "tool"}}, "tool_choice"),
    (HELLO, {"extra_body": {"temperature": 2}}, "temperature"),
    (HELLO, {"max_tokens": 0}, "max_tokens"),
    (turn("user", {"type": "container_upload", "file_id": "f"}), {}, "container_upload"),
    (
        turn("user", {"type": "image", "source": {"type": "file", "file_id": "f"}}),
        {},
        "messages[0].content[0].source",
    ),
    (
        turn("user", {"type": "tool_result", "tool_use_id": "t", "content": "x"}),
        {},
        "'t'",
    ),
    ([*HELLO, *turn("assistant", {"type": "compaction", "content": "x"})], {}, "compaction"),
    ([], {}, "messages"),
]


def what_is_not_supported_is_refused_by_name(client: Anthropic) -> None:
    for messages, options, named in REFUSED:
        with pytest.raises(anthropic.BadRequestError) as refused:
            plain(client, messages, **options)
        body: Any = refused.value.body
        assert body["type"] == "error"
        assert body["error"]["type"] == "invalid_request_error"
        assert named in body["error"]["message"]
    with pytest.raises(anthropic.NotFoundError) as missing:
        plain(client, model="nothing")
    found: Any = missing.value.body
    assert found["error"]["type"] == "not_found_error"
    image = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    with pytest.raises(anthropic.BadRequestError, match="no image"):
        plain(client, turn("user", {"type": "image", "source": image}))


SCENARIOS = (
    a_whole_answer,
    a_stream_is_the_whole_answer,
    tokens_are_counted,
    system_is_text_or_blocks,
    system_turns_may_come_later,
    thoughts_are_blocks,
    a_tool_loop_ends_by_itself,
    calls_stream_as_blocks,
    tools_are_chosen,
    stop_sequences_and_limits,
    answers_follow_a_schema,
    adapters_answer,
    what_is_not_supported_is_refused_by_name,
)
ON_VLLM = (
    a_stream_is_the_whole_answer,
    tokens_are_counted,
    a_tool_loop_ends_by_itself,
    stop_sequences_and_limits,
)
