"""`quire demo`: the whole script, on a scripted model."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from quire.cli import demo
from quire.cli.main import main
from quire.demo import DEMO_CONVERSATION
from quire.errors import GenerationError
from quire.messages import ToolCall
from tests.cli.fake_chat_model import FakeChatModel, echo, words


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "demo_model_path", lambda: "folder")


def script(messages: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
    last = messages[-1]["content"]
    if last == demo.WEATHER_QUESTION:
        call = ToolCall("get_weather", '{"city": "Lisbon"}')
        return words("", finish="tool_calls", tool_calls=(call,))
    return words("It is 24 degrees.") if messages[-1]["role"] == "tool" else echo(messages, options)


def test_the_whole_script(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeChatModel(script=script)
    assert main(["demo"], make_model=lambda arguments: model) == 0  # type: ignore[arg-type,return-value]
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for line in DEMO_CONVERSATION:
        assert f"> {line}\n" in out
        assert f"You said: {line}" in out
    assert '⚙ get_weather {"city": "Lisbon"}' in out
    assert "It is 24 degrees." in out
    for question in demo.QUESTIONS:
        assert question[:20] in out
    assert "Ready in" in out
    assert "8 at once" in " ".join(out.split())
    assert "quire chat FOLDER" in out
    assert model.closed
    assert len(model.requests) == len(DEMO_CONVERSATION) + 2 + len(demo.QUESTIONS)
    assert all(request["temperature"] == 0 for request in model.requests)


def test_the_conversation_remembers(capsys: pytest.CaptureFixture[str]) -> None:
    model = FakeChatModel(script=script)
    demo.run_demo(lambda arguments: model, Console(file=io.StringIO()))  # type: ignore[arg-type,return-value]
    last = model.requests[len(DEMO_CONVERSATION) - 1]["messages"]
    assert [m["content"] for m in last[::2]] == list(DEMO_CONVERSATION)


def test_on_a_terminal_answers_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=70, _environ={"TERM": "xterm"})
    demo.run_demo(lambda arguments: FakeChatModel(script=script), console)  # type: ignore[arg-type,return-value]
    assert output.getvalue().count("What is 8 + 64?") > 1


@pytest.mark.parametrize("question", [DEMO_CONVERSATION[2], demo.QUESTIONS[3]])
def test_a_fault_ends_the_demo_with_exit_code_1(
    question: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(messages: list[dict[str, Any]], options: dict[str, Any]) -> list[Any]:
        if messages[-1]["content"] == question:
            return [*words("half")[:1], GenerationError("a fault")]
        return script(messages, options)

    model = FakeChatModel(script=failing)
    assert main(["demo"], make_model=lambda arguments: model) == 1  # type: ignore[arg-type,return-value]
    assert capsys.readouterr().err == "quire: a fault\n"
    assert model.closed


def test_figures() -> None:
    assert demo.figures(1.23, [], [], 0.0) == ("Ready in 1.2 s · 0 tokens · - alone, - 0 at once")
    age = demo.process_age()
    assert age is None or age > 0
