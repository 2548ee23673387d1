"""The examples run, and do what they say; their model is a scripted one."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.arguments import get_infer_args
from quire.messages import ToolCall
from tests.cli.fake_chat_model import FakeChatModel, echo, words

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / "python" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_stream(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeChatModel()
    load("stream").main(model)
    out = capsys.readouterr().out
    assert "You said: What is PagedAttention?" in out
    assert "of the prompt's 7 were cached" in out
    assert [m["role"] for m in model.requests[1]["messages"]] == ["user", "assistant", "user"]


def test_many(capsys: pytest.CaptureFixture[str]) -> None:
    example = load("many")
    asyncio.run(example.main(FakeChatModel()))
    out = capsys.readouterr().out
    assert all(f"You said: {question}" in out for question in example.QUESTIONS)


def test_tools(capsys: pytest.CaptureFixture[str]) -> None:
    def script(messages: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
        if messages[-1]["role"] == "user":
            call = ToolCall("get_weather", '{"city": "Lisbon"}', "call-1")
            return words("", finish="tool_calls", tool_calls=(call,))
        return echo(messages, options)

    load("tools").main(FakeChatModel(script=script))
    out = capsys.readouterr().out
    assert 'get_weather {"city": "Lisbon"}' in out
    assert 'You said: {"temp": 26, "unit": "C"}' in out


@pytest.mark.parametrize(
    "file", sorted(EXAMPLES.glob("inference/*.yaml")), ids=lambda file: file.name
)
def test_yaml_files_are_read(file: Path) -> None:
    get_infer_args([str(file), "model_name_or_path=folder"])
