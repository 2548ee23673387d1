"""Conversations in quire's form: turns made from blocks, items, and consecutive messages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from operator import itemgetter
from typing import Any, TypeAlias

from quire.media.placement import PLACEHOLDERS
from quire.server.errors import BadRequest

Part: TypeAlias = dict[str, Any]
"""A part of a message as `quire.messages` reads it."""

_BETWEEN = "\n\n"


def text_part(text: str) -> Part:
    """A client's text, in which placeholders for media are literal text."""
    return {"type": "text", "text": text, "literal": True}


_GAP: Part = {**text_part(_BETWEEN), "gap": True}
"""Stands between the parts of two messages; `quire.messages` puts no line break of its own beside it."""


class Turns:
    """Collects turns, joining consecutive ones of one role, as chat templates need it.

    `messages` and `system` are those of a `Call`.
    """

    def __init__(self) -> None:
        # As `messages`, with a list in place of each text, so that appending copies nothing.
        self._turns: list[dict[str, Any]] = []
        self._system: list[str] = []
        self._calls: dict[str, tuple[int, str]] = {}  # index and name, of the last assistant turn
        # The results of each assistant turn, each with its call, in the order in which they came:
        # sorted once at the end, since a client may send thousands in any order.
        self._results: list[list[tuple[tuple[int, str], dict[str, Any]]]] = []
        self._last_result: tuple[tuple[int, str], dict[str, Any]] | None = None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The turns so far."""
        messages: list[dict[str, Any]] = []
        results = iter(self._results)
        for turn in self._turns:
            messages.append(_message(turn))
            if turn["role"] == "assistant":
                of_turn = sorted(next(results), key=itemgetter(0))
                messages += [_message(result) for _, result in of_turn]
        return messages

    @property
    def system(self) -> str | None:
        """All instructions before the first turn; None without any."""
        return _BETWEEN.join(self._system) if self._system else None

    def instruct(self, text: str) -> None:
        """Add to the system message; after the first turn, to a system turn of its own."""
        if not text:
            return
        if self._turns:
            _append(self._turn("system")["content"], [text_part(text)])
        else:
            self._system.append(text)

    def say(self, parts: Sequence[Part]) -> None:
        """Add to the user's turn, or to the last tool result, which the model's turn follows."""
        last = self._last
        after_results = last is not None and last["role"] == "tool"
        _append(self._turn("tool" if after_results else "user")["content"], parts)

    @property
    def _last(self) -> dict[str, Any] | None:
        """The last turn as `messages` has them."""
        last = self._turns[-1] if self._turns else None
        if last is not None and last["role"] == "assistant" and self._last_result is not None:
            return self._last_result[1]
        return last

    def _turn(self, role: str) -> dict[str, Any]:
        """The last turn if it is this role's, else a new one."""
        last = self._last
        if last is None or last["role"] != role:
            last = {"role": role, "content": []}
            self._turns.append(last)
        return last

    def result(self, call_id: str, parts: Sequence[Part], param: str) -> None:
        """Add a tool's result; several are put in the order of their calls.

        Raises:
            BadRequest: the assistant's turn before has no such call.
        """
        call = self._calls.get(call_id)
        if call is None:
            raise BadRequest(
                f"A tool's result is for the call {call_id[:80]!r}, which is none of the "
                "assistant's turn before it.",
                param=param,
            )
        result = {
            "role": "tool",
            "tool_call_id": call_id,
            "name": call[1],
            "content": list(parts),
        }
        self._results[-1].append((call, result))
        if self._last_result is None or call >= self._last_result[0]:
            self._last_result = (call, result)

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
        last = self._last
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": []}
            self._turns.append(last)
            self._calls, self._last_result = {}, None
            self._results.append([])
        return last


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
        parts.append(_GAP)
    parts.extend(more)


def _content(parts: Sequence[Part]) -> str | list[Part]:
    """One string, which is read faster, if each message was one text without placeholders."""
    of_one_message = (one for one in pairwise(parts) if _GAP not in one)
    if any(part["type"] != "text" for part in parts) or any(of_one_message):
        return list(parts)
    text = "".join(part["text"] for part in parts)
    if any(mark in text for mark in PLACEHOLDERS.values()):
        return [text_part(text)]
    return text
