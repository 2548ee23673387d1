"""Conversations in quire's form: turns made from blocks, items, and consecutive messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from quire.media.placement import PLACEHOLDERS
from quire.server.errors import BadRequest

Part: TypeAlias = dict[str, Any]
"""A part of a message as `quire.messages` reads it."""

_BETWEEN = "\n\n"


def text_part(text: str) -> Part:
    """A client's text, in which placeholders for media are literal text."""
    return {"type": "text", "text": text, "literal": True}


class Turns:
    """Collects turns, joining consecutive ones of one role, as chat templates need it.

    `messages` and `system` are those of a `Call`.
    """

    def __init__(self) -> None:
        # As `messages`, with a list in place of each text, so that appending copies nothing.
        self._turns: list[dict[str, Any]] = []
        self._system: list[str] = []
        self._calls: dict[str, tuple[int, str]] = {}  # index and name, of the last assistant turn

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns so far."""
        return [_message(turn) for turn in self._turns]

    @property
    def system(self) -> str | None:
        """All instructions before the first turn; None without any."""
        return _BETWEEN.join(self._system) if self._system else None

    def instruct(self, text: str) -> None:
        """Add to the system message; after the first turn, to a system turn of its own."""
        if not text:
            return
        if self._turns:
            _append(self._last("system")["content"], [text_part(text)])
        else:
            self._system.append(text)

    def say(self, parts: Sequence[Part]) -> None:
        """Add to the user's turn, or to the last tool result, which the model's turn follows."""
        after_results = self._turns and self._turns[-1]["role"] == "tool"
        _append(self._last("tool" if after_results else "user")["content"], parts)

    def _last(self, role: str) -> dict[str, Any]:
        """The last turn if it is this role's, else a new one."""
        if not self._turns or self._turns[-1]["role"] != role:
            self._turns.append({"role": role, "content": []})
        return self._turns[-1]

    def result(self, call_id: str, parts: Sequence[Part], param: str) -> None:
        """Add a tool's result; several are put in the order of their calls.

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
        index = len(self._turns)
        while self._belongs_before(call_id, self._turns[index - 1]):
            index -= 1
        self._turns.insert(index, result)

    def _belongs_before(self, call_id: str, other: dict[str, Any]) -> bool:
        """Whether a call's result belongs before this turn: any but the call and earlier results."""
        if other["role"] == "tool":
            return self._calls[call_id] < self._calls[other["tool_call_id"]]
        return other["role"] != "assistant"

    def answer(self, text: str) -> None:
        """Add text to the assistant's turn."""
        self._assistant()["content"].append(text)

    def think(self, text: str) -> None:
        """Add a thought to the assistant's turn."""
        self._assistant().setdefault("reasoning_content", []).append(text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a tool call to the assistant's turn; `arguments` is JSON text."""
        calls = self._assistant().setdefault("tool_calls", [])
        self._calls[call_id] = (len(calls), name)
        function = {"name": name, "arguments": arguments}
        calls.append({"id": call_id, "type": "function", "function": function})

    def _assistant(self) -> dict[str, Any]:
        if not self._turns or self._turns[-1]["role"] != "assistant":
            self._calls = {}
        return self._last("assistant")


def _message(turn: dict[str, Any]) -> dict[str, Any]:
    if turn["role"] != "assistant":
        return {**turn, "content": _content(turn["content"])}
    message = {**turn, "content": "".join(turn["content"])}
    if "reasoning_content" in turn:
        message["reasoning_content"] = _BETWEEN.join(filter(None, turn["reasoning_content"]))
    return message


def joined(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A chat's messages, with consecutive ones of one role joined into one turn, as in `Turns`.

    The messages are `quire.messages.read_conversation`'s; they are not changed.
    """
    runs: list[list[dict[str, Any]]] = []
    for message in messages:
        if runs and _continues(runs[-1][-1]["role"], message["role"]):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else _joined(run) for run in runs]


def _continues(last: str, role: str) -> bool:
    """Whether a message continues the turn before, as the user's does after tool results."""
    return role == last == "assistant" or (role == "user" and last in ("user", "tool"))


def _joined(run: Sequence[dict[str, Any]]) -> dict[str, Any]:
    turn = {**run[0], "content": _joined_content([message.get("content") for message in run])}
    thoughts = [message.get("reasoning_content") or message.get("reasoning") for message in run]
    if any(thoughts):
        turn.pop("reasoning", None)
        turn["reasoning_content"] = _BETWEEN.join(filter(None, thoughts))
    calls = [call for message in run for call in message.get("tool_calls") or ()]
    if calls:
        turn["tool_calls"] = calls
    if turn["role"] == "user" and any(one.get("name") != turn.get("name") for one in run):
        turn.pop("name", None)
    return turn


def _joined_content(contents: Sequence[str | list[Part] | None]) -> str | list[Part]:
    """Strings stay strings, since placeholders count in them, unlike in `text_part`."""
    texts = [content for content in contents if not isinstance(content, list)]
    if len(texts) == len(contents):
        return _BETWEEN.join(filter(None, texts))
    parts: list[Part] = []
    for content in filter(None, contents):
        _append(parts, [{"type": "text", "text": content}] if isinstance(content, str) else content)
    return parts


def _append(parts: list[Part], more: Sequence[Part]) -> None:
    if parts and more:
        parts.append(text_part(_BETWEEN))
    parts.extend(more)


def _content(parts: Sequence[Part]) -> str | list[Part]:
    """One string, which is read faster, if all is text in which nothing looks like a placeholder."""
    if any(part["type"] != "text" for part in parts):
        return list(parts)
    text = "".join(part["text"] for part in parts)
    if any(mark in text for mark in PLACEHOLDERS.values()):
        return [text_part(text)]
    return text
