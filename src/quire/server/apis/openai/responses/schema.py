"""Requests and answers of the Responses API; fields that quire does not support are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Tag,
    with_config,
)
from typing_extensions import TypedDict

from quire.server.apis.body import Body, only, strict, tagged
from quire.server.apis.openai.responses.items import CONTENT, InputItem
from quire.server.apis.openai.schema import (
    Alternatives,
    CachedTokens,
    Effort,
    Label,
    StructuredOutputs,
    TokenInfo,
    ToolHints,
    choice_of,
)
from quire.server.apis.option_fields import OptionFields, option_fields
from quire.server.apis.refused_fields import Refused, refused_fields

Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


def _check_tool(value: Any) -> Any:
    """Refuse the tools of OpenAI's own servers, before their other fields are checked."""
    kind = value.get("type") if isinstance(value, dict) else None
    offline = kind == "web_search" and value.get("external_web_access") is False
    if isinstance(kind, str) and kind not in ("function", "namespace") and not offline:
        raise ValueError(
            f"The type {kind[:80]!r} is not supported: only functions that the client runs are."
        )
    return value


@strict
class FunctionTool(ToolHints):
    """A function that the client runs; OpenAI's own tools are refused by their type."""

    type: Literal["function"]
    name: Name
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]
    """A forced `tool_choice` constrains arguments to the schema; otherwise they are the model's."""


@strict
class NamespaceTool(TypedDict):
    """A group of functions, as Codex offers them: the model calls `name.function`."""

    type: Literal["namespace"]
    name: Name
    description: NotRequired[str | None]
    tools: list[FunctionTool]


@with_config(ConfigDict(extra="allow"))
class OfflineSearch(TypedDict):
    """Codex's search without access to the web, for which nothing is offered."""

    type: Literal["web_search"]
    external_web_access: Literal[False]


_TOOLS = {"function": "FunctionTool", "namespace": "NamespaceTool", "web_search": "OfflineSearch"}
OfferedTool: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag("FunctionTool")]
    | Annotated[NamespaceTool, Tag("NamespaceTool")]
    | Annotated[OfflineSearch, Tag("OfflineSearch")],
    tagged(_TOOLS, "type", "a tool of an unknown type"),
    BeforeValidator(_check_tool),
]


@strict
class FunctionChoice(TypedDict):
    type: Literal["function"]
    name: str


@strict
class AllowedTools(TypedDict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[FunctionChoice], Field(min_length=1)]


Choice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Word")]
    | Annotated[FunctionChoice, Tag("FunctionChoice")]
    | Annotated[AllowedTools, Tag("AllowedTools")],
    choice_of(function="FunctionChoice", allowed_tools="AllowedTools"),
]


@strict
class TextFormat(TypedDict):
    type: Literal["text"]


@strict
class JsonObjectFormat(TypedDict):
    type: Literal["json_object"]


@strict
class JsonSchemaFormat(TypedDict):
    type: Literal["json_schema"]
    name: str
    schema: dict[str, Any]
    description: NotRequired[str | None]
    strict: NotRequired[bool | None]
    """An answer follows the schema in either case."""


@strict
class TextConfig(TypedDict):
    format: NotRequired[
        Annotated[
            Annotated[TextFormat, Tag("TextFormat")]
            | Annotated[JsonObjectFormat, Tag("JsonObjectFormat")]
            | Annotated[JsonSchemaFormat, Tag("JsonSchemaFormat")],
            tagged(
                {
                    "text": "TextFormat",
                    "json_object": "JsonObjectFormat",
                    "json_schema": "JsonSchemaFormat",
                },
                "type",
                "a format of an unknown type",
            ),
        ]
        | None
    ]
    verbosity: NotRequired[Literal["low", "medium", "high"] | None]
    """Ignored: how much a model writes is its own affair."""


@strict
class ReasoningConfig(TypedDict):
    effort: NotRequired[Effort | None]
    """"none" turns thinking off, all others turn it on; a template that reads it is given it."""
    summary: NotRequired[Literal["auto", "concise", "detailed", "none"] | None]
    """Ignored: thoughts are returned in full, without a summary."""
    generate_summary: NotRequired[Literal["auto", "concise", "detailed"] | None]
    """Ignored: the older name of `summary`."""
    context: NotRequired[Literal["auto", "current_turn", "all_turns"] | None]
    """Ignored: the template says which thoughts of earlier turns stay."""
    mode: NotRequired[Literal["standard"] | None]


@strict
class ResponseStreamOptions(TypedDict):
    include_obfuscation: NotRequired[Literal[False] | None]


_STORE = "store: true is not supported: this server stores no responses. Give store: false."
_PREVIOUS = (
    "previous_response_id is not supported: this server stores no responses. Give the whole "
    "conversation in input."
)
_CONVERSATION = (
    "conversation is not supported: this server stores none. Give the whole conversation in input."
)
_BACKGROUND = "background: true is not supported: an answer comes with the request, or as a stream."
_TRUNCATION = "truncation: auto is not supported: a conversation that is too long is refused."
OTHERS = {
    "access_programs": Refused("access_programs is not supported"),
    "background_options": Refused("background_options is not supported"),
    "context_management": Refused(
        "context_management is not supported: shorten input instead", ([],)
    ),
    "image": Refused("image is not supported: quire answers with text"),
    "include_reasoning": Refused(
        "include_reasoning: false is not supported; reasoning.effort none asks for no thought",
        (True,),
    ),
    "max_tokens": Refused("max_tokens is max_output_tokens in this API"),
    "messages": Refused("messages is input in this API"),
    "moderation": Refused("moderation is not supported"),
    "n": Refused("n is not supported: a response is one answer", (1,)),
    "prompt": Refused("prompt is not supported: this server stores no prompts"),
    "response_format": Refused("response_format is text.format in this API"),
}


if TYPE_CHECKING:
    _Options = OptionFields
    _Refused = Body
else:
    # These are parts of fields declared above.
    _Options = option_fields("responses", but=("top_logprobs", "text", "reasoning"))
    _Refused = refused_fields("RefusedOfResponses", OTHERS)


class ResponsesRequest(_Options, _Refused):
    """The body of /v1/responses. No response is stored, so the whole conversation is sent each time."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("Text")]
        | Annotated[
            list[InputItem],
            Field(min_length=1),
            Tag("Parts"),
        ],
        CONTENT,
    ]
    instructions: str | None = None
    top_logprobs: Alternatives | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = (
        None
    )
    """Thoughts are not encrypted: the text itself is returned, to be sent back with the next request."""
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    text: TextConfig | None = None
    structured_outputs: StructuredOutputs | None = None
    reasoning: ReasoningConfig | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: Choice | None = None
    parallel_tool_calls: bool | None = None
    # These would need stored responses, or answers in the background, and are refused.
    store: Annotated[Literal[False] | None, only(False, because=_STORE)] = None
    previous_response_id: Annotated[None, only(because=_PREVIOUS)] = None
    conversation: Annotated[None, only(because=_CONVERSATION)] = None
    background: Annotated[Literal[False] | None, only(False, because=_BACKGROUND)] = None
    truncation: Annotated[Literal["disabled"] | None, only("disabled", because=_TRUNCATION)] = None
    # For OpenAI's own service; these change no answer.
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """Limits calls of OpenAI's own tools, of which there are none here."""
    service_tier: Literal["auto", "default"] | None = None
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    client_metadata: Any = None
    request_id: Label | None = None
    session_id: Label | None = None


# --- answers, for the OpenAPI page ---------------------------------------------------------------


class WrittenPart(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenInfo]


class WrittenMessage(BaseModel):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["completed", "incomplete"]
    content: list[WrittenPart]


class WrittenReasoning(BaseModel):
    type: Literal["reasoning_text"]
    text: str


class ReasoningOutput(BaseModel):
    id: str
    type: Literal["reasoning"]
    status: Literal["completed", "incomplete"]
    summary: list[Any]
    content: list[WrittenReasoning]


class FunctionCallOutput(BaseModel):
    id: str
    type: Literal["function_call"]
    status: Literal["completed"]
    call_id: str
    name: str
    arguments: str


class InputDetails(CachedTokens):
    cache_write_tokens: int


class OutputDetails(BaseModel):
    reasoning_tokens: int


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class ResponseObject(BaseModel):
    """A response, without the fields that it repeats from the request."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    error: None
    incomplete_details: dict[str, str] | None
    model: str
    output: list[WrittenMessage | ReasoningOutput | FunctionCallOutput]
    usage: ResponseUsage
