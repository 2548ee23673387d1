"""response_format on the native engine with the demo model, as a user gives it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quire import ChatModel
from quire.demo import demo_model_path
from quire.errors import SamplingError, ToolError
from tests.cities import CHOICES, NAMED, check_twenty_of_twenty

HELLO = [{"role": "user", "content": "Hello!"}]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"enum": ["Paris", "Oslo"]},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def model() -> Iterator[ChatModel]:
    with ChatModel({"model_name_or_path": str(demo_model_path()), "vllm_maxlen": 1024}) as made:
        yield made


def schema(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": of}}


def test_a_json_schema_is_obeyed_twenty_times(model: ChatModel) -> None:
    def ask(seed: int) -> dict[str, Any]:
        (answer,) = model.chat(
            [{"role": "user", "content": "Tell me about a person."}],
            seed=seed,
            temperature=1.5,
            max_new_tokens=200,
            response_format=schema(PERSON),
        )
        assert answer.finish_reason == "stop"
        return json.loads(answer.content)

    with ThreadPoolExecutor(8) as pool:
        for person in pool.map(ask, range(20)):
            assert set(person) == {"name", "age", "city"}
            assert len(person["name"]) <= 12
            assert 0 <= person["age"] <= 150
            assert person["city"] in ("Paris", "Oslo")


@pytest.mark.parametrize(
    ("response_format", "right"),
    [
        ({"type": "choice", "choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"type": "regex", "regex": "[0-9]{3}-[0-9]{2}"}, lambda text: text[3] == "-"),
        ({"type": "json_object"}, lambda text: isinstance(json.loads(text), dict)),
        ({"type": "grammar", "grammar": 'root ::= "left" | "right"'}, lambda t: t in ("left", "right")),
        ({"type": "grammar", "grammar": 'start: "left" | "right"'}, lambda t: t in ("left", "right")),
    ],
)  # fmt: skip
def test_every_kind(model: ChatModel, response_format: Any, right: Callable[[str], bool]) -> None:
    question = [{"role": "user", "content": "Give me a JSON object with name Ada and age 36."}]
    (answer,) = model.chat(question, temperature=0, response_format=response_format)
    assert answer.finish_reason == "stop"
    assert right(answer.content), answer.content


def test_white_space_is_at_most_one_space(model: ChatModel) -> None:
    (answer,) = model.chat(HELLO, temperature=0, response_format=schema(PERSON))
    compact = json.dumps(json.loads(answer.content), separators=(",", ":"), ensure_ascii=False)
    assert re.sub(r"([,:]) ", r"\1", answer.content) == compact


SUM = [{"role": "user", "content": "What is 17 + 25?"}]
DIGITS = {"type": "regex", "regex": "[0-9]+"}


def test_a_constraint_begins_after_the_thought(model: ChatModel) -> None:
    (answer,) = model.chat(SUM, temperature=0, response_format=DIGITS)
    assert answer.reasoning
    assert answer.content.isdigit()
    assert answer.usage is not None
    assert answer.usage.reasoning_tokens > 0
    (without,) = model.chat(SUM, temperature=0, enable_thinking=False, response_format=DIGITS)
    assert not without.reasoning
    assert without.content.isdigit()


def test_a_budget_of_tokens_closes_the_thought(model: ChatModel) -> None:
    (whole,) = model.chat(SUM, temperature=0)
    assert whole.usage is not None
    for budget in (0, 3, 10, 1000):
        forms: tuple[dict[str, Any], ...] = ({}, {"response_format": DIGITS})
        for more in forms:
            (answer,) = model.chat(SUM, temperature=0, thinking_budget=budget, **more)
            assert answer.usage is not None
            assert answer.usage.reasoning_tokens <= budget
            assert answer.content.strip()
            assert answer.finish_reason == "stop"
            if budget == 1000 and not more:
                assert answer.parts == whole.parts
    with pytest.raises(SamplingError, match="thinking_budget"):
        model.chat(SUM, thinking_budget=-1)


def test_a_budget_of_the_configuration_holds_where_a_request_gives_none() -> None:
    arguments = {"model_name_or_path": str(demo_model_path()), "vllm_maxlen": 1024}
    with ChatModel({**arguments, "thinking_budget": 3}) as model:
        given: list[tuple[dict[str, Any], int]] = [
            ({}, 3),
            ({"thinking_budget": 2}, 2),
            ({"thinking_budget": None}, 3),
        ]
        for options, most in given:
            (answer,) = model.chat(SUM, temperature=0, **options)
            assert answer.usage is not None
            assert 0 < answer.usage.reasoning_tokens <= most
            assert answer.content.strip()


# --- tools ---------------------------------------------------------------------------------------

PARIS = [{"role": "user", "content": "What is the weather in Paris?"}]
CLOCK = {"name": "get_time", "parameters": {"properties": {"zone": {"enum": ["utc", "local"]}}, "required": ["zone"]}}  # fmt: skip


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_twenty_cities_of_twenty(model: ChatModel, choice: Any) -> None:
    check_twenty_of_twenty(model, WEATHER, tool_choice=choice)


def test_a_forced_call_whatever_is_asked(model: ChatModel) -> None:
    named = {"type": "function", "function": {"name": "get_time"}}
    (answer,) = model.chat(HELLO, tools=[WEATHER, CLOCK], tool_choice=named, temperature=0)
    (call,) = answer.tool_calls
    assert call.name == "get_time"
    assert json.loads(call.arguments)["zone"] in ("utc", "local")
    assert answer.response_text.startswith('<tool_call>\n{"name": "get_time", "arguments": {')


def test_a_forced_call_drops_the_format(model: ChatModel) -> None:
    (answer,) = model.chat(
        PARIS, tools=[WEATHER], tool_choice="required", temperature=0, response_format=DIGITS
    )
    assert [call.name for call in answer.tool_calls] == ["get_weather"]


ADA = [{"role": "user", "content": "Give me a JSON object with name Ada and age 36."}]


def test_a_call_or_an_answer_of_the_format(model: ChatModel) -> None:
    form = schema(PERSON)
    (call,) = model.chat(PARIS, tools=[WEATHER], temperature=0, response_format=form)
    assert (call.finish_reason, call.content) == ("tool_calls", "")
    assert json.loads(call.tool_calls[0].arguments) == {"city": "Paris"}
    (text,) = model.chat(ADA, tools=[WEATHER], temperature=0, response_format=form)
    assert (text.finish_reason, text.tool_calls) == ("stop", ())
    assert json.loads(text.content)["name"] == "Ada"
    none = {"tools": [WEATHER], "tool_choice": "none", "response_format": form}
    (answer,) = model.chat(PARIS, temperature=0, **none)
    assert (answer.finish_reason, answer.tool_calls) == ("stop", ())
    assert set(json.loads(answer.content)) == {"name", "age", "city"}


@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
def test_a_forced_call_that_is_cut_returns_its_part(model: ChatModel, choice: Any) -> None:
    options = {"tools": [WEATHER], "tool_choice": choice, "temperature": 0}
    (whole,) = model.chat(PARIS, **options)
    found: set[str] = set()
    for length in range(1, whole.response_length):
        (answer,) = model.chat(PARIS, max_new_tokens=length, **options)
        assert answer.finish_reason == "length"
        assert not answer.content
        for call in answer.tool_calls:
            assert call.name == "get_weather"
            assert '{"city": "Paris"}'.startswith(call.arguments)
            found.add(call.arguments)
    assert len(found) > 2


@pytest.mark.parametrize(
    "parameters",
    [
        {"type": "object", "properties": {"city": {"type": "string"}}, "not": {"required": ["x"]}},
        {"properties": {"city": {"type": "string", "pattern": "^(?=P)"}}},
        {"type": "object", "properties": {"city": {"type": "string"}, "a": {"$ref": "b.json"}}},
        {
            "properties": {
                "city": {"type": "array", "uniqueItems": True, "items": {"type": "string"}}
            }
        },
        {"$ref": "#"},
        {"type": "string"},
        {"properties": [1]},
    ],
)
def test_a_tool_whose_schema_cannot_be_enforced_is_called_freely(
    model: ChatModel, parameters: Any, caplog: pytest.LogCaptureFixture
) -> None:
    tools = [{**WEATHER, "parameters": parameters}, CLOCK]
    with caplog.at_level("WARNING", "quire"):
        (answer,) = model.chat(PARIS, tools=tools, tool_choice="required", temperature=0)
    assert [call.name for call in answer.tool_calls] == ["get_weather"]
    assert isinstance(json.loads(answer.tool_calls[0].arguments), dict)
    assert "get_weather is called freely" in caplog.text
    (clock,) = model.chat(
        PARIS,
        tools=tools,
        tool_choice={"type": "function", "function": {"name": "get_time"}},
        temperature=0,
    )
    assert json.loads(clock.tool_calls[0].arguments)["zone"] in ("utc", "local")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tool_choice": "required"}, ToolError, "needs tools"),
        ({"tool_choice": NAMED, "tools": [CLOCK]}, SamplingError, "'get_weather', which is none"),
        ({"tool_choice": "sometimes", "tools": [CLOCK]}, SamplingError, "tool_choice must be"),
        (
            {"tool_choice": {"type": "function"}, "tools": [CLOCK]},
            SamplingError,
            "tool_choice must",
        ),
        ({"parallel_tool_calls": "no", "tools": [CLOCK]}, SamplingError, "parallel_tool_calls"),
    ],
)
def test_a_wrong_choice_is_told(
    model: ChatModel, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        model.chat(HELLO, **options)


def test_one_call_where_more_are_not_allowed(model: ChatModel) -> None:
    both = [{"role": "user", "content": "What is the weather in Oslo and in Rome?"}]
    options = {"tools": [WEATHER], "temperature": 0}
    for choice in ("auto", "required"):
        (two,) = model.chat(both, tool_choice=choice, **options)
        assert len(two.tool_calls) == 2
        (one,) = model.chat(both, tool_choice=choice, parallel_tool_calls=False, **options)
        assert one.tool_calls == two.tool_calls[:1]


def test_text_that_reads_like_an_added_token_is_text(model: ChatModel) -> None:
    for text in ("a <think> b", "a <|im_end|> b", "<tool_call>"):
        form = schema({"type": "object", "properties": {"x": {"const": text}}, "required": ["x"]})
        (answer,) = model.chat(HELLO, temperature=0, response_format=form)
        assert (answer.finish_reason, json.loads(answer.content)) == ("stop", {"x": text})


def test_a_stream_is_the_whole_answer_in_parts(model: ChatModel) -> None:
    options = {"seed": 1, "temperature": 1.0, "response_format": schema(PERSON)}
    parts = list(model.stream_chat(HELLO, **options))
    assert len(parts) > 1
    assert "".join(parts) == model.chat(HELLO, **options)[0].content


@pytest.mark.parametrize(
    ("response_format", "words"),
    [
        ({"type": "regex", "regex": "(unclosed"}, "unclosed group"),
        (schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
        (schema({"$ref": "#"}), "nothing finite matches it"),
        (schema({"type": "object", "properties": {"a": {"not": {}}}}), "not cannot be enforced"),
        ({"type": "grammar", "grammar": "start: )"}, "response_format"),
    ],
)
def test_a_constraint_that_cannot_be_compiled_is_its_own_requests_fault(
    model: ChatModel, response_format: Any, words: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(model.chat, HELLO, temperature=0, max_new_tokens=30)
        with pytest.raises(SamplingError, match=words):
            model.chat(HELLO, response_format=response_format)
        assert other.result(60)[0].response_text
