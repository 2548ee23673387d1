"""Each framework at its own work. `python python_frameworks.py NAME ADDRESS`, in that framework's environment.

Prints one JSON line for each thing that was tried. What is asked is what the demo model can do; what a
framework writes around it may take a typed answer's meaning away, so that its form alone is looked at there.
"""

# Frameworks are imported where they are used: each lies in an environment of its own.
# ruff: noqa: B023 (what is attempted is done at once, not in the loop's next round)
from __future__ import annotations

import asyncio
import json
import sys
import warnings
from collections.abc import Callable

from pydantic import BaseModel

SUM = "What is 2 plus 3?"
WHAT = "What is quire?"
WEATHER = "What is the weather in Oslo?"
ANNA = "Anna is 31 years old. Extract name and age as JSON."


class Person(BaseModel):
    """A typed answer."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """Get the current weather for a city.

    Args:
        city: The city.
    """
    return "21 degrees and sunny"


def attempt(what: str, expected: str, action: Callable[[], object]) -> None:
    """Print whether something happened as it should."""
    wrong = ""
    try:
        said = str(action())
        if expected not in said:
            wrong = f"said {said[:200]}"
    except Exception as error:  # anything at all is a finding
        wrong = f"{type(error).__name__}: {error}"[:300].replace("\n", " ")
    print(json.dumps({"what": what, "wrong": wrong}), flush=True)


def langchain(address: str) -> None:
    """Three APIs; agents, typed answers in each of their ways, log-probabilities."""
    from langchain.agents import create_agent
    from langchain_anthropic import ChatAnthropic
    from langchain_openai import ChatOpenAI

    chat = {"base_url": f"{address}/v1", "model": "demo", "temperature": 0}
    models = {
        "chat": ChatOpenAI(**chat),
        "responses": ChatOpenAI(**chat, use_responses_api=True),
        "messages": ChatAnthropic(base_url=address, model="demo", temperature=0, max_tokens=200),
    }
    for name, model in models.items():
        attempt(f"{name}: an answer", "5", lambda: model.invoke(SUM).text)
        attempt(f"{name}: a stream", "quire", lambda: "".join(c.text for c in model.stream(WHAT)))
        agent = create_agent(model, [get_weather])
        turn = {"messages": [("user", WEATHER)]}
        attempt(f"{name}: an agent", "21 degrees", lambda: agent.invoke(turn)["messages"][-1].text)
        for method in ("json_schema", "function_calling"):
            typed = model.with_structured_output(Person, method=method)
            attempt(f"{name}: typed by {method}", "name=", lambda: repr(typed.invoke(ANNA)))
    spoken = ChatOpenAI(**chat, logprobs=True, top_logprobs=2, max_tokens=3)
    attempt(
        "logprobs", "top_logprobs", lambda: spoken.invoke("Hello").response_metadata["logprobs"]
    )


def litellm(address: str) -> None:
    """Its providers for such servers, and its words for each API."""
    import litellm as lite

    v1 = {"api_base": f"{address}/v1"}

    def said(model: str, base: str, content: str = SUM, **more: object) -> object:
        turn = [{"role": "user", "content": content}]
        return lite.completion(model=model, api_base=base, messages=turn, **more).choices[0].message

    for model in ("openai/demo", "hosted_vllm/demo"):
        attempt(f"{model}: an answer", "5", lambda: said(model, v1["api_base"]))
    attempt("anthropic/demo: an answer", "5", lambda: said("anthropic/demo", address))
    attempt(
        "a typed answer",
        "31",
        lambda: said("hosted_vllm/demo", v1["api_base"], ANNA, response_format=Person),
    )
    tool = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Get the current weather for a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    more = {"content": WEATHER, "tools": [tool], "tool_choice": "required"}
    attempt("a required call", "Oslo", lambda: said("hosted_vllm/demo", v1["api_base"], **more))
    attempt("responses", "5", lambda: lite.responses(model="openai/demo", input=SUM, **v1))
    attempt(
        "embeddings", "embedding", lambda: lite.embedding(model="openai/demo", input=["a"], **v1)
    )
    completion = {"model": "text-completion-openai/demo", "prompt": "quire is", "max_tokens": 5}
    attempt("a completion", "text=", lambda: lite.text_completion(**completion, **v1))


def instructor(address: str) -> None:
    """Typed answers in each of its modes that asks for a form."""
    import instructor as inst
    from anthropic import Anthropic
    from openai import OpenAI

    openai, mode = OpenAI(base_url=f"{address}/v1"), inst.Mode
    turn = {
        "messages": [{"role": "user", "content": ANNA}],
        "response_model": Person,
        "model": "demo",
    }
    for each in (mode.TOOLS, mode.TOOLS_STRICT, mode.JSON_SCHEMA, mode.RESPONSES_TOOLS):
        client = inst.from_openai(openai, mode=each)
        attempt(f"{each.name}", "name=", lambda: repr(client.chat.completions.create(**turn)))
    client = inst.from_openai(openai, mode=mode.JSON_SCHEMA)
    attempt("in parts", "31", lambda: list(client.chat.completions.create_partial(**turn))[-1])
    claude = inst.from_anthropic(Anthropic(base_url=address), mode=mode.ANTHROPIC_TOOLS)
    attempt(
        "ANTHROPIC_TOOLS", "name=", lambda: repr(claude.messages.create(**turn, max_tokens=100))
    )


def pydantic_ai(address: str) -> None:
    """Agents over two APIs."""
    from pydantic_ai import Agent, NativeOutput
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=f"{address}/v1")
    for name, kind in {"chat": OpenAIChatModel, "responses": OpenAIResponsesModel}.items():
        model = kind("demo", provider=provider)
        agent = Agent(model, tools=[get_weather])
        attempt(f"{name}: an agent", "21 degrees", lambda: agent.run_sync(WEATHER).output)

        async def streamed() -> str:
            async with agent.run_stream(WHAT) as run:
                return "".join([piece async for piece in run.stream_text(delta=True)])

        attempt(f"{name}: a stream", "quire", lambda: asyncio.run(streamed()))
        for form in (Person, NativeOutput(Person)):
            how = "the schema" if isinstance(form, NativeOutput) else "a tool"
            typed = Agent(model, output_type=form)
            attempt(f"{name}: typed by {how}", "name=", lambda: repr(typed.run_sync(ANNA).output))


def llama_index(address: str) -> None:
    """Chat, completion, typed answers and an agent."""
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    where = {
        "model": "demo",
        "api_base": f"{address}/v1",
        "api_key": "none",
        "context_window": 4096,
    }
    model = OpenAILike(**where, is_chat_model=True, is_function_calling_model=True)

    def turn(text: str) -> list[ChatMessage]:
        return [ChatMessage(role="user", content=text)]

    attempt("an answer", "5", lambda: model.chat(turn(SUM)))
    attempt(
        "a stream", "quire", lambda: "".join(c.delta or "" for c in model.stream_chat(turn(WHAT)))
    )
    attempt("a completion", "", lambda: OpenAILike(**where).complete("quire is", max_tokens=5))
    attempt(
        "a typed answer",
        "name=",
        lambda: repr(model.as_structured_llm(Person).chat(turn(ANNA)).raw),
    )

    async def run() -> object:
        return await FunctionAgent(tools=[get_weather], llm=model).run(WEATHER)

    attempt("an agent", "21 degrees", lambda: asyncio.run(run()))


def dspy(address: str) -> None:
    """Its models over two APIs: what its adapters write around a question is beyond the demo model."""
    import dspy as ds

    for kind in ("chat", "responses"):
        model = ds.LM(
            "openai/demo", api_base=f"{address}/v1", api_key="none", model_type=kind, max_tokens=200
        )
        attempt(f"{kind}: an answer", "5", lambda: model(SUM))


def smolagents(address: str) -> None:
    """Its model; its agents' prompt is beyond the demo model."""
    from smolagents import OpenAIServerModel

    model = OpenAIServerModel("demo", api_base=f"{address}/v1", api_key="none")
    turn = [{"role": "user", "content": [{"type": "text", "text": SUM}]}]
    attempt("an answer", "5", lambda: model(turn).content)
    attempt("a stream", "5", lambda: "".join(d.content or "" for d in model.generate_stream(turn)))


def haystack(address: str) -> None:
    """A generator, and an agent with and without a stream."""
    from haystack.components.agents import Agent
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.tools import create_tool_from_function
    from haystack.utils import Secret

    key = Secret.from_token("none")
    model = OpenAIChatGenerator(api_base_url=f"{address}/v1", model="demo", api_key=key)
    attempt("an answer", "5", lambda: model.run([ChatMessage.from_user(SUM)])["replies"][0].text)
    for name, callback in {"an agent": None, "an agent, streamed": lambda chunk: None}.items():
        agent = Agent(
            chat_generator=model,
            tools=[create_tool_from_function(get_weather)],
            streaming_callback=callback,
        )
        turn = [ChatMessage.from_user(WEATHER)]
        attempt(name, "21 degrees", lambda: agent.run(turn)["messages"][-1].text)


def autogen(address: str) -> None:
    """An assistant with a tool, and one with a typed answer."""
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    can = {
        "vision": False,
        "function_calling": True,
        "json_output": True,
        "structured_output": True,
    }
    where = {"model": "demo", "base_url": f"{address}/v1", "api_key": "none"}

    def run(task: str, **more: object) -> object:
        client = OpenAIChatCompletionClient(**where, model_info={**can, "family": "unknown"})
        agent = AssistantAgent("guide", model_client=client, system_message=None, **more)
        return asyncio.run(agent.run(task=task)).messages[-1].content

    attempt(
        "an agent",
        "21 degrees",
        lambda: run(WEATHER, tools=[get_weather], reflect_on_tool_use=True),
    )
    attempt("a typed answer", "31", lambda: run(ANNA, output_content_type=Person))


def crewai(address: str) -> None:
    """Its model."""
    from crewai import LLM

    where = {"model": "openai/demo", "base_url": f"{address}/v1", "api_key": "none"}
    attempt("an answer", "5", lambda: LLM(**where).call(SUM))
    attempt("a stream", "5", lambda: LLM(**where, stream=True).call(SUM))
    attempt("a typed answer", "31", lambda: LLM(**where, response_format=Person).call(ANNA))


def semantic_kernel(address: str) -> None:
    """Its connector for chat completions."""
    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.open_ai import (
        OpenAIChatCompletion,
        OpenAIChatPromptExecutionSettings,
    )
    from semantic_kernel.contents import ChatHistory

    async def ask(text: str, **more: object) -> object:
        client = AsyncOpenAI(base_url=f"{address}/v1")
        service = OpenAIChatCompletion(ai_model_id="demo", async_client=client)
        history = ChatHistory()
        history.add_user_message(text)
        return await service.get_chat_message_content(
            history, OpenAIChatPromptExecutionSettings(**more)
        )

    attempt("an answer", "5", lambda: asyncio.run(ask(SUM)))
    attempt("a typed answer", "31", lambda: asyncio.run(ask(ANNA, response_format=Person)))


def strands(address: str) -> None:
    """Agents over two APIs."""
    from strands import Agent, tool
    from strands.models.anthropic import AnthropicModel
    from strands.models.openai import OpenAIModel

    models = {
        "chat": OpenAIModel(
            client_args={"base_url": f"{address}/v1", "api_key": "none"}, model_id="demo"
        ),
        "messages": AnthropicModel(
            client_args={"base_url": address, "api_key": "none"},
            model_id="demo",
            max_tokens=200,
            params={"temperature": 0},
        ),
    }
    for name, model in models.items():
        agent = Agent(model=model, tools=[tool(get_weather)], callback_handler=None)
        attempt(f"{name}: an agent", "21 degrees", lambda: agent(WEATHER))
        typed = Agent(model=model, callback_handler=None)
        attempt(
            f"{name}: a typed answer",
            "name=",
            lambda: repr(typed(ANNA, structured_output_model=Person).structured_output),
        )


def agno(address: str) -> None:
    """Agents over two APIs."""
    from agno.agent import Agent
    from agno.models.openai import OpenAIResponses
    from agno.models.openai.like import OpenAILike

    for name, kind in {"chat": OpenAILike, "responses": OpenAIResponses}.items():
        model = kind(id="demo", base_url=f"{address}/v1", api_key="none")
        agent = Agent(model=model, tools=[get_weather], telemetry=False)
        attempt(f"{name}: an agent", "21 degrees", lambda: agent.run(WEATHER).content)
        typed = Agent(model=model, output_schema=Person, telemetry=False)
        attempt(f"{name}: a typed answer", "31", lambda: typed.run(ANNA).content)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    globals()[sys.argv[1]](sys.argv[2])
