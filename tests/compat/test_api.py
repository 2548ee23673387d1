"""`llamafactory-cli api`, asked as LLaMA-Factory's own examples ask it (scripts/api_example)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from openai import NotFoundError, OpenAI

from quire.demo import demo_model_path
from tests.compat.conftest import PATHS, ROOT
from tests.server.processes import Running

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather for a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "City name"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The command, on a YAML file as LLaMA-Factory's documentation has them."""
    folder = tmp_path_factory.mktemp("api")
    (folder / "infer.yaml").write_text(
        f"model_name_or_path: {demo_model_path()}\ninfer_backend: huggingface\n"
    )
    paths = [str(path) for path in (*PATHS, ROOT / "src")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "API_PORT": "0"}
    command = [
        sys.executable,
        "-m",
        "llamafactory.cli",
        "api",
        "infer.yaml",
        "native_num_threads=1",
    ]
    with (folder / "stderr").open("wb") as output:
        process = subprocess.Popen(command, stderr=output, env=environment, cwd=folder)
    try:
        server = Running(process, folder / "stderr")
        listening = server.until("listening")
        server.port = int(listening["address"].rsplit(":", 1)[1].split("/")[0])
        server.until("ready")
        yield server
    finally:
        process.kill()
        process.wait(10)


@pytest.fixture
def client(api: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{api.url}/v1", api_key="0", max_retries=0, timeout=60) as client:
        yield client


def test_the_example_of_a_tool(client: OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Oslo?"}]
    options: Any = {"model": "test", "tools": [WEATHER], "extra_body": {"do_sample": False}}
    message = client.chat.completions.create(messages=messages, **options).choices[0].message
    assert message.tool_calls
    call: Any = message.tool_calls[0]
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    # The result has no id, as there.
    messages += [
        message,
        {"role": "tool", "content": json.dumps({"temperature": 21, "sky": "sunny"})},
    ]
    last = client.chat.completions.create(messages=messages, **options)
    assert "21" in (last.choices[0].message.content or "")
    assert last.model == "test"


def test_a_turn_of_the_role_function(client: OpenAI) -> None:
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    tool_call = {
        "id": "a",
        "type": "function",
        "function": {**call, "arguments": '{"city": "Oslo"}'},
    }
    result = {"role": "tool", "content": "21 degrees"}
    counts = []
    for called in (
        {"role": "function", "content": json.dumps([call])},
        {"role": "assistant", "tool_calls": [tool_call]},
    ):
        messages: Any = [{"role": "user", "content": "Weather?"}, called, result]
        answer = client.chat.completions.create(
            model="gpt-3.5-turbo", messages=messages, tools=[WEATHER], max_tokens=2
        )
        counts.append(answer.usage.prompt_tokens if answer.usage else 0)
    assert counts[0] == counts[1] > 0


def test_any_model_is_the_served_one(client: OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "Hello!"}]
    for name in ("test", "gpt-4", "anything at all"):
        answer = client.chat.completions.create(model=name, messages=messages, max_tokens=1)
        assert answer.model == name
    assert client.embeddings.create(model="test", input="a").data
    with pytest.raises(NotFoundError):
        client.models.retrieve("test")
