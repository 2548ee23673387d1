"""The messages of a row, in its data set's words, as messages in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Literal, TypeAlias

from quire.batch.inputs.dataset_info import DataSet, MessageTags
from quire.batch.inputs.records import RowFault, kind_of
from quire.errors import MessageError, ToolError
from quire.messages import ToolCall, read_message, read_tools

_Role: TypeAlias = Literal["system", "user", "assistant", "function", "tool"]
_OF_TAG: dict[str, _Role] = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "function",
    "system_tag": "system",
}
_OPENAI: dict[str, _Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
_EXTRA_KEYS = ("tool_calls", "tool_call_id", "name", "reasoning_content", "reasoning")
_ANSWERS = ("assistant", "function")


EMPTY_TOOLS = "[]"
"""Tools of which there are none, for which LLaMA-Factory's formats yet write a system turn."""


def tool_list(value: Any, *, empty_counts: bool = False) -> list[dict[str, Any]] | str | None:
    """The tools of a row, from a list or its JSON text; None where there are none.

    Args:
        empty_counts: whether an empty list is `EMPTY_TOOLS` too, as its text always is.

    Raises:
        RowFault: they cannot be read.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        tools = list(read_tools(value))
    except ToolError as error:
        raise RowFault(str(error), "invalid_tools") from None
    if tools:
        return tools
    return EMPTY_TOOLS if empty_counts or isinstance(value, str) else None


class TurnReader:
    """Reads the messages of one data set's rows."""

    def __init__(self, data_set: DataSet, *, strict: bool) -> None:
        """`strict`: refuse what LLaMA-Factory drops, though a template could render it."""
        self._tags, self._strict = data_set.tags, strict
        self._is_openai = data_set.formatting == "openai"
        self._own_names = self._is_openai and not data_set.named_tags
        roles: dict[str, _Role] = dict(_OPENAI) if self._is_openai else {}
        for one in fields(MessageTags):
            word = getattr(data_set.tags, one.name)
            if one.name in _OF_TAG and word is not None:
                roles[word] = _OF_TAG[one.name]
        self._roles = roles

    def read(
        self, messages: Sequence[Any], *, ranking: bool
    ) -> tuple[str | None, list[dict[str, Any]]]:
        """The system message at the start, if there is one, and the turns after it.

        Raises:
            RowFault: a message cannot be read, or the roles are out of order.
        """
        turns: list[tuple[_Role, dict[str, Any]]] = []
        system: str | None = None
        for number, message in enumerate(messages):
            role, content = self._role_and_content(message, number)
            if number == 0 and role == "system":
                if not isinstance(content, str):
                    raise RowFault("The system message must be text.")
                system = content
                continue
            turns.append((role, self._turn(role, content, message, number)))
        while self._strict and self._is_openai and turns and turns[-1][0] == "tool":
            turns.pop()  # LLaMA-Factory writes results with the message after them
        self._check_order([role for role, _ in turns], system is not None, ranking=ranking)
        return system, [turn for _, turn in turns]

    def answer(self, message: Mapping[str, Any], column: str) -> dict[str, Any]:
        """The chosen or rejected answer in a column of its own.

        Raises:
            RowFault: it is none of the assistant's.
        """
        role, content = self._role_and_content(message, None, column)
        if role not in _ANSWERS:
            raise RowFault(f"The column {column!r} holds a message of the {role}, not an answer.")
        return self._turn(role, content, message, None)

    def _role_and_content(
        self, message: Any, number: int | None, column: str = ""
    ) -> tuple[_Role, Any]:
        where = f"The column {column!r}" if number is None else f"Message {number}"
        if not isinstance(message, Mapping):
            raise RowFault(f"{where} is {kind_of(message)}, not an object.")
        role_key, content_key = self._tags.role_tag, self._tags.content_tag
        if self._own_names and role_key not in message and "role" in message:
            role_key, content_key = "role", "content"
        if role_key not in message:
            present = ", ".join(map(repr, message)) or "none"
            raise RowFault(f"{where} has no key {role_key!r} for its role; its keys are {present}.")
        name = message[role_key]
        role = self._roles.get(name) if isinstance(name, str) else None
        if role is None:
            known = ", ".join(map(repr, self._roles))
            raise RowFault(
                f"{where} has the role {name!r}; the data set's tags are {known}"
                f"{self._unset_tag(name)}.",
                "unknown_role",
            )
        if content_key not in message and not (self._is_openai and message.get("tool_calls")):
            raise RowFault(f"{where} has no key {content_key!r} for its text.")
        return role, message.get(content_key)

    def _unset_tag(self, name: Any) -> str:
        """Which tag a role's usual word would need, where the set leaves it out."""
        usual: dict[str, str] = {"developer": "system_tag", "tool": "observation_tag"}
        usual |= {role: tag for tag, role in _OF_TAG.items()} | {
            str(one.default): one.name for one in fields(MessageTags) if one.name in _OF_TAG
        }
        tag = usual.get(name) if isinstance(name, str) else None
        unset = tag is not None and getattr(self._tags, tag) is None
        return f", and {tag} is not set" if unset else ""

    def _turn(
        self, role: _Role, content: Any, message: Mapping[str, Any], number: int | None
    ) -> dict[str, Any]:
        """A message in OpenAI's form, which is one that quire reads."""
        where = "The answer" if number is None else f"Message {number}"
        turn: dict[str, Any] = {"role": "function_call" if role == "function" else role}
        turn["content"] = content
        if self._is_openai:
            turn |= {key: message[key] for key in _EXTRA_KEYS if message.get(key) is not None}
            if role == "function" and turn.get("tool_calls"):
                turn["role"] = "assistant"
            if self._strict and turn.get("tool_calls"):
                turn["content"] = None  # LLaMA-Factory puts the calls in its place
        if content is None and not turn.get("tool_calls"):
            raise RowFault(f"{where} ({role}) has null where its text belongs.")
        try:
            read = read_message(turn, number or 0)
        except MessageError as error:
            raise RowFault(f"{where} ({role}): {error}", "invalid_message") from None
        if turn["role"] == "function_call":
            return _calls_turn(read.text, read.tool_calls)
        return turn

    def _check_order(self, roles: Sequence[_Role], has_system: bool, *, ranking: bool) -> None:
        if not roles:
            raise RowFault("The row has no message but the system's.", "no_messages")
        first = 1 if has_system else 0
        expects_answer = False
        for number, role in enumerate(roles):
            is_answer = role in _ANSWERS
            repeats_result = role == "tool" and number > 0 and roles[number - 1] == "tool"
            if repeats_result and (self._is_openai or not self._strict):
                continue
            if role == "system" or is_answer != expects_answer:
                wanted = "the assistant's" if expects_answer else "the user's or a tool's result"
                raise RowFault(
                    f"Message {number + first} is of the role {role!r}, where it should be {wanted}.",
                    "roles_out_of_order",
                )
            expects_answer = not is_answer
        if roles[0] == "tool" and not self._strict:
            raise RowFault("The conversation begins with a tool's result.", "roles_out_of_order")
        ends_with_answer = roles[-1] in _ANSWERS
        if ranking and ends_with_answer:
            raise RowFault("The messages of a pair must not end with an answer.")
        if self._strict and not ranking and not ends_with_answer:
            raise RowFault("The conversation ends without an answer.", "no_answer")


def _calls_turn(text: str, calls: Sequence[ToolCall]) -> dict[str, Any]:
    functions = [
        {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]
    return {"role": "assistant", "content": text or None, "tool_calls": functions}
