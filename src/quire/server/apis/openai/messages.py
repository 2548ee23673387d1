"""The messages of OpenAI's chat API, checked; they stay plain dictionaries."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import Field, Tag
from typing_extensions import TypedDict

from quire.server.apis.body import by_type, strict, tagged

_CONTENT = by_type(
    {str: "Text", list: "Parts", type(None): "Null"},
    "content_type",
    "a string or a list of parts is needed",
)


@strict
class TextContentPart(TypedDict):
    type: Literal["text"]
    text: str


@strict
class RefusalContentPart(TypedDict):
    type: Literal["refusal"]
    refusal: str


@strict
class ImageUrl(TypedDict):
    url: Annotated[str, Field(min_length=1)]
    """A data URL; an address or a file's path where the server allows them."""
    detail: NotRequired[Literal["auto", "high"] | None]


@strict
class ImageContentPart(TypedDict):
    type: Literal["image_url"]
    image_url: ImageUrl


@strict
class MediaUrl(TypedDict):
    url: Annotated[str, Field(min_length=1)]


@strict
class VideoContentPart(TypedDict):
    type: Literal["video_url"]
    video_url: MediaUrl


@strict
class AudioUrlContentPart(TypedDict):
    type: Literal["audio_url"]
    audio_url: MediaUrl


@strict
class AudioData(TypedDict):
    data: Annotated[str, Field(min_length=1)]
    """Base64."""
    format: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]


@strict
class AudioContentPart(TypedDict):
    type: Literal["input_audio"]
    input_audio: AudioData


_PARTS = tagged(
    {
        "text": "TextContentPart",
        "image_url": "ImageContentPart",
        "video_url": "VideoContentPart",
        "audio_url": "AudioUrlContentPart",
        "input_audio": "AudioContentPart",
    },
    "type",
    "a part of an unknown type",
)
Part: TypeAlias = Annotated[
    Annotated[TextContentPart, Tag("TextContentPart")]
    | Annotated[ImageContentPart, Tag("ImageContentPart")]
    | Annotated[VideoContentPart, Tag("VideoContentPart")]
    | Annotated[AudioUrlContentPart, Tag("AudioUrlContentPart")]
    | Annotated[AudioContentPart, Tag("AudioContentPart")],
    _PARTS,
]
_OWN_PARTS = tagged(
    {"text": "TextContentPart", "refusal": "RefusalContentPart"},
    "type",
    "a part of an unknown type",
)
OwnPart: TypeAlias = Annotated[
    Annotated[TextContentPart, Tag("TextContentPart")]
    | Annotated[RefusalContentPart, Tag("RefusalContentPart")],
    _OWN_PARTS,
]
TextContent: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[TextContentPart], Tag("Parts")], _CONTENT
]
Content: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[Part], Tag("Parts")], _CONTENT
]
OwnContent: TypeAlias = Annotated[
    Annotated[str, Tag("Text")]
    | Annotated[list[OwnPart], Tag("Parts")]
    | Annotated[None, Tag("Null")],
    _CONTENT,
]


@strict
class CalledFunction(TypedDict):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str


@strict
class CallRecord(TypedDict):
    id: NotRequired[str | None]
    type: NotRequired[Literal["function"]]
    function: CalledFunction
    index: NotRequired[int]


@strict
class SystemMessage(TypedDict):
    role: Literal["system", "developer"]
    content: TextContent
    name: NotRequired[str | None]


@strict
class UserMessage(TypedDict):
    role: Literal["user"]
    content: Content
    name: NotRequired[str | None]


@strict
class AssistantMessage(TypedDict):
    role: Literal["assistant"]
    content: NotRequired[OwnContent]
    refusal: NotRequired[str | None]
    name: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]
    reasoning: NotRequired[str | None]
    tool_calls: NotRequired[list[CallRecord] | None]
    # The official client sends these back; only null and empty lists are accepted.
    function_call: NotRequired[None]
    audio: NotRequired[None]
    annotations: NotRequired[Annotated[list[Any], Field(max_length=0)] | None]


@strict
class ToolMessage(TypedDict):
    role: Literal["tool"]
    content: Content
    tool_call_id: NotRequired[str | None]
    name: NotRequired[str | None]


_ROLES = tagged(
    {
        "system": "SystemMessage",
        "developer": "SystemMessage",
        "user": "UserMessage",
        "assistant": "AssistantMessage",
        "tool": "ToolMessage",
    },
    "role",
    "a message of an unknown role",
)
Message: TypeAlias = Annotated[
    Annotated[SystemMessage, Tag("SystemMessage")]
    | Annotated[UserMessage, Tag("UserMessage")]
    | Annotated[AssistantMessage, Tag("AssistantMessage")]
    | Annotated[ToolMessage, Tag("ToolMessage")],
    _ROLES,
]

_DROPPED = ("function_call", "audio", "annotations", "refusal")


def quire_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as `quire.messages.read_conversation` takes them."""
    return [_message(dict(message)) for message in messages]


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "assistant":
        if message.get("refusal") and message.get("content") is None:
            message["content"] = message["refusal"]
        for key in _DROPPED:
            message.pop(key, None)
    if isinstance(message.get("content"), list):
        message["content"] = [_part(part) for part in message["content"]]
    return message


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "refusal":
        return {"type": "text", "text": part["refusal"]}
    return part
