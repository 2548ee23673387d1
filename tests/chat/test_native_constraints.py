"""response_format on the native engine with the demo model, as a user gives it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from quire import ChatModel
from quire.demo import demo_model_path
from quire.errors import SamplingError, UnsupportedOptionError

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


def test_there_is_no_free_white_space(model: ChatModel) -> None:
    (answer,) = model.chat(HELLO, temperature=0, response_format=schema(PERSON))
    assert answer.content == json.dumps(json.loads(answer.content), separators=(",", ":"), ensure_ascii=False)  # fmt: skip


def test_constraints_and_thoughts_exclude_each_other(model: ChatModel) -> None:
    with pytest.raises(UnsupportedOptionError, match="enable_thinking"):
        model.chat(HELLO, enable_thinking=True, response_format={"type": "json_object"})
    question = [{"role": "user", "content": "What is 17 + 25?"}]
    (answer,) = model.chat(
        question, temperature=0, response_format={"type": "regex", "regex": "[0-9]+"}
    )
    assert not answer.reasoning
    assert answer.content.isdigit()


def test_a_constraint_comes_before_tools(model: ChatModel) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    (free,) = model.chat(question, tools=[WEATHER], temperature=0)
    assert free.finish_reason == "tool_calls"
    (answer,) = model.chat(
        question, tools=[WEATHER], temperature=0, response_format={"type": "choice", "choice": ["sun", "rain"]}
    )  # fmt: skip
    assert (answer.finish_reason, answer.tool_calls) == ("stop", ())
    assert answer.content in ("sun", "rain")


def test_a_stream_is_the_whole_answer_in_parts(model: ChatModel) -> None:
    options = {"seed": 1, "temperature": 1.0, "response_format": schema(PERSON)}
    parts = list(model.stream_chat(HELLO, **options))
    assert len(parts) > 3
    assert "".join(parts) == model.chat(HELLO, **options)[0].content


@pytest.mark.parametrize(
    ("response_format", "words"),
    [
        ({"type": "regex", "regex": "(unclosed"}, "unclosed group"),
        (schema({"type": "string", "minLength": 5, "maxLength": 2}), "Unsatisfiable"),
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
