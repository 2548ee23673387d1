"""Messages as pure, comparable values, read from LLaMA-Factory's or OpenAI's form.

The caller's own dictionaries are never changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, TypeAlias

from quire.errors import MessageError, ToolError, nearest, sentence

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """A run of text. `literal` text is never searched for media placeholders."""

    text: str
    literal: bool = False


@dataclass(frozen=True, slots=True)
class Media:
    """An image, a video or a sound, as the caller gave it (path, bytes, URL, array, ...)."""

    kind: Literal["image", "video", "audio"]
    source: Any


@dataclass(frozen=True, slots=True)
class Control:
    """Text that a media family writes in place of a medium. Its control tokens are real ones."""

    text: str


@dataclass(frozen=True, slots=True)
class Joint:
    """The line break between two texts that the caller gave as parts of their own.

    It is vLLM's. A template that takes the parts themselves leaves it out.
    """

    text: str = "\n"


Part: TypeAlias = Text | Media | Control | Joint


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool; `arguments` is JSON text exactly as the model or the caller wrote it."""

    name: str
    arguments: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation.

    `reasoning` is the assistant's thought, if the caller gave it apart from the answer. A thought
    inside the text stays there, and the template finds it.
    """

    role: Role
    parts: tuple[Part, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        """All text parts, joined."""
        parts = self.parts
        if not parts:
            return ""
        if len(parts) == 1 and not isinstance(parts[0], Media):  # nearly all
            return parts[0].text
        return "".join(part.text for part in parts if not isinstance(part, Media))

    @property
    def has_control(self) -> bool:
        """Whether a media family has written into the message."""
        return Control in map(type, self.parts)

    @property
    def media(self) -> tuple[Media, ...]:
        """All media parts, in order."""
        return tuple(part for part in self.parts if isinstance(part, Media))


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a template renders.

    Attributes:
        messages: the turns, without the system message at their start.
        system: the system message; None takes the template's default.
        tools: the tools as the caller wrote them, each `{"name", "description", "parameters"}` or
            `{"type": "function", "function": {...}}`.
        empty_tools: whether the tools were given as the JSON text of an empty list, for which
            LLaMA-Factory's formats write a system turn, even an empty one.
    """

    messages: tuple[Message, ...]
    system: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    empty_tools: bool = False


_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_MESSAGE_KEYS = frozenset(
    {
        "role",
        "content",
        "tool_calls",
        "tool_call_id",
        "name",
        "reasoning_content",
        "reasoning",
        "refusal",
    }
)
_TEXT_PARTS = ("text", "input_text", "output_text")
_MEDIA_PARTS: dict[str, Literal["image", "video", "audio"]] = {
    "image": "image",
    "image_url": "image",
    "input_image": "image",
    "video": "video",
    "video_url": "video",
    "audio": "audio",
    "audio_url": "audio",
    "input_audio": "audio",
}
_JOINT = Joint()
_LOADED_FORMS = frozenset({"bytes", "path", "frames", "array"})


def read_conversation(
    messages: Sequence[Mapping[str, Any] | Message],
    system: str | None = None,
    tools: str | Sequence[Mapping[str, Any]] | None = None,
    *,
    may_end_with_answer: bool = False,
) -> Conversation:
    """Read a conversation from the caller's messages, in either form.

    System messages at the start become `system`, unless that is given. Tool results must follow the
    assistant's calls, and are put into the order of these by their ids. The last turn must not be the
    assistant's, unless it `may_end_with_answer`. Whether turns must alternate depends on the
    template: see `check_alternation`.

    Raises:
        MessageError: the messages form no conversation.
        ToolError: `tools` is no list of tools.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise MessageError('messages must be a list of {"role": ..., "content": ...}.')
    turns = [read_message(message, index) for index, message in enumerate(messages)]
    given: list[str] = []
    while turns and turns[0].role == "system":
        first = turns.pop(0)
        if first.media:
            raise MessageError(f"A system message holds text alone, not {first.media[0].kind}.")
        given.append(first.text)
    if system is None and given:
        system = "\n\n".join(given)
    _check_order(turns, may_end_with_answer)
    read = read_tools(tools)
    return Conversation(tuple(_paired(turns)), system, read, bool(tools) and not read)


def read_tools(tools: str | Sequence[Mapping[str, Any]] | None) -> tuple[dict[str, Any], ...]:
    """Read the tools from JSON text or a list. They are kept as written; only names are checked.

    Raises:
        ToolError: this is no list of tools, or a tool has no name.
    """
    if tools is None or tools == "":
        return ()
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except ValueError as error:
            raise ToolError(f"tools is no valid JSON: {error}.") from None
    if isinstance(tools, Mapping):
        tools = [tools]
    if not isinstance(tools, Sequence) or isinstance(tools, (str, bytes)):
        raise ToolError("tools must be a list of tools, or JSON text of one.")
    for index, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise ToolError(f"tools[{index}] has no name.")
    return tuple(dict(tool) for tool in tools)


def read_message(message: Mapping[str, Any] | Message, index: int = 0) -> Message:
    """Read one message.

    Args:
        message: in LLaMA-Factory's or OpenAI's form, or read already.
        index: its index among the messages, for the error's text.

    Raises:
        MessageError: this is no message.
    """
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise MessageError(f"messages[{index}] is a {type(message).__name__}, not a dictionary.")
    for key in message:
        if key not in _MESSAGE_KEYS:
            closest = nearest(str(key), _MESSAGE_KEYS)
            raise MessageError(sentence(f"messages[{index}] has an unknown key {key!r}{closest}"))
    name = message.get("role")
    role = _ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        known = ", ".join(_ROLES)
        raise MessageError(f"messages[{index}] has the role {name!r}; known are {known}.")
    calls = _read_calls(message, index) if role == "assistant" else ()
    parts = (
        () if name in ("function", "function_call") else _read_parts(message.get("content"), index)
    )
    if name in ("function", "function_call"):
        parts, calls = _read_function(message.get("content"), index)
    return Message(
        role=role,
        parts=parts,
        tool_calls=calls,
        reasoning=_optional_text(message, "reasoning_content", index)
        or _optional_text(message, "reasoning", index),
        tool_call_id=_optional_text(message, "tool_call_id", index),
        name=_optional_text(message, "name", index),
    )


def _optional_text(message: Mapping[str, Any], key: str, index: int) -> str | None:
    value = message.get(key)
    if value is not None and not isinstance(value, str):
        raise MessageError(f"messages[{index}][{key!r}] must be a string.")
    return value


def _read_parts(content: Any, index: int) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(_checked(content, index)),) if content else ()
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise MessageError(f"messages[{index}]['content'] must be a string or a list of parts.")
    parts: list[Part] = []
    was_text = False
    for given in content:
        part = _read_part(given, index)
        # A gap, which the server puts between two messages that it joins, has its own line breaks.
        is_text = isinstance(part, Text) and not (isinstance(given, Mapping) and "gap" in given)
        if is_text and was_text:
            parts.append(_JOINT)
        parts.append(part)
        was_text = is_text
    return tuple(parts)


def _checked(text: str, index: int) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(
            f"messages[{index}] holds a lone surrogate at character {error.start}: not valid Unicode text."
        ) from None
    return text


def _read_part(part: Any, index: int) -> Part:
    if isinstance(part, (Text, Media)):
        return part
    if isinstance(part, str):
        return Text(_checked(part, index))
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _TEXT_PARTS:
        if not isinstance(part.get("text"), str):
            raise MessageError(
                f"messages[{index}]: a part of type {kind!r} needs its text in 'text'."
            )
        return Text(_checked(part["text"], index), literal=part.get("literal") is True)
    if kind in _MEDIA_PARTS:
        source = _media_source(part.get(kind, part.get("source")))
        if source is None:
            raise MessageError(
                f"messages[{index}]: a part of type {kind!r} needs a source in {kind!r}."
            )
        return Media(_MEDIA_PARTS[str(kind)], source)
    known = ", ".join(["text", *_MEDIA_PARTS])
    raise MessageError(f"messages[{index}] has a part of type {kind!r}; known are {known}.")


def _media_source(source: Any) -> Any:
    """The source of a media part: the URL of OpenAI's `{"url"}`, its `{"data"}` as a data URL.

    The media loader reads dictionaries of other forms (bytes, path, frames, a waveform).
    """
    if not isinstance(source, Mapping) or _LOADED_FORMS & source.keys():
        return source
    data = source.get("data")
    if "url" in source or not isinstance(data, str) or data.startswith("data:"):
        return source.get("url", data)
    return f"data:;base64,{data}"


def _read_function(content: Any, index: int) -> tuple[tuple[Part, ...], tuple[ToolCall, ...]]:
    """Read LLaMA-Factory's `function` turn: JSON of one call or a list of them, after any text."""
    if not isinstance(content, str):
        raise MessageError(f"messages[{index}]: a function turn's content must be JSON text.")
    before, calls_json = _cut_json(content)
    try:
        calls = json.loads(calls_json)
        calls = calls if isinstance(calls, list) else [calls]
        read = tuple(
            ToolCall(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
            for call in calls
        )
    except (ValueError, KeyError, TypeError):
        raise MessageError(
            f"messages[{index}]: a function turn needs JSON with name and arguments, "
            f"not {content[:80]!r}."
        ) from None
    return ((Text(_checked(before, index)),) if before else ()), read


def _cut_json(content: str) -> tuple[str, str]:
    """Split the content into the text, such as a thought, and the JSON of the calls.

    The JSON is what stands between `<tool_call>` tags, or follows the thought.
    """
    start, end = content.find("<tool_call>"), content.find("</tool_call>")
    if 0 <= start < end:
        inside = content[start + len("<tool_call>") : end]
        return content[:start] + content[end + len("</tool_call>") :], inside
    thought = content.rfind("</think>")
    if thought >= 0:
        cut = thought + len("</think>")
        cut += len(content[cut:]) - len(content[cut:].lstrip("\n"))
        return content[:cut], content[cut:]
    return "", content


def _read_calls(message: Mapping[str, Any], index: int) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls") or ()
    try:
        return tuple(_read_call(call) for call in calls)
    except (KeyError, TypeError, AttributeError):
        raise MessageError(
            f"messages[{index}]['tool_calls'] must be a list of "
            '{"function": {"name": ..., "arguments": ...}}.'
        ) from None


def _read_call(call: Mapping[str, Any] | ToolCall) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    function = call.get("function", call)
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    call_id = call.get("id")
    if not isinstance(function["name"], str) or not isinstance(call_id, (str, type(None))):
        raise TypeError
    return ToolCall(function["name"], arguments, call_id)


def _check_order(turns: Sequence[Message], may_end_with_answer: bool) -> None:
    if not turns:
        raise MessageError("The conversation is empty: give at least one user message.")
    previous: Role = "user"
    for turn in turns:
        if turn.role == "tool" and previous not in ("assistant", "tool"):
            raise MessageError("A tool's result needs the assistant's call before it.")
        previous = turn.role
    if previous == "assistant" and not may_end_with_answer:
        raise MessageError(
            "The last turn must be the user's or a tool's result, not the assistant's: "
            "continue_final_message: true has it continued."
        )


def _paired(turns: Sequence[Message]) -> list[Message]:
    """The turns, with the tool results after each turn of the assistant in the order of its calls."""
    paired: list[Message] = []
    for is_result, group in groupby(turns, lambda turn: turn.role == "tool"):
        run = list(group)
        paired += _in_order_of(_last_calls(paired), run) if is_result else run
    return paired


def _last_calls(turns: Sequence[Message]) -> list[ToolCall]:
    """The calls of the assistant's turns at the end."""
    first = len(turns)
    while first and turns[first - 1].role == "assistant":
        first -= 1
    return [call for turn in turns[first:] for call in turn.tool_calls]


def _in_order_of(calls: Sequence[ToolCall], results: Sequence[Message]) -> list[Message]:
    """The results in the order of their calls; those without an id are for the calls left over.

    Raises:
        MessageError: a result's id is that of no call, and every call has one.
    """
    positions: dict[str, list[int]] = {}  # of the calls with an id, which several may share
    for position, call in enumerate(calls):
        if call.id:
            positions.setdefault(call.id, []).append(position)
    all_have_ids = all(call.id for call in calls)
    places: list[int | None] = []
    for result in results:
        found = positions.get(result.tool_call_id or "")
        if found:
            places.append(found.pop(0) if len(found) > 1 else found[0])
        elif result.tool_call_id and all_have_ids:
            raise MessageError(
                f"A tool's result is for the call {result.tool_call_id!r}, which is none of the "
                "assistant's turn before it."
            )
        else:
            places.append(None)
    taken = set(places)
    left = iter([position for position in range(len(calls)) if position not in taken])
    order = [next(left, len(calls)) if place is None else place for place in places]
    return [results[index] for index in sorted(range(len(results)), key=order.__getitem__)]


def check_alternation(conversation: Conversation, template: str) -> None:
    """Check that the user's turns (or tool results) and the assistant's alternate.

    Args:
        template: the name of the template that requires it, for the error's text.

    Raises:
        MessageError: the turns are not in this order.
    """
    previous: Role = "assistant"
    for index, turn in enumerate(conversation.messages):
        if turn.role == "system":
            reason = "a system message must come first"
        elif (turn.role == "assistant") != (previous == "assistant"):
            previous = turn.role
            continue
        elif turn.role == previous == "tool":
            continue
        elif index:
            reason = (
                f"turn {index} is {turn.role!r} after {previous!r}, and user turns and assistant "
                "turns alternate"
            )
        else:
            reason = "the first turn must be the user's"
        raise MessageError(
            f"Roles out of order for the template {template!r}: {reason}. A model's own chat template "
            "may take them."
        )
