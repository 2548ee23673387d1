"""Turns of other APIs in quire's form."""

from __future__ import annotations

import random
from typing import Any

import pytest

from quire.messages import Media, Text, read_conversation
from quire.server.errors import BadRequest
from quire.server.turns import Turns, joined, text_part

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def say(turns: Turns, text: str) -> None:
    turns.say([text_part(text)])


def test_what_one_side_says_in_a_row_is_one_turn() -> None:
    turns = Turns()
    say(turns, "one")
    say(turns, "two")
    turns.think("hm")
    turns.answer("yes")
    turns.answer(" indeed")
    say(turns, "three")
    assert turns.messages == [
        {"role": "user", "content": "one\n\ntwo"},
        {"role": "assistant", "content": "yes indeed", "reasoning_content": "hm"},
        {"role": "user", "content": "three"},
    ]
    read_conversation(turns.messages)


def test_instructions_are_joined_and_come_first() -> None:
    turns = Turns()
    assert turns.system is None
    turns.instruct("a")
    turns.instruct("")
    turns.instruct("b")
    assert turns.system == "a\n\nb"
    say(turns, "hello")
    assert turns.system == "a\n\nb"


def test_later_instructions_are_turns() -> None:
    turns = Turns()
    say(turns, "hello")
    turns.instruct("be <image>")
    turns.instruct("brief")
    say(turns, "and now?")
    turns.instruct("")
    assert turns.system is None
    assert [turn["role"] for turn in turns.messages] == ["user", "system", "user"]
    found = read_conversation(turns.messages).messages[1]
    assert found.text == "be <image>\n\nbrief"
    assert not found.media


def test_a_result_follows_its_call_whatever_was_said_between() -> None:
    turns = Turns()
    say(turns, "go")
    turns.call("a", "one", "{}")
    turns.call("b", "two", "{}")
    turns.instruct("hurry")
    turns.result("b", [text_part("2")], "where")
    say(turns, "please")
    turns.result("a", [text_part("1")], "where")
    roles = [turn["role"] for turn in turns.messages]
    assert roles == ["user", "assistant", "tool", "tool", "system", "user"]
    assert [turn["content"] for turn in turns.messages[2:4]] == ["1", "2"]
    read_conversation(turns.messages)


def test_a_placeholder_in_a_clients_text_is_text() -> None:
    turns = Turns()
    say(turns, "what does <image> mean?")
    message = read_conversation(turns.messages).messages[0]
    assert message.parts == (Text("what does <image> mean?", literal=True),)


def test_media_keep_their_places() -> None:
    turns = Turns()
    turns.say([text_part("a"), IMAGE, text_part("b")])
    say(turns, "c")
    parts = read_conversation(turns.messages).messages[0].parts
    kinds = ["media" if isinstance(part, Media) else part.text for part in parts]
    assert kinds == ["a", "media", "b", "\n\n", "c"]


@pytest.mark.parametrize("seed", range(20))
def test_results_stand_in_the_order_of_their_calls(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    turns = Turns()
    say(turns, "go")
    for number in range(count):
        turns.call(f"id{number}", f"tool{number}", "{}")
    for number in rng.sample(range(count), count):
        turns.result(f"id{number}", [text_part(str(number))], "where")
    results = turns.messages[2:]
    assert [result["content"] for result in results] == [str(number) for number in range(count)]
    assert [result["name"] for result in results] == [f"tool{number}" for number in range(count)]
    read_conversation(turns.messages)


def test_what_a_user_adds_to_results_goes_with_the_last() -> None:
    turns = Turns()
    say(turns, "go")
    turns.call("a", "tool", "{}")
    turns.result("a", [text_part("21 degrees")], "where")
    say(turns, "Be brief.")
    assert turns.messages[-1]["content"] == "21 degrees\n\nBe brief."
    assert len(turns.messages) == 3
    read_conversation(turns.messages)


@pytest.mark.parametrize("call_id", ["b", "old"])
def test_a_result_without_its_call_is_refused(call_id: str) -> None:
    turns = Turns()
    say(turns, "go")
    turns.call("old", "tool", "{}")
    turns.result("old", [], "x")
    turns.answer("done")
    say(turns, "again")
    turns.call("a", "tool", "{}")
    with pytest.raises(BadRequest, match=repr(call_id)) as refused:
        turns.result(call_id, [text_part("x")], "input[3].call_id")
    assert refused.value.param == "input[3].call_id"


def test_the_callers_parts_are_not_changed() -> None:
    parts: list[dict[str, Any]] = [text_part("a"), IMAGE]
    before = [dict(part) for part in parts]
    turns = Turns()
    turns.say(parts)
    say(turns, "b")
    assert parts == before


def test_messages_of_one_side_in_a_row_are_one_turn() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    given = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one", "name": "Ada"},
        {"role": "user", "content": "two", "name": "Bob"},
        {"role": "assistant", "content": "I look.", "reasoning": "hm"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "so"},
        {"role": "tool", "content": "seen", "tool_call_id": "a"},
        {"role": "user", "content": "And?"},
    ]
    before = [dict(message) for message in given]
    found = joined(given)
    assert found == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "one\n\ntwo"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm\n\nso",
            "tool_calls": [call],
        },
        {"role": "tool", "content": "seen\n\nAnd?", "tool_call_id": "a"},
    ]
    assert given == before
    read_conversation(found)


def test_parts_of_messages_in_a_row_keep_their_order() -> None:
    found = joined(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]},
            {"role": "user", "content": "b"},
            {"role": "user", "content": [IMAGE]},
            {"role": "user", "content": ""},
        ]
    )
    parts = read_conversation(found).messages[0].parts
    kinds = [part.text if isinstance(part, Text) else "image" for part in parts]
    assert kinds == ["a", "image", "\n\n", "b", "\n\n", "image"]


def test_results_of_tools_in_a_row_stay_apart() -> None:
    results = [{"role": "tool", "content": text} for text in "ab"]
    assert joined(results) == results


class Slow:
    """The turns as they are said to be, plainly: each result after the call and earlier calls' own."""

    def __init__(self) -> None:
        self.turns: list[tuple[str, list[str]]] = []
        self.order: list[str] = []

    def assistant(self) -> None:
        if not self.turns or self.turns[-1][0] != "assistant":
            self.turns.append(("assistant", []))
            self.order = []

    def call(self, name: str) -> None:
        self.assistant()
        self.order.append(name)

    def result(self, name: str, text: str) -> None:
        index = len(self.turns)
        while self._before(name, self.turns[index - 1][0]):
            index -= 1
        self.turns.insert(index, (f"tool {name}", [text]))

    def _before(self, name: str, role: str) -> bool:
        if role.startswith("tool"):
            return self.order.index(name) < self.order.index(role[5:])
        return role != "assistant"

    def say(self, role: str, text: str) -> None:
        last = self.turns[-1][0] if self.turns else ""
        if not (last == role or (role == "user" and last.startswith("tool"))):
            self.turns.append((role, []))
        self.turns[-1][1].append(text)


@pytest.mark.parametrize("seed", range(60))
def test_any_order_of_results_gives_the_same_turns_as_the_plain_way(seed: int) -> None:
    chance = random.Random(seed)
    turns, plain = Turns(), Slow()
    say(turns, "go")
    plain.say("user", "go")
    for number in range(40):
        what = chance.choice(["call", "result", "result", "user", "system"])
        if what == "call" or (what == "result" and not plain.order):
            turns.call(f"c{number}", "f", "{}")
            plain.call(f"c{number}")
        elif what == "result":
            name = chance.choice(plain.order)
            turns.result(name, [text_part(f"r{number}")], "where")
            plain.result(name, f"r{number}")
        elif what == "user":
            say(turns, f"u{number}")
            plain.say("user", f"u{number}")
        else:
            turns.instruct(f"s{number}")
            plain.say("system", f"s{number}")
    found = [
        (
            f"tool {turn['tool_call_id']}" if turn["role"] == "tool" else turn["role"],
            turn["content"],
        )
        for turn in turns.messages
    ]
    assert found == [(role, "\n\n".join(texts)) for role, texts in plain.turns]


def test_thousands_of_results_in_reverse_take_comparisons_in_proportion() -> None:
    class Id(str):
        __slots__ = ()
        compared = 0

        def __lt__(self, other: str) -> bool:
            Id.compared += 1
            return str.__lt__(self, other)

    turns, count = Turns(), 4000
    say(turns, "go")
    for number in range(count):
        turns.call(f"c{number}", Id("f"), "{}")
    for number in reversed(range(count)):
        turns.result(f"c{number}", [text_part(str(number))], "where")
    assert [turn["content"] for turn in turns.messages[2:]] == list(map(str, range(count)))
    assert Id.compared <= count
