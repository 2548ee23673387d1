"""What OpenAI's official client does with a server, whatever engine answers there."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

HELLO: Any = [{"role": "user", "content": "Hello! Who are you?"}]
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": CITY,
    },
}
CLOCK: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Get the time in a city.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"$ref": "#/$defs/zone"}},
            "required": ["zone"],
            "additionalProperties": False,
            "$defs": {"zone": {"enum": ["UTC", "CET"]}},
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def asked(text: str) -> Any:
    return [{"role": "user", "content": text}]


def plain(client: OpenAI, messages: Any = HELLO, **options: Any) -> Any:
    """One greedy answer of the bare model."""
    settings: Any = {"model": "base", "temperature": 0, "max_tokens": 64, **options}
    return client.chat.completions.create(messages=messages, **settings)


def the_stream_adds_up_to_the_whole_answer(client: OpenAI) -> None:
    whole = plain(client)
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].finish_reason == "stop"
    chunks = list(plain(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.model_dump(exclude={"prompt_tokens_details"}) == (
        whole.usage.model_dump(exclude={"prompt_tokens_details"})
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])


def without_include_usage_none_is_sent(client: OpenAI) -> None:
    chunks = list(plain(client, stream=True, max_tokens=3))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"


def several_completions(client: OpenAI) -> None:
    options: Any = {"n": 3, "temperature": 2, "top_p": 1, "seed": 7, "max_tokens": 12}
    options["extra_body"] = {"top_k": 0}
    whole = plain(client, **options)
    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) > 1
    streamed = ["", "", ""]
    for chunk in plain(client, stream=True, **options):
        for choice in chunk.choices:
            streamed[choice.index] += choice.delta.content or ""
    assert streamed == texts
    assert whole.usage.completion_tokens <= 36


def tools_are_called_as_deltas_and_answered(client: OpenAI) -> None:
    """The loop of an agent: it ends by itself."""
    messages = asked("What is the weather in Oslo and in Rome?")
    whole = plain(client, messages, tools=[WEATHER]).choices[0]
    assert whole.finish_reason == "tool_calls"
    calls = whole.message.tool_calls
    assert [json.loads(call.function.arguments)["city"] for call in calls] == ["Oslo", "Rome"]
    assert len({call.id for call in calls}) == 2
    streamed: dict[int, list[str]] = {}
    for chunk in plain(client, messages, tools=[WEATHER], stream=True):
        for delta in chunk.choices[0].delta.tool_calls or []:
            found = streamed.setdefault(delta.index, ["", ""])
            found[0] += delta.function.name or ""
            found[1] += delta.function.arguments or ""
    assert list(streamed.values()) == [[c.function.name, c.function.arguments] for c in calls]
    history = [*messages, whole.message]
    for call in calls:
        city = json.loads(call.function.arguments)["city"]
        result = json.dumps({"city": city, "temperature": 21, "unit": "C", "sky": "sunny"})
        history.append({"role": "tool", "tool_call_id": call.id, "content": result})
    last = plain(client, history, tools=[WEATHER]).choices[0]
    assert last.finish_reason == "stop"
    assert "21" in last.message.content


def messages_in_a_row_are_one_turn(client: OpenAI) -> None:
    sums = plain(client, asked("Hello!") + asked("What is 31 + 47?"))
    assert sums.choices[0].message.content == (
        plain(client, asked("Hello!\n\nWhat is 31 + 47?")).choices[0].message.content
    )
    question = asked("What is the weather in Lisbon?")
    call = plain(client, question, tools=[WEATHER]).choices[0].message
    assert call.tool_calls
    result: Any = {
        "role": "tool",
        "tool_call_id": call.tool_calls[0].id,
        "content": '{"temp": 24, "unit": "C", "sky": "sunny"}',
    }
    told = plain(client, [*question, call, result, *asked("Tell me.")], tools=[WEATHER])
    assert told.choices[0].finish_reason in ("stop", "tool_calls")
    alone = plain(client, [*question, call, result], tools=[WEATHER])
    assert told.usage.prompt_tokens > alone.usage.prompt_tokens


def turns_come_in_any_order(client: OpenAI) -> None:
    """That is the affair of the model's own chat template."""
    greeting: Any = {"role": "assistant", "content": "Welcome!"}
    begun = [greeting, *asked("What is 31 + 47?")]
    first = plain(client, begun)
    assert first.choices[0].finish_reason == "stop"
    assert first.usage.prompt_tokens > plain(client, begun[1:]).usage.prompt_tokens
    later: Any = [*asked("Hello!"), greeting, {"role": "developer", "content": "Be brief."}]
    told = plain(client, [*later, *asked("What is 31 + 47?")])
    assert told.choices[0].finish_reason == "stop"
    assert plain(client, later, max_tokens=4).usage.prompt_tokens < told.usage.prompt_tokens


def one_call_at_a_time(client: OpenAI) -> None:
    messages = asked("What is the weather in Oslo and in Rome?")
    options: Any = {"tools": [WEATHER], "parallel_tool_calls": False}
    (call,) = plain(client, messages, **options).choices[0].message.tool_calls
    assert json.loads(call.function.arguments)["city"] == "Oslo"


def tool_choice_none_offers_none(client: OpenAI) -> None:
    choice = plain(client, asked("Weather in Oslo?"), tools=[WEATHER], tool_choice="none")
    assert choice.choices[0].message.tool_calls is None


def a_named_tool_is_called_whatever_is_asked(client: OpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    options: Any = {"tools": [CLOCK, WEATHER], "tool_choice": named}
    choice = plain(client, **options).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, choice.finish_reason) == ("get_weather", "tool_calls")
    jsonschema.validate(json.loads(call.function.arguments), CITY)
    assert not choice.message.content


def a_required_tool_is_called(client: OpenAI) -> None:
    options: Any = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 200}
    options["parallel_tool_calls"] = False
    schemas = {
        tool["function"]["name"]: tool["function"]["parameters"] for tool in (WEATHER, CLOCK)
    }
    whole = plain(client, **options).choices[0]
    (call,) = whole.message.tool_calls
    jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])
    chunks = list(plain(client, stream=True, **options))
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    assert deltas[0].function.arguments == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def thoughts_are_apart(client: OpenAI) -> None:
    messages = asked("What is 17 + 25?")
    answer = plain(client, messages)
    whole = answer.choices[0].message
    assert whole.reasoning_content
    assert "42" in whole.content
    details = answer.usage.completion_tokens_details
    assert 0 < details.reasoning_tokens < answer.usage.completion_tokens
    usage = {"include_usage": True}
    *chunks, last = plain(client, messages, stream=True, stream_options=usage)
    assert last.usage.completion_tokens_details == details
    deltas = [chunk.choices[0].delta for chunk in chunks]
    thought = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert thought == whole.reasoning_content
    for off in (
        {"reasoning_effort": "none"},
        {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}},
        {"extra_body": {"enable_thinking": False}},
    ):
        message = plain(client, messages, **off).choices[0].message
        assert not hasattr(message, "reasoning_content")


def spelt(tokens: Any) -> str:
    return b"".join(bytes(token.bytes) for token in tokens).decode()


def logprobs_add_up(client: OpenAI) -> None:
    options: Any = {"logprobs": True, "top_logprobs": 3}
    whole = plain(client, **options).choices[0]
    tokens = whole.logprobs.content
    assert spelt(tokens) == whole.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.top_logprobs[0].token == token.token  # greedy
        assert token.top_logprobs[0].logprob == pytest.approx(token.logprob, abs=1e-5)
    streamed = [
        token.token
        for chunk in plain(client, stream=True, **options)
        for token in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else [])
    ]
    assert streamed == [token.token for token in tokens]
    thinking = plain(client, asked("What is 17 + 25?"), **options).choices[0]
    assert spelt(thinking.logprobs.content) == thinking.message.content
    thought = thinking.logprobs.reasoning_content
    written = "".join(token["token"] for token in thought)
    assert written.strip() == thinking.message.reasoning_content.strip()
    calling = plain(client, asked("What is the weather in Oslo?"), tools=[WEATHER], **options)
    assert calling.choices[0].message.tool_calls
    assert calling.choices[0].logprobs.content == []


def seeds_stops_and_limits(client: OpenAI) -> None:
    options: Any = {"temperature": 1.5, "seed": 11, "max_tokens": 20}
    first, second = (plain(client, **options).choices[0].message.content for _ in range(2))
    assert first == second
    whole = plain(client).choices[0].message.content
    stop = whole.split()[3]
    stopped = plain(client, stop=[stop, "never at all"]).choices[0]
    assert stopped.message.content == whole[: whole.index(stop)]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    short = plain(client, max_tokens=None, max_completion_tokens=4)
    assert (short.usage.completion_tokens, short.choices[0].finish_reason) == (4, "length")


def vllms_fields_of_prompts_and_stops(client: OpenAI) -> None:
    whole = plain(client).choices[0].message.content
    stop = whole.split()[3]
    kept = plain(client, stop=[stop], extra_body={"include_stop_str_in_output": True})
    assert kept.choices[0].message.content == whole[: whole.index(stop)] + stop
    cut = plain(
        client, max_tokens=2, extra_body={"truncate_prompt_tokens": 5, "return_token_ids": True}
    )
    assert len(cut.prompt_token_ids) == cut.usage.prompt_tokens == 5


def biases_and_penalties(client: OpenAI) -> None:
    entry = plain(client, max_tokens=1, logprobs=True).choices[0].logprobs.content[0].token
    completion = client.completions.create(model="base", prompt="x", echo=True, max_tokens=1)
    assert completion.choices[0].text.startswith("x")
    token_id = 7
    biased = plain(client, max_tokens=3, logit_bias={str(token_id): 100}, logprobs=True)
    tokens = {token.token for token in biased.choices[0].logprobs.content}
    assert len(tokens) == 1
    assert tokens != {entry}
    punished = plain(
        client, max_tokens=3, logit_bias={str(token_id): 3}, frequency_penalty=2, presence_penalty=2
    )
    assert punished.choices[0].message.content


def json_is_json(client: OpenAI) -> None:
    question = asked("Give me a JSON object with name Ada and age 36.")
    free = plain(client, question, response_format={"type": "json_object"})
    assert json.loads(free.choices[0].message.content)
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "person", "schema": PERSON, "strict": True},
    }
    bound = plain(client, HELLO, response_format=form, max_tokens=100)
    jsonschema.validate(json.loads(bound.choices[0].message.content), PERSON)
    plain(client, response_format={"type": "text"}, max_tokens=2)


def salts_share_no_prefix(client: OpenAI) -> None:
    """Nobody learns from the time to the first word what others asked."""
    cached = [
        plain(
            client,
            asked("Of the salted cache " * 20),
            max_tokens=1,
            extra_body={"cache_salt": salt},
        ).usage.prompt_tokens_details.cached_tokens
        for salt in ("mine", "yours", "mine", "yours")
    ]
    assert cached[:2] == [0, 0]
    assert min(cached[2:]) > 0


def adapters_are_models(client: OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) >= {"demo", "base"}
    adapters = [name for name in models if name not in ("demo", "base")]
    assert len(adapters) == 2
    answers = {name: plain(client, model=name).choices[0].message.content for name in models}
    assert answers["demo"] == answers[adapters[0]]  # the first is the default
    assert len(set(answers.values())) == 3
    assert client.models.retrieve(adapters[0]).id == adapters[0]
    with pytest.raises(NotFoundError) as found:
        plain(client, model="gpt-4")
    assert found.value.code == "model_not_found"
    assert found.value.param == "model"


def completions_of_texts_and_tokens(client: OpenAI) -> None:
    settings: Any = {"model": "base", "temperature": 0, "max_tokens": 6}
    one = client.completions.create(prompt="Hello", **settings)
    both = client.completions.create(prompt=["Hello", "The cache"], **settings)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[0].text == one.choices[0].text
    chunks = list(client.completions.create(prompt=["Hello", "The cache"], stream=True, **settings))
    streamed = ["", ""]
    for chunk in chunks:
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in both.choices]
    echoed = client.completions.create(prompt="Hello", echo=True, logprobs=2, **settings)
    choice = echoed.choices[0]
    assert choice.text == "Hello" + one.choices[0].text
    logprobs = choice.logprobs
    assert logprobs.token_logprobs[0] is None
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        assert choice.text[offset:].startswith(token) or token.startswith("<")
    only: Any = {**settings, "max_tokens": 0}
    scored = client.completions.create(prompt="Hello there", echo=True, logprobs=0, **only)
    assert scored.choices[0].text == "Hello there"
    assert len(scored.choices[0].logprobs.tokens) == scored.usage.prompt_tokens
    assert scored.usage.completion_tokens == 0


def what_is_wrong_is_told_by_name(client: OpenAI) -> None:
    for options, param, words in (
        ({"extra_body": {"temprature": 1}}, "temprature", "did you mean 'temperature'"),
        ({"extra_body": {"functions": [{"name": "f"}]}}, "functions", "tools"),
        ({"temperature": 3}, "temperature", "temperature must be between 0 and 2"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs"),
        ({"n": 0}, "n", "n must be at least 1"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"extra_body": {"messages": [{"role": "king", "content": ""}]}}, "messages[0]", "known"),
    ):
        with pytest.raises(BadRequestError, match=words) as found:
            plain(client, **options)
        assert found.value.param == param
        assert found.value.type == "invalid_request_error"
    with pytest.raises(BadRequestError) as found:
        plain(client, asked("word " * 5000))
    assert found.value.code == "context_length_exceeded"
    with pytest.raises(BadRequestError, match="text alone"):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
        plain(client, [{"role": "user", "content": [{"type": "text", "text": "See"}, image]}])


SCENARIOS = (
    the_stream_adds_up_to_the_whole_answer,
    without_include_usage_none_is_sent,
    several_completions,
    tools_are_called_as_deltas_and_answered,
    messages_in_a_row_are_one_turn,
    turns_come_in_any_order,
    one_call_at_a_time,
    tool_choice_none_offers_none,
    a_named_tool_is_called_whatever_is_asked,
    a_required_tool_is_called,
    thoughts_are_apart,
    logprobs_add_up,
    seeds_stops_and_limits,
    vllms_fields_of_prompts_and_stops,
    biases_and_penalties,
    json_is_json,
    salts_share_no_prefix,
    adapters_are_models,
    completions_of_texts_and_tokens,
    what_is_wrong_is_told_by_name,
)
