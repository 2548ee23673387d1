"""Anthropic's requests and answers; fields that quire does not support are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, Tag, WithJsonSchema, with_config
from typing_extensions import TypedDict

from quire.server.apis.body import Body, by_type, kinds, only, strict, tagged
from quire.server.apis.openai.schema import ToolHints
from quire.server.apis.option_fields import OptionFields, option_fields
from quire.server.apis.refused_fields import Refused, refused_fields

_CONTENT = by_type(
    {str: "Text", list: "Blocks", type(None): "Null"},
    "content_type",
    "a string or a list of blocks is needed",
)


@strict
class CacheControl(TypedDict):
    """Accepted and ignored, since quire always caches prefixes."""

    type: Literal["ephemeral"]
    ttl: NotRequired[Literal["5m", "1h"] | None]
    scope: NotRequired[str | None]


class BlockRecord(TypedDict, total=False):
    """Fields of a block that hints and histories have; dropped, as docs/server-apis.md says."""

    cache_control: CacheControl | None
    caller: Any
    citations: Any
    parsed_output: Any
    toolset_name: Any


@strict
class TextBlock(BlockRecord):
    type: Literal["text"]
    text: str


@strict
class Base64Image(TypedDict):
    type: Literal["base64"]
    media_type: Literal["image/jpeg", "image/png", "image/gif", "image/webp"]
    data: Annotated[str, Field(min_length=1)]


@strict
class ImageAtUrl(TypedDict):
    type: Literal["url"]
    url: Annotated[str, Field(min_length=1)]


_SCALING = "transformations is not supported: pictures are scaled as the server's settings say."
ImageSource: TypeAlias = Annotated[
    Annotated[Base64Image, Tag("Base64Image")] | Annotated[ImageAtUrl, Tag("ImageAtUrl")],
    tagged({"base64": "Base64Image", "url": "ImageAtUrl"}, "type", "an image of an unknown source"),
]


@strict
class ImageBlock(BlockRecord):
    type: Literal["image"]
    source: ImageSource
    transformations: NotRequired[Annotated[None, only({}, because=_SCALING)]]


@strict
class PlainText(TypedDict):
    type: Literal["text"]
    media_type: Literal["text/plain"]
    data: str


@strict
class DocumentBlock(BlockRecord):
    """A document of plain text; others are refused."""

    type: Literal["document"]
    source: PlainText
    title: NotRequired[str | None]
    context: NotRequired[str | None]


@strict
class ThinkingBlock(BlockRecord):
    type: Literal["thinking"]
    thinking: str
    signature: NotRequired[str | None]
    """Not checked, since thoughts are plain text here."""


@strict
class ToolUseBlock(BlockRecord):
    type: Literal["tool_use"]
    id: Annotated[str, Field(min_length=1, max_length=256)]
    name: Annotated[str, Field(min_length=1, max_length=256)]
    input: dict[str, Any]


DroppedKind: TypeAlias = Literal[
    "advisor_tool_result", "bash_code_execution_tool_result", "code_execution_tool_result",
    "fallback", "mcp_tool_listing", "mcp_tool_result", "mcp_tool_use", "redacted_thinking",
    "server_tool_use", "text_editor_code_execution_tool_result", "tool_search_tool_result",
    "web_fetch_tool_result", "web_search_tool_result",
]  # fmt: skip
DROPPED_BLOCKS: tuple[DroppedKind, ...] = get_args(DroppedKind)
"""What Anthropic's own tools and models have left in a history, for its servers alone to read."""


@with_config(ConfigDict(extra="allow"))
class DroppedBlock(TypedDict):
    type: DroppedKind


@strict
class ToolReferenceBlock(BlockRecord):
    """The name of a tool that a search of tools has found; all tools are offered anyway."""

    type: Literal["tool_reference"]
    tool_name: str


ResultBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("TextBlock")]
    | Annotated[ImageBlock, Tag("ImageBlock")]
    | Annotated[DocumentBlock, Tag("DocumentBlock")]
    | Annotated[ToolReferenceBlock, Tag("ToolReferenceBlock")],
    tagged(
        {
            "text": "TextBlock",
            "image": "ImageBlock",
            "document": "DocumentBlock",
            "tool_reference": "ToolReferenceBlock",
        },
        "type",
        "a block of an unknown type",
    ),
]


@strict
class ToolResultBlock(BlockRecord):
    type: Literal["tool_result"]
    tool_use_id: str
    content: NotRequired[
        Annotated[
            Annotated[str, Tag("Text")]
            | Annotated[list[ResultBlock], Tag("Blocks")]
            | Annotated[None, Tag("Null")],
            _CONTENT,
        ]
    ]
    is_error: NotRequired[bool | None]
    """True puts "Error: " in front of the result, for the model to see."""


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
    | Annotated[ToolUseBlock, Tag("ToolUseBlock")]
    | Annotated[DroppedBlock, Tag("DroppedBlock")],
    tagged(
        {
            "text": "TextBlock",
            "thinking": "ThinkingBlock",
            "tool_use": "ToolUseBlock",
            **dict.fromkeys(DROPPED_BLOCKS, "DroppedBlock"),
        },
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
class CustomTool(ToolHints):
    """A tool that the client runs; Anthropic's own tools are refused by their type."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    input_schema: dict[str, Any]
    description: NotRequired[str | None]
    type: NotRequired[Literal["custom"] | None]
    strict: NotRequired[bool | None]
    """A forced `tool_choice` constrains arguments to the schema; otherwise they are the model's."""


ToolOfClient: TypeAlias = Annotated[
    CustomTool, kinds("custom", because="only tools that the client runs are.")
]


@strict
class MessagesToolChoice(TypedDict):
    type: Literal["auto", "any", "tool", "none"]
    name: NotRequired[str | None]
    """The tool that must be called, with the type "tool"."""
    disable_parallel_tool_use: NotRequired[bool | None]


@strict
class Thinking(TypedDict):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: NotRequired[Annotated[int, Field(ge=1024)] | None]
    """A thought is closed after so many tokens; of the type "adaptive" none is enforced."""
    display: NotRequired[Literal["summarized", "omitted", "updates"] | None]
    """"omitted" leaves the text of thoughts out; otherwise it is returned in full."""
    block_binding: NotRequired[Any]
    """Ignored: it is about signatures of thoughts, which have none here."""


@strict
class AnswerFormat(TypedDict):
    type: Literal["json_schema"]
    schema: dict[str, Any]


@strict
class OutputConfig(TypedDict):
    format: NotRequired[AnswerFormat | None]
    effort: NotRequired[Literal["low", "medium", "high", "xhigh", "max"] | None]
    """How much the model thinks, for a chat template that reads `reasoning_effort`."""


@strict
class RequestMetadata(TypedDict):
    user_id: NotRequired[Annotated[str, Field(max_length=1024)] | None]


OTHERS = {
    "billing_policy": Refused("billing_policy is not supported"),
    "compaction": Refused("compaction is not supported: shorten messages instead"),
    "container": Refused("container is not supported: this server runs no code"),
    "diagnostics": Refused("diagnostics is not supported"),
    "fallback_credit_token": Refused("fallback_credit_token is not supported"),
    "fallbacks": Refused("fallbacks is not supported: one model answers", ([],)),
    "inference_geo": Refused("inference_geo is not supported: the server stands where it stands"),
    "mcp_servers": Refused("mcp_servers is not supported: this server calls no others", ([],)),
    "output_format": Refused("output_format is output_config.format in this API"),
    "speed": Refused("speed: fast is not supported", ("standard",)),
    "user_profile_id": Refused("user_profile_id is not supported"),
    "workspace_id": Refused("workspace_id is not supported"),
}

if TYPE_CHECKING:
    _Refused = Body
else:
    _Refused = refused_fields("RefusedOfMessages", OTHERS)


class CountTokensRequest(_Refused):
    """The body of /v1/messages/count_tokens, which makes a prompt."""

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: TextOrBlocks | None = None
    tools: list[ToolOfClient] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's: variables for the model's chat template; one that it never reads is refused."""
    thread: Annotated[Any, WithJsonSchema({"type": "null"})] = None
    """Refused in the words after which clients go on without a thread."""
    context_management: Any = None
    """Ignored: what is sent is the context, and one that is too long is refused."""
    betas: list[str] | None = None
    """Ignored: what a beta adds to a request is looked at by itself."""


if TYPE_CHECKING:
    _Options = OptionFields
else:
    # `max_tokens` is required below; the others are parts of fields declared above.
    _Options = option_fields(
        "anthropic", but=("max_tokens", "output_config", "thinking", "chat_template_kwargs")
    )


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
    details: dict[str, Any] | None = None


class AnthropicErrorBody(BaseModel):
    type: Literal["error"]
    error: AnthropicErrorDetail
