"""A conversation in quire's form: turns from blocks, from items, and from messages in a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from quire.media.placement import PLACEHOLDERS
from quire.server.errors import BadRequest

Part: TypeAlias = dict[str, Any]
"""A part of a message as `quire.messages` reads it."""

_BETWEEN = "\n\n"


def text_part(text: str) -> Part:
    """Text of a client: no placeholder for media is looked for in it."""
    return {"type": "text", "text": text, "literal": True}


class Turns:
    """Gathers turns. What one side says in a row is one turn, as a template needs it.

    `messages` and `system` are those of a `Call`.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._system: list[str] = []
        self._calls: dict[str, tuple[int, str]] = {}  # of the last assistant's turn: place, name

    @property
    def system(self) -> str | None:
        """All instructions before the first turn; None where there are none."""
        return _BETWEEN.join(self._system) if self._system else None

    def instruct(self, text: str, param: str) -> None:
        """Add to the system message.

        Raises:
            BadRequest: the conversation has begun.
        """
        if self.messages:
            raise BadRequest(
                "Instructions (the roles system and developer) stand before the first turn.",
                param=param,
            )
        if text:
            self._system.append(text)

    def say(self, parts: Sequence[Part]) -> None:
        """The user says something; after results of tools it goes with the last of them, since
        the model's turn follows those.
        """
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] == "assistant":
            self.messages.append({"role": "user", "content": _content(parts)})
        else:
            last["content"] = _content(_in_a_row(_parts(last["content"]), parts))

    def result(self, call_id: str, parts: Sequence[Part], param: str) -> None:
        """A tool's result; several stand in the order of their calls.

        Raises:
            BadRequest: the assistant's turn before has no such call.
        """
        if call_id not in self._calls:
            raise BadRequest(
                f"A tool's result is for the call {call_id!r}, which is none of the assistant's "
                "turn before it.",
                param=param,
            )
        result = {
            "role": "tool",
            "tool_call_id": call_id,
            "name": self._calls[call_id][1],
            "content": _content(parts),
        }
        place = len(self.messages)
        while self._stands_before(call_id, place):
            place -= 1
        self.messages.insert(place, result)

    def _stands_before(self, call_id: str, place: int) -> bool:
        """Whether this call was made before that of the result in front of `place`."""
        other = self.messages[place - 1]
        if other["role"] != "tool":
            return False
        return self._calls[call_id] < self._calls[other["tool_call_id"]]

    def answer(self, text: str) -> None:
        """The assistant writes something."""
        turn = self._assistant()
        turn["content"] = turn["content"] + text

    def think(self, text: str) -> None:
        """The assistant thinks something."""
        turn = self._assistant()
        turn["reasoning_content"] = _texts_in_a_row(turn.get("reasoning_content"), text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """The assistant calls a tool; `arguments` is JSON text."""
        turn = self._assistant()
        calls = turn.setdefault("tool_calls", [])
        self._calls[call_id] = (len(calls), name)
        function = {"name": name, "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": function})

    def _assistant(self) -> dict[str, Any]:
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": ""})
            self._calls = {}
        return self.messages[-1]


def joined(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages, where what one side says in a row is one turn, as `Turns` has it.

    The messages are `quire.messages.read_conversation`'s; they are left as they are.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        last = turns[-1] if turns else None
        if last is not None and _goes_on(last["role"], message["role"]):
            turns[-1] = _together(last, message)
        else:
            turns.append(message)
    return turns


def _goes_on(last: str, role: str) -> bool:
    """Whether a message belongs to the turn before: the model's turn follows results of tools."""
    return role == last == "assistant" or (role == "user" and last in ("user", "tool"))


def _together(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    found = {**first, "content": _both_contents(first.get("content"), second.get("content"))}
    thought = _texts_in_a_row(_thought(first), _thought(second))
    if thought:
        found.pop("reasoning", None)
        found["reasoning_content"] = thought
    calls = [*(first.get("tool_calls") or ()), *(second.get("tool_calls") or ())]
    if calls:
        found["tool_calls"] = calls
    if found["role"] == "user" and first.get("name") != second.get("name"):
        found.pop("name", None)
    return found


def _thought(turn: dict[str, Any]) -> str | None:
    return turn.get("reasoning_content") or turn.get("reasoning")


def _both_contents(first: str | list[Part] | None, second: str | list[Part] | None) -> Any:
    """Strings stay strings, in which placeholders are looked for, unlike in `text_part`'s."""
    if isinstance(first, list) or isinstance(second, list):
        return _in_a_row(_as_written(first), _as_written(second))
    return _texts_in_a_row(first, second)


def _as_written(content: str | list[Part] | None) -> list[Part]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _in_a_row(first: Sequence[Part], second: Sequence[Part]) -> list[Part]:
    between = [text_part(_BETWEEN)] if first and second else []
    return [*first, *between, *second]


def _texts_in_a_row(first: str | None, second: str | None) -> str:
    return _BETWEEN.join(text for text in (first, second) if text)


def _content(parts: Sequence[Part]) -> str | list[Part]:
    """One string where all is text in which nothing looks like a placeholder; that is read faster."""
    if any(part["type"] != "text" for part in parts):
        return list(parts)
    text = "".join(part["text"] for part in parts)
    if any(mark in text for mark in PLACEHOLDERS.values()):
        return [text_part(text)]
    return text


def _parts(content: str | list[Part]) -> list[Part]:
    if isinstance(content, str):
        return [text_part(content)] if content else []
    return content
