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
        # As `messages`, with a list in place of each text: what is added costs no copy.
        self._turns: list[dict[str, Any]] = []
        self._system: list[str] = []
        self._calls: dict[str, tuple[int, str]] = {}  # of the last assistant's turn: place, name

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns so far."""
        return [_finished(turn) for turn in self._turns]

    @property
    def system(self) -> str | None:
        """All instructions before the first turn; None where there are none."""
        return _BETWEEN.join(self._system) if self._system else None

    def instruct(self, text: str) -> None:
        """Add to the system message; after the first turn, to a system turn of its own."""
        if not text:
            return
        if self._turns:
            _go_on(self._last("system")["content"], [text_part(text)])
        else:
            self._system.append(text)

    def say(self, parts: Sequence[Part]) -> None:
        """The user says something; after results of tools it goes with the last of them, since
        the model's turn follows those.
        """
        after_results = self._turns and self._turns[-1]["role"] == "tool"
        _go_on(self._last("tool" if after_results else "user")["content"], parts)

    def _last(self, role: str) -> dict[str, Any]:
        """The last turn, which is made where it is not this role's."""
        if not self._turns or self._turns[-1]["role"] != role:
            self._turns.append({"role": role, "content": []})
        return self._turns[-1]

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
            "content": list(parts),
        }
        place = len(self._turns)
        while self._stands_before(call_id, place):
            place -= 1
        self._turns.insert(place, result)

    def _stands_before(self, call_id: str, place: int) -> bool:
        """Whether a call's result belongs before the turn in front of `place`.

        That is one that is neither the call nor a result, or the result of a later call.
        """
        other = self._turns[place - 1]
        if other["role"] == "tool":
            return self._calls[call_id] < self._calls[other["tool_call_id"]]
        return other["role"] != "assistant"

    def answer(self, text: str) -> None:
        """The assistant writes something."""
        self._assistant()["content"].append(text)

    def think(self, text: str) -> None:
        """The assistant thinks something."""
        self._assistant().setdefault("reasoning_content", []).append(text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """The assistant calls a tool; `arguments` is JSON text."""
        calls = self._assistant().setdefault("tool_calls", [])
        self._calls[call_id] = (len(calls), name)
        function = {"name": name, "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": function})

    def _assistant(self) -> dict[str, Any]:
        if not self._turns or self._turns[-1]["role"] != "assistant":
            self._calls = {}
        return self._last("assistant")


def _finished(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != "assistant":
        return {**turn, "content": _content(turn["content"])}
    found = {**turn, "content": "".join(turn["content"])}
    if "reasoning_content" in turn:
        found["reasoning_content"] = _BETWEEN.join(filter(None, turn["reasoning_content"]))
    return found


def joined(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages, where what one side says in a row is one turn, as `Turns` has it.

    The messages are `quire.messages.read_conversation`'s; they are left as they are.
    """
    runs: list[list[dict[str, Any]]] = []
    for message in messages:
        if runs and _belongs(runs[-1][-1]["role"], message["role"]):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else _together(run) for run in runs]


def _belongs(last: str, role: str) -> bool:
    """Whether a message belongs to the turn before: the model's turn follows results of tools."""
    return role == last == "assistant" or (role == "user" and last in ("user", "tool"))


def _together(run: Sequence[dict[str, Any]]) -> dict[str, Any]:
    found = {**run[0], "content": _contents([message.get("content") for message in run])}
    thoughts = [turn.get("reasoning_content") or turn.get("reasoning") for turn in run]
    if any(thoughts):
        found.pop("reasoning", None)
        found["reasoning_content"] = _BETWEEN.join(filter(None, thoughts))
    calls = [call for message in run for call in message.get("tool_calls") or ()]
    if calls:
        found["tool_calls"] = calls
    if found["role"] == "user" and any(turn.get("name") != found.get("name") for turn in run):
        found.pop("name", None)
    return found


def _contents(contents: Sequence[str | list[Part] | None]) -> str | list[Part]:
    """Strings stay strings, in which placeholders are looked for, unlike in `text_part`'s."""
    texts = [content for content in contents if not isinstance(content, list)]
    if len(texts) == len(contents):
        return _BETWEEN.join(filter(None, texts))
    parts: list[Part] = []
    for content in filter(None, contents):
        _go_on(parts, [{"type": "text", "text": content}] if isinstance(content, str) else content)
    return parts


def _go_on(parts: list[Part], more: Sequence[Part]) -> None:
    if parts and more:
        parts.append(text_part(_BETWEEN))
    parts.extend(more)


def _content(parts: Sequence[Part]) -> str | list[Part]:
    """One string where all is text in which nothing looks like a placeholder; that is read faster."""
    if any(part["type"] != "text" for part in parts):
        return list(parts)
    text = "".join(part["text"] for part in parts)
    if any(mark in text for mark in PLACEHOLDERS.values()):
        return [text_part(text)]
    return text
