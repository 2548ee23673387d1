"""A session: its turns, its settings, its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.cli.chat.session import Session, load_file
from quire.errors import ConfigError, MessageError, QuireError, RequestError, ToolError
from quire.messages import ToolCall

CALL = ToolCall("get_weather", '{"city": "Oslo"}', "call-1")
TOOL = {"name": "get_weather", "description": "", "parameters": {}}


def full() -> Session:
    session = Session()
    session.system, session.tools, session.enable_thinking = "Be brief.", [TOOL], False
    session.set("temperature", 0.5)
    session.add_user("Weather in Oslo?")
    session.add_answer("", "I call the tool.", [CALL])
    session.add_tool_result(CALL, '{"temp": 3}')
    session.add_answer("It is 3 degr", interrupted=True)
    return session


def roles(session: Session) -> list[str]:
    return [turn.message["role"] for turn in session.turns]


def test_a_request_holds_all_that_was_set() -> None:
    request = full().request()
    assert request["temperature"] == 0.5
    assert request["system"] == "Be brief."
    assert request["tools"] == [TOOL]
    assert request["enable_thinking"] is False
    assert [message["role"] for message in request["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert request["messages"][1]["reasoning_content"] == "I call the tool."
    assert request["messages"][1]["tool_calls"][0]["id"] == "call-1"
    assert "interrupted" not in request["messages"][3]


def test_save_and_load_are_inverse(tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    full().save(file)
    loaded = Session()
    loaded.load(file)
    assert loaded == full()
    assert load_file(file)["messages"][3]["interrupted"] is True


def test_save_overwrites_a_session_and_nothing_else(tmp_path: Path) -> None:
    file, other = tmp_path / "chat.json", tmp_path / "notes.json"
    full().save(file)
    Session().save(file)
    assert json.loads(file.read_text()) == {"messages": []}
    other.write_text('{"a": 1}')
    with pytest.raises(QuireError, match="messages"):
        full().save(other)
    assert other.read_text() == '{"a": 1}'
    with pytest.raises(ConfigError, match="Cannot write"):
        full().save(tmp_path / "nowhere" / "chat.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.json", "notes.json"]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("no json", ConfigError),
        ("[]", MessageError),
        ('{"messages": [{"role": "wizard", "content": ""}]}', MessageError),
        ('{"messages": ["hello"]}', MessageError),
        ('{"messages": [], "colour": 1}', MessageError),
        ('{"messages": [], "system": 1}', MessageError),
        ('{"messages": [], "settings": {"temperature": -1}}', RequestError),
        ('{"messages": [{"role": "user", "content": "a"}], "tools": [{}]}', ToolError),
    ],
)
def test_a_wrong_file_leaves_the_session_as_it_is(
    tmp_path: Path, content: str, error: type[Exception]
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(content)
    session = full()
    with pytest.raises(error):
        session.load(file)
    assert session == full()


def test_retry_takes_the_last_answer_away() -> None:
    session = full()
    assert session.retry()
    assert roles(session) == ["user", "assistant", "tool"]
    assert not Session().retry()


def test_a_question_without_answer_is_taken_back_and_can_be_retried() -> None:
    session = Session()
    session.add_user("one")
    session.add_answer("", interrupted=True)
    assert session.turns == []
    session.take_back()
    assert session.retry()
    assert session.turns[0].message["content"] == "one"
    session.take_back()
    session.add_user("two")
    session.add_answer("2")
    assert session.retry()
    assert roles(session) == ["user"]
    assert session.turns[0].message["content"] == "two"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1),
        ("top_p", 2),
        ("temprature", 1),
        ("n", 2),
        ("logprobs", 3),
        ("enable_thinking", True),
        ("preserve_thinking", "yes"),
        ("num_beams", 4),
    ],
)
def test_a_wrong_setting_is_refused_and_changes_nothing(name: str, value: Any) -> None:
    session = full()
    with pytest.raises(RequestError):
        session.set(name, value)
    assert session == full()


def test_a_setting_is_unset_with_none() -> None:
    session = full()
    session.set("temperature", None)
    assert session.settings == {}


@given(st.lists(st.sampled_from(["user", "answer", "stopped", "empty", "back", "retry", "clear"])))
def test_the_turns_always_alternate(steps: list[str]) -> None:
    session = Session()
    for step in steps:
        waiting = bool(session.turns) and session.turns[-1].message["role"] == "user"
        if step == "user" and not waiting:
            session.add_user("question")
        elif step in ("answer", "stopped", "empty") and waiting:
            text = "" if step == "empty" else "answer"
            session.add_answer(text, interrupted=step != "answer")
        elif step == "back":
            session.take_back()
        elif step == "retry":
            waiting = waiting or session.retry()
        elif step == "clear":
            session.clear()
        assert roles(session) == (["user", "assistant"] * len(session.turns))[: len(session.turns)]
