"""What OpenAI's official client does with /v1/responses, whatever engine answers there."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

CITY = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "City name"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": CITY,
    "strict": True,
}
CLOCK: Any = {
    "type": "function",
    "name": "get_time",
    "description": "Get the time",
    "parameters": {"type": "object", "properties": {}, "additionalProperties": False},
    "strict": None,
}


def plain(client: OpenAI, given: Any = "Hello! Who are you?", **options: Any) -> Any:
    """One greedy answer of the bare model, without a thought."""
    settings: Any = {
        "model": "base",
        "temperature": 0,
        "max_output_tokens": 200,
        "reasoning": {"effort": "none"},
        **options,
    }
    return client.responses.create(input=given, **settings)


def a_whole_answer(client: OpenAI) -> None:
    response = plain(client, instructions="You are kind.", metadata={"a": "b"}, user="me")
    assert response.status == "completed"
    assert response.output_text
    assert [item.type for item in response.output] == ["message"]
    assert (response.model, response.instructions) == ("base", "You are kind.")
    assert (response.store, response.metadata) == (False, {"a": "b"})
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert usage.output_tokens_details.reasoning_tokens == 0


def a_stream_is_the_whole_answer(client: OpenAI) -> None:
    whole = plain(client)
    events = list(plain(client, stream=True))
    texts = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert texts  # in one, perhaps: what a slow reader has not taken yet is joined
    assert "".join(texts) == whole.output_text == events[-1].response.output_text
    assert events[0].type == "response.created"
    assert events[0].response.status == "in_progress"
    assert events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def thoughts_are_items(client: OpenAI) -> None:
    response = plain(client, "What is 17 + 25?", reasoning={"effort": "high"})
    thought, message = response.output
    assert (thought.type, message.type) == ("reasoning", "message")
    assert thought.content[0].text
    assert "42" in message.content[0].text
    assert 0 < response.usage.output_tokens_details.reasoning_tokens < response.usage.output_tokens
    with client.responses.stream(
        model="base", temperature=0, input="What is 17 + 25?", reasoning={"effort": "high"}
    ) as stream:
        deltas = [event for event in stream if event.type == "response.reasoning_text.delta"]
        final = stream.get_final_response()
    assert "".join(event.delta for event in deltas) == thought.content[0].text
    assert final.output_text == response.output_text
    # What was answered goes back as it came.
    turns = [{"role": "user", "content": "What is 17 + 25?"}, *response.output]
    again = plain(client, [*turns, {"role": "user", "content": "Hello!"}])
    assert again.status == "completed"


def a_tool_loop_ends_by_itself(client: OpenAI) -> None:
    turns: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    calls: list[str] = []
    response: Any = None
    for _ in range(5):
        response = plain(client, turns, tools=[WEATHER])
        turns += response.output
        called = [item for item in response.output if item.type == "function_call"]
        if not called:
            break
        for item in called:
            calls.append(json.loads(item.arguments)["city"])
            result = json.dumps({"temperature": 21, "sky": "sunny"})
            turns.append(
                {"type": "function_call_output", "call_id": item.call_id, "output": result}
            )
    assert calls == ["Paris"]
    assert "21" in response.output_text
    assert response.output[-1].type == "message"


def instructions_may_come_later(client: OpenAI) -> None:
    turns: list[Any] = [
        {"role": "assistant", "content": "Welcome!"},
        {"role": "user", "content": "What is the weather in Paris?"},
    ]
    called = plain(client, turns, tools=[WEATHER])
    (item,) = called.output
    result = {"type": "function_call_output", "call_id": item.call_id, "output": '{"sky": "sunny"}'}
    said = {"role": "developer", "content": "Be brief."}
    between = plain(client, [*turns, item, said, result], tools=[WEATHER])
    after = plain(client, [*turns, item, result, said], tools=[WEATHER])
    assert between.output == after.output or between.output_text == after.output_text
    assert between.usage.input_tokens == after.usage.input_tokens > called.usage.input_tokens


def calls_stream_as_events(client: OpenAI) -> None:
    question = "What is the weather in Paris and in Rome?"
    events = list(plain(client, question, tools=[WEATHER], stream=True))
    done = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert [json.loads(event.arguments)["city"] for event in done] == ["Paris", "Rome"]
    assert [event.output_index for event in done] == [0, 1]
    items = events[-1].response.output
    assert [item.arguments for item in items] == [event.arguments for event in done]
    assert len({item.call_id for item in items}) == 2
    single = plain(client, question, tools=[WEATHER], parallel_tool_calls=False)
    assert len(single.output) == 1


def tools_are_chosen(client: OpenAI) -> None:
    question = "What is the weather in Paris?"
    tools = [CLOCK, WEATHER]
    none = plain(client, question, tools=tools, tool_choice="none")
    assert [item.type for item in none.output] == ["message"]
    named = plain(
        client, "Hello!", tools=tools, tool_choice={"type": "function", "name": "get_weather"}
    )
    assert [item.name for item in named.output] == ["get_weather"]
    jsonschema.validate(json.loads(named.output[0].arguments), CITY)
    allowed: Any = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "get_weather"}],
    }
    required = plain(client, "Hello!", tools=tools, tool_choice=allowed)
    assert {item.name for item in required.output} == {"get_weather"}


class Person(BaseModel):
    name: str
    age: int


def answers_follow_a_schema(client: OpenAI) -> None:
    response = client.responses.parse(
        model="base",
        temperature=0,
        input="Make an object with the name Ada and the age 36.",
        text_format=Person,
    )
    assert isinstance(response.output_parsed, Person)
    form: Any = {"format": {"type": "json_object"}}
    assert isinstance(json.loads(plain(client, "Give me JSON.", text=form).output_text), dict)


def logprobs_are_of_the_text(client: OpenAI) -> None:
    response = plain(
        client,
        "What is 17 + 25?",
        reasoning={"effort": "high"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
    )
    part = response.output[-1].content[0]
    assert "".join(one.token for one in part.logprobs) == part.text
    assert all(len(one.top_logprobs) == 2 for one in part.logprobs)


def a_long_answer_is_incomplete(client: OpenAI) -> None:
    response = plain(client, max_output_tokens=3)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[-1].status == "incomplete"
    events = list(plain(client, max_output_tokens=3, stream=True))
    assert events[-1].type == "response.incomplete"


def adapters_answer(client: OpenAI) -> None:
    assert plain(client, model="adapter").output_text != plain(client).output_text


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"store": True}, "store"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"truncation": "auto"}, "truncation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [{**WEATHER, "allowed_callers": ["program"]}]}, "tools[0].allowed_callers"),
    ({"include": ["file_search_call.results"]}, "include[0]"),
    ({"text": {"verbosity": "mute"}}, "text.verbosity"),
    ({"temperature": 3}, "temperature"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"extra_body": {"max_token": 3}}, "max_token"),
    ({"extra_body": {"max_output_tokens": "3"}}, "max_output_tokens"),
]
REFUSED_ITEMS: list[tuple[Any, str]] = [
    ([{"type": "item_reference", "id": "msg_1"}], "input[0]"),
    (
        [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}],
        "input[0].content[0]",
    ),
    ([{"role": "tool", "content": "x"}], "input[0].role"),
    ([{"type": "function_call_output", "call_id": "c", "output": "x"}], "input[0].call_id"),
    ([], "input"),
]


def what_is_not_supported_is_refused_by_name(client: OpenAI) -> None:
    given: list[tuple[Any, dict[str, Any], str]] = [("x", *one) for one in REFUSED]
    given += [(items, {}, param) for items, param in REFUSED_ITEMS]
    for value, options, param in given:
        with pytest.raises(openai.BadRequestError) as refused:
            plain(client, value, **options)
        assert refused.value.param == param, refused.value.message
        assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError, match="nothing"):
        plain(client, model="nothing")
    with pytest.raises(openai.BadRequestError, match="no image"):
        image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
        plain(client, [{"role": "user", "content": [image]}])


SCENARIOS = (
    a_whole_answer,
    a_stream_is_the_whole_answer,
    thoughts_are_items,
    a_tool_loop_ends_by_itself,
    instructions_may_come_later,
    calls_stream_as_events,
    tools_are_chosen,
    answers_follow_a_schema,
    logprobs_are_of_the_text,
    a_long_answer_is_incomplete,
    adapters_answer,
    what_is_not_supported_is_refused_by_name,
)
ON_VLLM = (
    a_stream_is_the_whole_answer,
    thoughts_are_items,
    a_tool_loop_ends_by_itself,
    logprobs_are_of_the_text,
    a_long_answer_is_incomplete,
)
