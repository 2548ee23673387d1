"""The chat, driven by a script of lines; commands and what they do."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from quire.cli.chat.clipboard import copy_text
from quire.cli.chat.session import SETTINGS
from quire.cli.chat.slash_commands import COMMANDS
from quire.cli.chat.terminal_chat import TerminalChat
from quire.errors import ConfigError, GenerationError
from quire.messages import ToolCall
from quire.options import OPTIONS_BY_NAME
from quire.outputs import Delta, TextPart
from tests.chat.deltas import gained
from tests.cli.fake_chat_model import FakeChatModel, Script, echo, words

Line = str | type[BaseException]


class Lines:
    """A user whose lines are written down; an exception's type stands for Ctrl-C or Ctrl-D."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines: Iterator[Line] = iter(lines)
        self.labels: list[str] = []

    def read(self, label: str, text: str = "") -> str:
        self.labels.append(f"{label}{text}")
        line = next(self._lines, EOFError)
        if isinstance(line, str):
            return line
        raise line

    def edit(self, label: str, text: str) -> str:
        return self.read(label, text)


def converse(
    *lines: Line, script: Script = echo, options: dict[str, Any] | None = None
) -> tuple[TerminalChat, FakeChatModel, str]:
    """Chat these lines; return the chat, the model, and what was shown."""
    output, model = io.StringIO(), FakeChatModel(script=script)
    console = Console(file=output, width=100, highlight=False)
    chat = TerminalChat(model, console, Lines(list(lines)), options)  # type: ignore[arg-type]
    chat.run()
    return chat, model, output.getvalue()


def contents(model: FakeChatModel) -> list[list[str]]:
    return [[m["content"] for m in request["messages"]] for request in model.requests]


def test_a_conversation_remembers_its_turns() -> None:
    _, model, shown = converse("one", "", "two", "/exit", "never sent")
    assert contents(model) == [["one"], ["one", "You said: one", "two"]]
    assert "You said: one" in shown


def test_a_slash_is_sent_with_two() -> None:
    _, model, _ = converse("//etc is a folder")
    assert contents(model) == [["/etc is a folder"]]


def test_settings_go_with_the_requests() -> None:
    _, model, shown = converse(
        "/set temperature 0", "/set stop=[a, b]", "/system Be brief.", "/think off", "one",
        "/set temperature default", "/system off", "/think on", "two", options={"seed": 3},
    )  # fmt: skip
    first, second = model.requests
    assert (first["temperature"], first["stop"], first["seed"]) == (0, ["a", "b"], 3)
    assert (first["system"], first["enable_thinking"]) == ("Be brief.", False)
    assert "temperature" not in second
    assert (second["system"], second["enable_thinking"]) == (None, True)
    assert "temperature = 0  (set here)" in shown


def test_set_alone_shows_values_and_where_they_come_from() -> None:
    _, _, shown = converse("/set top_k 3", "/set")
    assert "temperature         = 0.6  (from the model)" in shown
    assert "top_p               = 0.7  (default)" in shown
    assert "top_k               = 3  (set here)" in shown


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/exot", "did you mean '/exit'"),
        ("/help tempature", "did you mean 'temperature'"),
        ("/set temprature 1", "did you mean 'temperature'"),
        ("/set temperature -1", "temperature"),
        ("/set seed", "seed is not set"),
        ("/think maybe", "/think takes on, off"),
        ("/save", "Which file?"),
        ("/load /nowhere.json", "No such file"),
        ("/tools /nowhere.json", "Cannot read"),
        ("/tools [1]", "no name"),
        ("/retry", "no question"),
    ],
)
def test_a_wrong_command_is_one_line_and_the_session_lives(line: str, text: str) -> None:
    _, model, shown = converse(line, "one")
    assert text in shown.splitlines()[0]
    assert contents(model) == [["one"]]


def test_every_command_is_in_the_help() -> None:
    _, _, shown = converse("/help")
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_help_fits_the_terminal(width: int) -> None:
    chat, _, _ = converse()
    output = io.StringIO()
    chat.console = Console(file=output, width=width, highlight=False)
    chat.take("/help")
    commands = output.getvalue().partition("\n\n")[0].splitlines()
    assert max(map(len, commands)) < width
    assert [line.split()[0] for line in commands if line.startswith("/")] == list(COMMANDS)
    assert (len(commands) == len(COMMANDS)) == (width == 200)


def test_help_on_a_setting_is_what_the_table_says() -> None:
    _, _, shown = converse("/help top_k", "/help seed", "/help /retry")
    option = OPTIONS_BY_NAME["top_k"]
    lines = " ".join(shown.split())
    assert f"top_k: {option.type}, 50 by default. {option.meaning}" in lines
    seed = OPTIONS_BY_NAME["seed"]
    assert f"seed: {seed.type}. {seed.meaning}" in lines
    assert "/retry answer the last question again" in lines


def test_help_on_set_has_every_setting() -> None:
    _, _, shown = converse("/help set")
    lines = " ".join(shown.split())
    for name in SETTINGS:
        assert f"{name}: {OPTIONS_BY_NAME[name].type}" in lines
        assert OPTIONS_BY_NAME[name].meaning in lines


def test_only_what_the_model_is_asked_for_comes_from_the_model() -> None:
    """A model's own `max_new_tokens` is not honoured, and its `min_p` is."""
    chat, model, _ = converse()
    model.engine.tokens.preparation.generation_config = {"min_p": 0.1, "max_new_tokens": 5}
    output = io.StringIO()
    chat.console = Console(file=output, width=100, highlight=False)
    chat.take("/set")
    assert "min_p               = 0.1  (from the model)" in output.getvalue()
    assert "max_new_tokens      = 1024  (default)" in output.getvalue()


def test_retry_asks_again() -> None:
    _, model, _ = converse("one", "/retry")
    assert contents(model) == [["one"], ["one"]]


def test_clear_forgets() -> None:
    _, model, _ = converse("one", "/clear", "two")
    assert contents(model) == [["one"], ["two"]]


def test_save_and_load(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    _, model, shown = converse("one", f"/save {file}", "/clear", f"/load {file}", "two")
    assert contents(model)[1] == ["one", "You said: one", "two"]
    assert "Loaded 2 messages" in shown
    assert shown.count("You said: one") == 2


def test_ctrl_c_keeps_what_came() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        return (
            [*words("half an answer")[:3], KeyboardInterrupt()]
            if len(messages) == 1
            else echo(messages, options)
        )

    chat, model, shown = converse("one", "two", script=script)
    assert contents(model)[1] == ["one", "half an a", "two"]
    assert "what came is kept" in shown
    assert chat.session.turns[1].interrupted
    assert model.abandoned == 1


def test_ctrl_c_before_the_first_token_takes_the_question_back() -> None:
    calls: list[int] = []

    def script(messages: Any, options: Any) -> list[Any]:
        calls.append(1)
        return [KeyboardInterrupt()] if len(calls) == 1 else echo(messages, options)

    _, model, shown = converse("one", "/retry", script=script)
    assert contents(model) == [["one"], ["one"]]
    assert "taken back" in shown
    assert "You said: one" in shown


# --- going on with an answer, and changing it ------------------------------------------------------


def cut(text: str, thought: str = "") -> list[Any]:
    """A first answer that is cut at its length, perhaps in its thought."""
    return [gained(text, reasoning=thought, finish_reason="length")]


def test_a_cut_answer_is_continued() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        return words(" and whole") if options.get("continue_final_message") else cut("half")

    _, model, shown = converse("one", "/continue", "two", script=script)
    assert contents(model)[1:] == [["one", "half"], ["one", "half and whole", "two"]]
    assert [request.get("continue_final_message") for request in model.requests] == [
        None,
        True,
        None,
    ]
    assert "/continue goes on" in shown


def test_a_cut_thought_is_continued() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        if not options.get("continue_final_message"):
            return cut("", "Hm, let")
        return [gained("So.", reasoning=" me see.", finish_reason="stop")]

    chat, model, _ = converse("one", "/continue", script=script)
    said = {"role": "assistant", "content": "", "reasoning_content": "Hm, let"}
    assert model.requests[1]["messages"][1:] == [said]
    whole = {"role": "assistant", "content": "So.", "reasoning_content": "Hm, let me see."}
    assert chat.session.turns[1].message == whole


def test_a_thought_that_was_stopped_is_continued() -> None:
    """The question went back, and comes again with the thought."""

    def script(messages: Any, options: Any) -> list[Any]:
        if options.get("continue_final_message"):
            return words("So.")
        return [gained(reasoning="Hm"), KeyboardInterrupt()]

    chat, _, shown = converse("one", "/continue", script=script)
    assert "taken back. /retry asks again, /continue goes on" in shown
    whole = {"role": "assistant", "content": "So.", "reasoning_content": "Hm"}
    assert [turn.message for turn in chat.session.turns] == [
        {"role": "user", "content": "one"},
        whole,
    ]


def test_a_continuation_that_fails_or_is_stopped_leaves_the_answer() -> None:
    for error in (GenerationError("a fault"), KeyboardInterrupt()):

        def script(messages: Any, options: Any, error: BaseException = error) -> list[Any]:
            return [error] if options.get("continue_final_message") else cut("half")

        chat, _, _ = converse("one", "/continue", script=script)
        assert [turn.message["content"] for turn in chat.session.turns] == ["one", "half"]


def test_an_answer_is_changed_and_continued() -> None:
    chat, model, shown = converse("one", "/edit", "You said: ", "/continue")
    assert chat.reader.labels[2] == "answer>You said: one"  # type: ignore[attr-defined]
    assert contents(model)[1] == ["one", "You said: "]
    assert "/continue goes on" in shown


def test_a_question_is_changed_and_asked_again() -> None:
    chat, model, _ = converse("zero", "one", "/edit question", "two")
    assert chat.reader.labels[3] == "question>one"  # type: ignore[attr-defined]
    assert contents(model)[2] == ["zero", "You said: zero", "two"]
    assert len(chat.session.turns) == 4


def test_a_continuation_that_adds_nothing_says_so() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        return words("" if options.get("continue_final_message") else "all of it")

    chat, _, shown = converse("one", "/continue", script=script)
    assert "Nothing more came." in shown
    assert chat.session.answer == "all of it"


@pytest.mark.parametrize("key", [KeyboardInterrupt, EOFError, ""])
def test_a_change_is_given_up(key: Line) -> None:
    """Also by leaving the text as it is."""
    same = ["You said: one", "one"] if key == "" else [key, key]
    chat, _, shown = converse("one", "/edit", same[0], "/edit question", same[1])
    assert shown.count("Nothing was changed.") == 2
    assert [turn.message["content"] for turn in chat.session.turns] == ["one", "You said: one"]


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("/continue", "no answer to go on with"),
        ("/edit", "no answer of text to change"),
        ("/edit question", "no question of text to change"),
        ("/edit all", "nothing or question"),
        ("/set continue_final_message true", "/continue"),
        ("/set add_generation_prompt false", "/continue"),
    ],
)
def test_nothing_to_go_on_with_or_to_change(line: str, text: str) -> None:
    _, model, shown = converse(line, "one")
    assert text in shown.splitlines()[0]
    assert contents(model) == [["one"]]


def test_ctrl_c_at_the_prompt_does_not_leave() -> None:
    _, model, shown = converse(KeyboardInterrupt, "one", EOFError)
    assert "/exit leaves" in shown
    assert contents(model) == [["one"]]


@pytest.mark.parametrize("error", [GenerationError("a\nfault"), RuntimeError("a fault")])
def test_an_error_is_one_line_and_the_session_lives(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    calls: list[int] = []

    def script(messages: Any, options: Any) -> list[Any]:
        calls.append(1)
        return [*words("half"), error] if len(calls) == 2 else echo(messages, options)

    _, model, shown = converse("one", "two", "three", script=script)
    assert "a fault" in shown
    assert contents(model)[2] == ["one", "You said: one", "three"]


def test_thoughts_and_calls_are_shown_and_results_asked_for() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        if messages[-1]["role"] == "tool":
            return words(f"It is {messages[-1]['content']}.")
        thought = gained(text="Hm.", reasoning="Hm.", token_ids=(1,))
        call = ToolCall("get_\x1bweather", '{"city": "Oslo"}')
        return [thought, *words("", finish="tool_calls", tool_calls=(call,))]

    tools = json.dumps([{"name": "get_weather", "parameters": {}}])
    _, model, shown = converse(f"/tools {tools}", "Weather?", "3 degrees", script=script)
    assert [m["role"] for m in model.requests[1]["messages"]] == ["user", "assistant", "tool"]
    assert model.requests[1]["messages"][1]["reasoning_content"] == "Hm."
    assert "Hm." in shown
    assert '⚙ get_␛weather {"city": "Oslo"}' in shown
    assert "It is 3 degrees." in shown


def test_text_after_a_call_is_shown_after_it() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        if messages[-1]["role"] == "tool":
            return words("Done.")
        parts = (TextPart("Before."), ToolCall("look", "{}"), TextPart("After."))
        return [Delta(text="Before.[look]After.", parts=parts), *words("", finish="tool_calls")]

    _, model, shown = converse("Go", "a result", script=script)
    texts = ("Before.", "⚙ look {}", "After.", "Done.")
    assert [shown.index(text) for text in texts] == sorted(shown.index(text) for text in texts)
    assert model.requests[1]["messages"][1]["content"] == "Before.After."


def test_a_call_without_result_leaves_the_conversation_usable() -> None:
    def script(messages: Any, options: Any) -> list[Any]:
        if messages[-1]["content"] == "call":
            return words(
                "", finish="tool_calls", tool_calls=(ToolCall("a", "{}"), ToolCall("b", "{}"))
            )
        return echo(messages, options)

    _, model, _ = converse("call", "first result", KeyboardInterrupt, "next", script=script)
    assert [m["role"] for m in model.requests[1]["messages"]] == ["user", "assistant", "user"]


def test_figures_on_request() -> None:
    _, _, shown = converse("/stats", "one", "/stats off", "two")
    assert shown.count("tokens/s") == 1
    assert shown.count("first after") == 1
    assert "prompt 7 tokens" in shown


@pytest.mark.parametrize(
    ("deltas", "text"),
    [(words("abc", finish="length"), "cut at its longest"), (words(""), "answer is empty")],
)
def test_how_an_answer_ended_is_said(deltas: list[Any], text: str) -> None:
    assert text in converse("one", script=lambda messages, options: deltas)[2]


# --- thoughts, and the clipboard -------------------------------------------------------------------


def thinking(messages: Any, options: Any) -> list[Any]:
    return [
        gained(reasoning="Let me see.", token_ids=(1, 2)),
        gained("So.", finish_reason="stop"),
    ]


def test_thoughts_are_hidden_and_kept_in_the_conversation() -> None:
    chat, _, shown = converse("/think hide", "one", "/think show", "two", script=thinking)
    assert shown.count("Let me see.") == 1
    assert shown.count("So.") == 2
    assert [turn.message.get("reasoning_content") for turn in chat.session.turns[1::2]] == [
        "Let me see.",
        "Let me see.",
    ]


def test_how_much_is_thought() -> None:
    _, model, shown = converse("/think high", "one", "/think off", "two")
    first, second = model.requests
    assert (first["enable_thinking"], first["reasoning_effort"]) == (True, "high")
    assert second["enable_thinking"] is False
    assert "reasoning_effort" not in second
    assert "Thinking: on, high effort." in shown


CODE = "Run this:\n\n```sh\nls\n```\n\nor this:\n\n```python\nif x:\n\ty\n```\n"


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that copies: what it was given is in this file."""
    program, file = tmp_path / "wl-copy", tmp_path / "clipboard"
    program.write_text(f"#!/bin/sh\n/bin/cat > '{file}'\n")
    program.chmod(0o700)
    for name in ("TMUX", "DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    monkeypatch.setenv("PATH", str(tmp_path))
    return file


def test_the_last_answer_is_copied(copied: Path) -> None:
    _, _, shown = converse("one", "/copy", script=lambda messages, options: words(CODE))
    assert copied.read_text() == CODE
    assert "Copied 12 lines by wl-copy." in shown


def test_the_last_code_is_copied(copied: Path) -> None:
    converse("one", "/copy code", script=lambda messages, options: words(CODE))
    assert copied.read_text() == "if x:\n\ty\n"


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (("/copy",), "no answer to copy"),
        (("one", "/copy code"), "no block of code"),
        (("one", "/copy all"), "nothing or code"),
    ],
)
def test_nothing_to_copy(lines: tuple[str, ...], text: str) -> None:
    assert text in converse(*lines)[2]


def test_without_a_program_the_terminal_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("TERM", "xterm")
    output = Terminal()
    assert "OSC 52" in copy_text("é", output)
    assert output.getvalue() == "\x1b]52;c;w6k=\x07"
    with pytest.raises(ConfigError, match="too long"):
        copy_text("a" * 100_000, output)
    with pytest.raises(ConfigError, match="Nothing here copies"):
        copy_text("a", io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    with pytest.raises(ConfigError, match="Nothing here copies"):
        copy_text("a", output)
