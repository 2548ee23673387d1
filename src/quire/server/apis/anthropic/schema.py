"""Anthropic's requests and answers; fields that quire does not support are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import BaseModel, Field, Tag
from typing_extensions import TypedDict

from quire.server.apis.body import Body, by_type, kinds, strict, tagged
from quire.server.apis.option_fields import OptionFields, option_fields

_CONTENT = by_type(
    {str: "Text", list: "Blocks"}, "content_type", "a string or a list of blocks is needed"
)


@strict
class CacheControl(TypedDict):
    """Accepted and ignored, since quire always caches prefixes."""

    type: Literal["ephemeral"]
    ttl: NotRequired[Literal["5m", "1h"]]


@strict
class TextBlock(TypedDict):
    type: Literal["text"]
    text: str
    cache_control: NotRequired[CacheControl | None]
    citations: NotRequired[None]


@strict
class Base64Image(TypedDict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Field(min_length=1)]


@strict
class ImageAtUrl(TypedDict):
    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


ImageSource: TypeAlias = Annotated[
    Annotated[Base64Image, Tag("Base64Image")] | Annotated[ImageAtUrl, Tag("ImageAtUrl")],
    tagged({"base64": "Base64Image", "url": "ImageAtUrl"}, "type", "an image of an unknown source"),
]


@strict
class ImageBlock(TypedDict):
    type: Literal["image"]
    source: ImageSource
    cache_control: NotRequired[CacheControl | None]


@strict
class PlainText(TypedDict):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


@strict
class DocumentBlock(TypedDict):
    """A document of plain text; others are refused."""

    type: Literal["document"]
    source: PlainText
    title: NotRequired[str | None]
    context: NotRequired[str | None]
    cache_control: NotRequired[CacheControl | None]


@strict
class ThinkingBlock(TypedDict):
    type: Literal["thinking"]
    thinking: str
    signature: NotRequired[str]
    """Not checked, since thoughts are plain text here."""


@strict
class ToolUseBlock(TypedDict):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: dict[str, Any]
    cache_control: NotRequired[CacheControl | None]


ResultBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ImageBlock, Tag("ImageBlock")]
    | Annotated[DocumentBlock, Tag("DocumentBlock")],
    tagged(
        {"text": "TextBlock", "image": "ImageBlock", "document": "DocumentBlock"},
        "type",
        "a block of an unknown type",
    ),
]


@strict
class ToolResultBlock(TypedDict):
    type: Literal["tool_result"]
    tool_use_id: str
    content: NotRequired[
        Annotated[
            Annotated[str, Tag("Text")] | Annotated[list[ResultBlock], Tag("Blocks")], _CONTENT
        ]
    ]
    is_error: NotRequired[bool | None]
    """True puts "Error: " in front of the result, for the model to see."""
    cache_control: NotRequired[CacheControl | None]


UserBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ImageBlock, Tag("ImageBlock")]
    | Annotated[DocumentBlock, Tag("DocumentBlock")]
    | Annotated[ToolResultBlock, Tag("ToolResultBlock")],
    tagged(
        {
            "text": "TextBlock",
            "image": "ImageBlock",
            "document": "DocumentBlock",
            "tool_result": "ToolResultBlock",
        },
        "type",
        "a block of an unknown type",
    ),
]
AssistantBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ThinkingBlock, Tag("ThinkingBlock")]
    | Annotated[ToolUseBlock, Tag("ToolUseBlock")],
    tagged(
        {"text": "TextBlock", "thinking": "ThinkingBlock", "tool_use": "ToolUseBlock"},
        "type",
        "a block of an unknown type",
    ),
]
TextOrBlocks: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[TextBlock], Tag("Blocks")], _CONTENT
]


@strict
class UserTurn(TypedDict):
    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("Text")] | Annotated[list[UserBlock], Tag("Blocks")], _CONTENT
    ]


@strict
class AssistantTurn(TypedDict):
    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("Text")] | Annotated[list[AssistantBlock], Tag("Blocks")], _CONTENT
    ]


@strict
class SystemTurn(TypedDict):
    role: Literal["system"]
    content: TextOrBlocks


Turn: TypeAlias = Annotated[
    Annotated[UserTurn, Tag("UserTurn")]
    | Annotated[AssistantTurn, Tag("AssistantTurn")]
    | Annotated[SystemTurn, Tag("SystemTurn")],
    tagged(
        {"user": "UserTurn", "assistant": "AssistantTurn", "system": "SystemTurn"},
        "role",
        "a message of an unknown role",
    ),
]


@strict
class CustomTool(TypedDict):
    """A tool that the client runs; Anthropic's own tools are refused by their type."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    input_schema: dict[str, Any]
    description: NotRequired[str]
    type: NotRequired[Literal["custom"] | None]
    cache_control: NotRequired[CacheControl | None]
    strict: NotRequired[bool | None]
    """A forced `tool_choice` constrains arguments to the schema; otherwise they are the model's."""


ToolOfClient: TypeAlias = Annotated[
    CustomTool, kinds("custom", because="only tools that the client runs are.")
]


@strict
class ToolChoice(TypedDict):
    type: Literal["auto", "any", "tool", "none"]
    name: NotRequired[str]
    """The tool that must be called, with the type "tool"."""
    disable_parallel_tool_use: NotRequired[bool]


@strict
class Thinking(TypedDict):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: NotRequired[Annotated[int, Field(ge=1024)]]
    """Not enforced: a thought is limited by `max_tokens` alone."""
    display: NotRequired[Literal["summarized", "omitted"] | None]
    """"omitted" leaves the text of thoughts out; otherwise it is returned in full."""


@strict
class AnswerFormat(TypedDict):
    type: Literal["json_schema"]
    schema: dict[str, Any]


@strict
class OutputConfig(TypedDict):
    format: NotRequired[AnswerFormat | None]


@strict
class RequestMetadata(TypedDict):
    user_id: NotRequired[Annotated[str, Field(max_length=256)] | None]


class CountTokensRequest(Body):
    """The body of /v1/messages/count_tokens, which makes a prompt."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: TextOrBlocks | None = None
    tools: list[ToolOfClient] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None


if TYPE_CHECKING:
    _Options = OptionFields
else:
    # `max_tokens` is required below; the others are parts of fields declared above.
    _Options = option_fields("anthropic", but=("max_tokens", "output_config", "thinking"))


class MessagesRequest(CountTokensRequest, _Options):
    """The body of /v1/messages."""

    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)]
    stream: bool | None = None
    # For Anthropic's own service; these change no answer.
    metadata: RequestMetadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None


# --- answers, for the OpenAPI page ---------------------------------------------------------------


class WrittenText(BaseModel):
    type: Literal["text"]
    text: str


class WrittenThought(BaseModel):
    type: Literal["thinking"]
    thinking: str
    signature: str


class WrittenToolUse(BaseModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class ThinkingTokens(BaseModel):
    thinking_tokens: int


class MessageUsage(BaseModel):
    input_tokens: int
    """Without tokens from the prefix cache."""
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens


class AnthropicMessage(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[WrittenText | WrittenThought | WrittenToolUse]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"] | None
    stop_sequence: str | None
    usage: MessageUsage


class TokenCount(BaseModel):
    input_tokens: int


class AnthropicErrorDetail(BaseModel):
    type: str
    message: str


class AnthropicErrorBody(BaseModel):
    type: Literal["error"]
    error: AnthropicErrorDetail
