"""The examples run, and do what they say: on a scripted model, and as programs on the demo model."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import re
import runpy
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quire.cli.main import main
from quire.demo import demo_model_path
from quire.messages import ToolCall
from tests.cli.fake_chat_model import FakeChatModel, echo, words
from tests.engines.remote.fake_server import WORDS, FakeServer

EXAMPLES = Path(__file__).parents[2] / "examples"
INFERENCE = EXAMPLES / "inference"
DEMO = f"model_name_or_path={demo_model_path()}"


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


# --- on the demo model ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "stream",
            r"small blocks, like pages of memory\.(.|\n)*stop: \d+ tokens, \d\d of the prompt's",
        ),
        ("many", r"What is 10 \+ 17\? +10 \+ 17 = 27\.(.|\n)*32 answers, \d+ tokens"),
        ("tools", r'get_weather {"city": "Lisbon"}\n.*26 °C'),
    ],
    ids=["stream", "many", "tools"],
)
def test_programs(
    name: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    runpy.run_path(str(EXAMPLES / "python" / f"{name}.py"), run_name="__main__")
    assert re.search(said, capsys.readouterr().out)


@pytest.fixture
def question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("What is 17 + 25?"))


@pytest.mark.usefixtures("question")
def test_demo_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", str(INFERENCE / "demo.yaml"), DEMO]) == 0
    assert "42" in capsys.readouterr().out


@pytest.mark.usefixtures("question")
def test_remote_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    server = FakeServer().start()
    try:
        words = ["chat", str(INFERENCE / "remote.yaml"), DEMO, f"remote_base_url={server.address}"]
        assert main(words) == 0
    finally:
        server.close()
    assert "".join(WORDS) in capsys.readouterr().out


def test_vllm_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """As the command that `quire deploy` makes of it: the plan of VllmEngine, without a start."""
    assert main(["deploy", "vllm", str(INFERENCE / "vllm.yaml"), DEMO]) == 0
    out = capsys.readouterr().out
    assert "--max-model-len 4096" in out
    assert "--gpu-memory-utilization 0.9" in out


def test_every_example_has_its_test() -> None:
    programs = {file.name for file in EXAMPLES.glob("python/*.py")}
    assert programs == {"many.py", "stream.py", "tools.py"}
    assert {file.name for file in INFERENCE.iterdir()} == {"demo.yaml", "remote.yaml", "vllm.yaml"}
