"""The messages of OpenAI's chat API, checked; they stay plain dictionaries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import Field, Tag
from typing_extensions import TypedDict

from quire.server.apis.body import by_type, strict, tagged

Detail: TypeAlias = Literal["auto", "low", "high", "original"]
_CONTENT = by_type(
    {str: "Text", list: "Parts", type(None): "Null"},
    "content_type",
    "a string or a list of parts is needed",
)


# --- what clients send back with a history ---------------------------------------------------------
# It asks for nothing, and is dropped. `docs/server-apis.md` lists these fields.


class PartRecord(TypedDict, total=False):
    """Fields of a part of a message, or of a call, that hints and histories have."""

    annotations: Any
    cache_control: Any
    extra_content: Any
    metadata: Any
    prompt_cache_breakpoint: Any
    provider_metadata: Any
    provider_options: Any
    provider_specific_fields: Any
    signature: Any
    thought_signature: Any
    uuid: Any


class MessageRecord(TypedDict, total=False):
    """Fields of a message of any role in a history that a client has kept."""

    additional_kwargs: Any
    cache_control: Any
    created: Any
    created_at: Any
    extra_content: Any
    id: Any
    metadata: Any
    model: Any
    object: Any
    provider_metadata: Any
    provider_options: Any
    provider_specific_fields: Any
    response_metadata: Any
    status: Any
    timestamp: Any
    usage: Any
    usage_metadata: Any


class AnswerRecord(MessageRecord, total=False):
    """Fields of an answer as SDKs, gateways and other servers return it."""

    annotations: Any
    citations: Any
    encrypted_content: Any
    end_turn: Any
    finish_reason: Any
    logprobs: Any
    native_finish_reason: Any
    parsed: Any
    phase: Any
    reasoning_details: Any
    reasoning_items: Any
    reasoning_signature: Any
    refusal: str | None
    signature: Any
    stop_reason: Any
    thinking_blocks: Any
    thought_signature: Any
    token_ids: Any
    weight: Any


class ResultRecord(MessageRecord, total=False):
    """Fields of a tool's result in a history."""

    artifact: Any
    is_error: Any
    tool_name: Any


class CalledFunctionRecord(PartRecord, total=False):
    """Fields of a call's function in a history."""

    parsed_arguments: Any


# --- parts -----------------------------------------------------------------------------------------


@strict
class TextContentPart(PartRecord):
    type: Literal["text"]
    text: str


@strict
class RefusalContentPart(PartRecord):
    type: Literal["refusal"]
    refusal: str


@strict
class ImageUrl(TypedDict):
    url: Annotated[str, Field(min_length=1)]
    """A data URL; an address or a file's path where the server allows them."""
    detail: NotRequired[Detail | None]
    """Ignored: pictures are scaled as the server's own settings say."""


@strict
class ImageContentPart(PartRecord):
    type: Literal["image_url"]
    image_url: ImageUrl


@strict
class MediaUrl(TypedDict):
    url: Annotated[str, Field(min_length=1)]
    detail: NotRequired[Detail | None]
    """Ignored, as for pictures."""


@strict
class VideoContentPart(PartRecord):
    type: Literal["video_url"]
    video_url: MediaUrl


@strict
class AudioUrlContentPart(PartRecord):
    type: Literal["audio_url"]
    audio_url: MediaUrl


@strict
class AudioData(TypedDict):
    data: Annotated[str, Field(min_length=1)]
    """Base64."""
    format: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]


@strict
class AudioContentPart(PartRecord):
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
class CalledFunction(CalledFunctionRecord):
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str


@strict
class CallRecord(PartRecord):
    id: NotRequired[str | None]
    type: NotRequired[Literal["function"] | None]
    function: CalledFunction
    index: NotRequired[int | None]


@strict
class SystemMessage(MessageRecord):
    role: Literal["system", "developer"]
    content: TextContent
    name: NotRequired[str | None]


@strict
class UserMessage(MessageRecord):
    role: Literal["user"]
    content: Content
    name: NotRequired[str | None]


@strict
class AssistantMessage(AnswerRecord):
    role: Literal["assistant"]
    content: NotRequired[OwnContent]
    name: NotRequired[str | None]
    reasoning_content: NotRequired[str | None]
    reasoning: NotRequired[str | None]
    tool_calls: NotRequired[list[CallRecord] | None]
    # These hold content, which would be lost: only null is accepted.
    function_call: NotRequired[None]
    audio: NotRequired[None]
    # Of the last message: the answer continues it. The names are Mistral's and Moonshot's.
    prefix: NotRequired[bool | None]
    partial: NotRequired[bool | None]


@strict
class FunctionMessage(MessageRecord):
    """LLaMA-Factory's turn of an assistant that calls: JSON of one call, or of a list of them."""

    role: Literal["function"]
    content: str
    name: NotRequired[str | None]


@strict
class ToolMessage(ResultRecord):
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
        "function": "FunctionMessage",
        "tool": "ToolMessage",
    },
    "role",
    "a message of an unknown role",
)
Message: TypeAlias = Annotated[
    Annotated[SystemMessage, Tag("SystemMessage")]
    | Annotated[UserMessage, Tag("UserMessage")]
    | Annotated[AssistantMessage, Tag("AssistantMessage")]
    | Annotated[FunctionMessage, Tag("FunctionMessage")]
    | Annotated[ToolMessage, Tag("ToolMessage")],
    _ROLES,
]

MESSAGE_RECORDS = frozenset(AnswerRecord.__annotations__) | frozenset(ResultRecord.__annotations__)
"""The fields of messages that are dropped."""
PART_RECORDS = frozenset(CalledFunctionRecord.__annotations__)
"""The fields of parts and calls that are dropped."""
_EMPTY = ("function_call", "audio")
_PREFIXES = ("prefix", "partial")


def quire_messages(messages: list[Message]) -> list[dict[str, Any]]:
    """The messages as `quire.messages.read_conversation` takes them."""
    return [_message(message) for message in messages]


def prefixes(messages: list[Message]) -> list[tuple[int, str]]:
    """The messages that say of themselves that the answer continues them: index and field."""
    return [
        (index, name)
        for index, message in enumerate(messages)
        for name in _PREFIXES
        if message.get(name) is True
    ]


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    dropped = (*_EMPTY, *_PREFIXES)
    kept = {
        key: value
        for key, value in message.items()
        if key not in MESSAGE_RECORDS and key not in dropped
    }
    if message.get("refusal") and message.get("content") is None:
        kept["content"] = message["refusal"]
    if isinstance(content := kept.get("content"), list):
        kept["content"] = [_part(part) for part in content]
    return kept


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    if part["type"] == "refusal":
        return {"type": "text", "text": part["refusal"]}
    return {key: value for key, value in part.items() if key not in PART_RECORDS}
