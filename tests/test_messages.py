"""Both forms of messages, read into the same values; what is no conversation is refused."""

from __future__ import annotations

import copy

import pytest

from quire.errors import MessageError, ToolError
from quire.messages import (
    Media,
    Message,
    Text,
    ToolCall,
    read_conversation,
    read_message,
    read_tools,
)

USER = {"role": "user", "content": "Hi"}


def test_both_forms_give_the_same_values() -> None:
    ours = read_conversation(
        [
            USER,
            {"role": "function", "content": '[{"name": "f", "arguments": {"a": "é"}}]'},
            {"role": "observation", "content": "21"},
        ],
        system="Be brief.",
    )
    openai = read_conversation(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"type": "function", "function": {"name": "f", "arguments": '{"a": "é"}'}}
                ],
            },
            {"role": "tool", "content": "21"},
        ]
    )
    assert ours == openai
    assert ours.messages[1] == Message("assistant", tool_calls=(ToolCall("f", '{"a": "é"}'),))


def test_no_system_message_in_front_is_lost() -> None:
    turns = [{"role": "system", "content": "A"}, {"role": "developer", "content": "B"}, USER]
    assert read_conversation(turns).system == "A\n\nB"
    assert read_conversation(turns, system="C").system == "C"


def test_the_callers_messages_are_never_changed() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
    ]
    before = copy.deepcopy(messages)
    read_conversation(messages)
    assert messages == before


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ({"role": "assistant", "reasoning_content": "hm"}, Message("assistant", reasoning="hm")),
        ({"role": "user", "name": "Ada"}, Message("user", name="Ada")),
        ({"role": "tool", "tool_call_id": "a"}, Message("tool", tool_call_id="a")),
    ],
)
def test_a_field_counts_without_content_too(written: dict[str, str], read: Message) -> None:
    assert read_message(written) == read


def calling(*ids: str | None) -> dict[str, object]:
    """A turn of the assistant with a call for each id."""
    calls = [
        {"id": one, "function": {"name": f"f{n}", "arguments": "{}"}} for n, one in enumerate(ids)
    ]
    return {"role": "assistant", "tool_calls": calls}


def resulting(content: str, call_id: str | None = None) -> dict[str, object]:
    return {"role": "tool", "content": content, **({"tool_call_id": call_id} if call_id else {})}


@pytest.mark.parametrize(
    ("turns", "results"),
    [
        ([calling("a", "b"), resulting("2", "b"), resulting("1", "a")], "12"),
        ([calling("a", "b"), resulting("1", "a"), resulting("2", "b")], "12"),
        ([calling("a", "b", "c"), resulting("3", "c"), resulting("1", "a")], "13"),
        ([calling("a", "b"), resulting("2", "b"), resulting("1")], "12"),
        ([calling(None, "b"), resulting("2", "b"), resulting("1", "lost")], "12"),
        ([calling(None, None), resulting("1", "x"), resulting("2", "y")], "12"),
        ([calling("a", "a"), resulting("1", "a"), resulting("2", "a")], "12"),
        ([calling("a"), calling("b"), resulting("2", "b"), resulting("1", "a")], "12"),
        ([calling("a"), resulting("1", "a"), calling("a"), resulting("2", "a")], "12"),
        ([calling("a", "b"), resulting("2", "b"), resulting("3", "b"), resulting("1", "a")], "123"),
    ],
)
def test_results_stand_in_the_order_of_their_calls(turns: list[object], results: str) -> None:
    read = read_conversation([USER, *turns])  # type: ignore[list-item]
    assert "".join(turn.text for turn in read.messages if turn.role == "tool") == results
    assert len(read.messages) == 1 + len(turns)


@pytest.mark.parametrize(
    "turns",
    [
        [calling("a"), resulting("1", "b")],
        [calling("a"), resulting("1", "a"), calling("b"), resulting("2", "a")],
        [{"role": "assistant", "content": "x"}, resulting("1", "a")],
    ],
)
def test_a_result_of_an_unknown_call_is_refused(turns: list[object]) -> None:
    with pytest.raises(MessageError, match=r"is for the call '[ab]', which is none"):
        read_conversation([USER, *turns])  # type: ignore[list-item]


def test_a_thought_before_a_function_call_is_kept() -> None:
    turn = {
        "role": "function",
        "content": '<think>\nso\n</think>\n\n{"name": "f", "arguments": {}}',
    }
    message = read_conversation([USER, turn, {"role": "tool", "content": "1"}]).messages[1]
    assert message.text == "<think>\nso\n</think>\n\n"
    assert message.tool_calls == (ToolCall("f", "{}"),)


def test_media_parts() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "text", "text": "What is it?"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    (message,) = read_conversation([{"role": "user", "content": parts}]).messages
    assert message.parts == (
        Media("image", "data:image/png;base64,AA=="),
        Text("What is it?"),
        Media("audio", "data:;base64,AA=="),
    )


@pytest.mark.parametrize(
    "source", [{"path": "a.png", "bytes": None}, {"frames": ["a.png"], "fps": 2}, "a.png", b"x"]
)
def test_media_parts_keep_what_the_loader_reads(source: object) -> None:
    part = {"type": "video", "video": source}
    (message,) = read_conversation([{"role": "user", "content": [part]}]).messages
    assert message.media == (Media("video", source),)


@pytest.mark.parametrize(
    ("messages", "told"),
    [
        ([], "empty"),
        ([{"role": "system", "content": "x"}], "empty"),
        ("hello", "must be a list"),
        ([3], r"messages\[0\] is a int"),
        ([{"role": "wizard", "content": "x"}], "role 'wizard'"),
        ([{"content": "x"}], "role None"),
        ([{"role": "user", "contents": "x"}], "did you mean 'content'"),
        ([{"role": "user", "content": 3}], "must be a string or a list"),
        ([{"role": "user", "content": [{"type": "picture"}]}], "part of type 'picture'; known are"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "needs a source in 'image_url'"),
        ([{"role": "user", "content": [{"type": "text"}]}], "needs its text in 'text'"),
        ([{"role": "assistant", "content": "x"}], "last turn"),
        ([USER, {"role": "assistant", "content": "x"}], "last turn"),
        ([{"role": "tool", "content": "x"}], "needs the assistant's call"),
        ([USER, {"role": "tool", "content": "x"}], "needs the assistant's call"),
        ([USER, {"role": "function", "content": "no json"}], "needs JSON"),
        ([USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}], "tool_calls"),
        (
            [USER, {"role": "assistant", "tool_calls": [{"id": 1, "name": "f", "arguments": ""}]}],
            "tool_calls",
        ),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: object, told: str) -> None:
    with pytest.raises(MessageError, match=told):
        read_conversation(messages)  # type: ignore[arg-type]


def test_tools_as_text_or_list() -> None:
    tool = {"name": "f", "parameters": {}}
    assert read_tools('[{"name": "f", "parameters": {}}]') == read_tools([tool]) == (tool,)
    assert read_tools(None) == read_tools("") == ()
    for wrong, told in [
        ("[", "no valid JSON"),
        ([{}], r"tools\[0\] has no name"),
        (3, "must be a list"),
    ]:
        with pytest.raises(ToolError, match=told):
            read_tools(wrong)  # type: ignore[arg-type]
