"""OpenAI's Agents SDK drives its own loop: calls of tools, hand-overs, streams, typed answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    function_tool,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel, ConfigDict

from tests.server.serving import Served

APIS = {"chat": OpenAIChatCompletionsModel, "responses": OpenAIResponsesModel}
SETTINGS = ModelSettings(temperature=0, max_tokens=200, reasoning=Reasoning(effort="none"))
QUIET = RunConfig(tracing_disabled=True)  # traces go to OpenAI
QUESTION = "What is the weather in Oslo and in Rome?"

asked_for: list[str] = []


@function_tool
async def get_weather(city: str) -> str:  # one that is no coroutine runs in a thread, beside others
    """Get the current weather for a city."""
    asked_for.append(city)
    return json.dumps({"city": city, "temperature": 21, "unit": "C", "sky": "sunny"})


class Person(BaseModel):
    """A closed form, as strict schemas want it."""

    model_config = ConfigDict(extra="forbid")
    name: str
    age: int


@pytest.fixture(autouse=True)
def no_calls_yet() -> None:
    asked_for.clear()


@pytest.fixture(params=["native", pytest.param("vllm", marks=pytest.mark.vllm)])
def url(request: pytest.FixtureRequest) -> str:
    fixture = "served" if request.param == "native" else "on_vllm"
    return cast(Served, request.getfixturevalue(fixture)).url


@pytest.fixture
def loop() -> Iterator[asyncio.Runner]:
    """One for a test: connections live in the loop that made them."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=list(APIS))
def model(url: str, loop: asyncio.Runner, request: pytest.FixtureRequest) -> Iterator[Model]:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60)
    yield APIS[request.param](model="base", openai_client=client)
    loop.run(client.close())


def agent(model: Model, **options: Any) -> Agent[None]:
    return Agent(name="guide", model=model, model_settings=SETTINGS, **options)


Run = Callable[[Agent[None], Any], RunResult]


@pytest.fixture
def run(loop: asyncio.Runner) -> Run:
    return lambda agent, given: loop.run(Runner.run(agent, given, run_config=QUIET, max_turns=6))


def test_the_loop_ends_by_itself(model: Model, run: Run) -> None:
    guide = agent(model, tools=[get_weather], instructions="You tell the weather.")
    first = run(guide, QUESTION)
    assert asked_for == ["Oslo", "Rome"]
    assert "21" in first.final_output
    assert len(first.raw_responses) == 2
    usage = first.context_wrapper.usage
    assert usage.requests == 2
    assert usage.input_tokens > usage.output_tokens > 0
    again = [*first.to_input_list(), {"role": "user", "content": "What is the weather in Paris?"}]
    assert "21" in run(guide, again).final_output
    assert asked_for == ["Oslo", "Rome", "Paris"]


def test_a_streamed_loop_is_the_whole_one(model: Model, run: Run, loop: asyncio.Runner) -> None:
    guide = agent(model, tools=[get_weather])
    whole = run(guide, QUESTION)

    async def read() -> tuple[str, list[str], Any]:
        result = Runner.run_streamed(guide, QUESTION, run_config=QUIET, max_turns=6)
        text, items = "", []
        async for event in result.stream_events():
            if event.type == "raw_response_event":
                if event.data.type == "response.output_text.delta":
                    text += event.data.delta
            elif event.type == "run_item_stream_event":
                items.append(event.name)
        return text, items, result.final_output

    text, items, final = loop.run(read())
    assert asked_for == ["Oslo", "Rome"] * 2
    assert final == whole.final_output
    assert text.endswith(final)
    assert items.count("tool_called") == items.count("tool_output") == 2
    assert items[-1] == "message_output_created"


def test_one_agent_hands_over_to_another(model: Model, run: Run) -> None:
    must = SETTINGS.resolve(ModelSettings(tool_choice="required", parallel_tool_calls=False))
    weather = Agent(name="forecaster", model=model, model_settings=must, tools=[get_weather])
    front = Agent(name="front", model=model, model_settings=must, handoffs=[weather])
    result = run(front, "What is the weather in Lisbon?")
    assert result.last_agent is weather
    assert len(asked_for) == 1  # what it asks for, where it must ask, was never trained
    assert "21" in result.final_output


def test_typed_answers(model: Model, run: Run) -> None:
    found = run(agent(model, output_type=Person), "Who are you?").final_output
    assert isinstance(found, Person)


def test_a_tool_of_ones_own_choice(model: Model, run: Run) -> None:
    named = SETTINGS.resolve(ModelSettings(tool_choice="get_weather", parallel_tool_calls=False))
    guide = Agent(name="guide", model=model, model_settings=named, tools=[get_weather])
    result = run(guide, "Hello!")
    assert len(asked_for) == 1  # the SDK lets the model choose after the first
    assert result.final_output
