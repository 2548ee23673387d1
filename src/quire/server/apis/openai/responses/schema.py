"""Requests and answers of the Responses API; fields that quire does not support are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag
from typing_extensions import TypedDict

from quire.server.apis.body import by_type, kinds, only, strict, tagged
from quire.server.apis.openai.schema import Alternatives, CachedTokens, Label, TokenInfo
from quire.server.apis.option_fields import OptionFields, option_fields

Status: TypeAlias = Literal["in_progress", "completed", "incomplete"]
ItemId: TypeAlias = Annotated[str, Field(max_length=256)]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]


_CONTENT = by_type(
    {str: "Text", list: "Parts"}, "content_type", "a string or a list of parts is needed"
)


@strict
class InputText(TypedDict):
    type: Literal["input_text"]
    text: str


@strict
class InputImage(TypedDict):
    type: Literal["input_image"]
    image_url: Annotated[str, Field(min_length=1)]
    """A data URL, or a URL if the server allows them."""
    detail: NotRequired[Literal["auto", "high"] | None]
    file_id: NotRequired[None]


@strict
class InputAudioData(TypedDict):
    data: Annotated[str, Field(min_length=1)]
    """Base64."""
    format: Annotated[str, Field(pattern="^[a-z0-9]{1,16}$")]


@strict
class InputAudio(TypedDict):
    type: Literal["input_audio"]
    input_audio: InputAudioData


@strict
class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: NotRequired[Annotated[list[Any], Field(max_length=0)] | None]
    logprobs: NotRequired[list[Any] | None]


@strict
class OutputRefusal(TypedDict):
    type: Literal["refusal"]
    refusal: str


InputPart: TypeAlias = Annotated[
    Annotated[InputText, Tag("InputText")]
    | Annotated[InputImage, Tag("InputImage")]
    | Annotated[InputAudio, Tag("InputAudio")]
    | Annotated[OutputText, Tag("OutputText")]
    | Annotated[OutputRefusal, Tag("OutputRefusal")],
    tagged(
        {
            "input_text": "InputText",
            "input_image": "InputImage",
            "input_audio": "InputAudio",
            "output_text": "OutputText",
            "refusal": "OutputRefusal",
        },
        "type",
        "a part of an unknown type",
    ),
]
PartsOrText: TypeAlias = Annotated[
    Annotated[str, Tag("Text")] | Annotated[list[InputPart], Tag("Parts")], _CONTENT
]


@strict
class MessageItem(TypedDict):
    """A turn of any role; the API's own answers are sent back in this form too."""

    type: NotRequired[Literal["message"]]
    role: Literal["user", "assistant", "system", "developer"]
    content: PartsOrText
    id: NotRequired[ItemId | None]
    status: NotRequired[Status | None]
    phase: NotRequired[Literal["commentary", "final_answer"] | None]


@strict
class ThoughtText(TypedDict):
    type: Literal["reasoning_text"]
    text: str


@strict
class SummaryText(TypedDict):
    type: Literal["summary_text"]
    text: str


@strict
class ReasoningItem(TypedDict):
    type: Literal["reasoning"]
    summary: NotRequired[list[SummaryText]]
    content: NotRequired[list[ThoughtText] | None]
    id: NotRequired[ItemId | None]
    status: NotRequired[Status | None]
    encrypted_content: NotRequired[None]


@strict
class FunctionCallItem(TypedDict):
    type: Literal["function_call"]
    call_id: ItemId
    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: str
    id: NotRequired[ItemId | None]
    status: NotRequired[Status | None]


@strict
class FunctionOutputItem(TypedDict):
    type: Literal["function_call_output"]
    call_id: ItemId
    output: PartsOrText
    id: NotRequired[ItemId | None]
    status: NotRequired[Status | None]


def _item_kind(value: Any) -> str | None:
    """The tag of an item; messages may leave their type out."""
    kind = value.get("type", "message") if isinstance(value, dict) else None
    return _ITEMS.get(kind) if isinstance(kind, str) else None


_ITEMS = {
    "message": "MessageItem",
    "reasoning": "ReasoningItem",
    "function_call": "FunctionCallItem",
    "function_call_output": "FunctionOutputItem",
}
InputItem: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("MessageItem")]
    | Annotated[ReasoningItem, Tag("ReasoningItem")]
    | Annotated[FunctionCallItem, Tag("FunctionCallItem")]
    | Annotated[FunctionOutputItem, Tag("FunctionOutputItem")],
    Discriminator(
        _item_kind,
        "unknown_type",
        f"an item of a type that is not supported; known are {', '.join(_ITEMS)}",
    ),
]


@strict
class FunctionTool(TypedDict):
    """A function that the client runs; OpenAI's own tools are refused by their type."""

    type: Literal["function"]
    name: Name
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]
    """A forced `tool_choice` constrains arguments to the schema; otherwise they are the model's."""


OfferedTool: TypeAlias = Annotated[
    FunctionTool, kinds("function", because="only functions that the client runs are.")
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


def _choice_kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "Word"
    kind = value.get("type") if isinstance(value, dict) else None
    known = {"function": "FunctionChoice", "allowed_tools": "AllowedTools"}
    return known.get(kind) if isinstance(kind, str) else None


Choice: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Word")]
    | Annotated[FunctionChoice, Tag("FunctionChoice")]
    | Annotated[AllowedTools, Tag("AllowedTools")],
    Discriminator(
        _choice_kind,
        "unknown_type",
        "known are none, auto, required, and objects of the types function and allowed_tools",
    ),
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
    verbosity: NotRequired[Literal["medium"] | None]


@strict
class ReasoningConfig(TypedDict):
    effort: NotRequired[Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None]
    """"none" turns thinking off, all others turn it on; none limits its length."""
    summary: NotRequired[Literal["auto"] | None]
    """Ignored: thoughts are returned in full, without a summary."""


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


if TYPE_CHECKING:
    _Options = OptionFields
else:
    # These are parts of fields declared above.
    _Options = option_fields("responses", but=("top_logprobs", "text", "reasoning"))


class ResponsesRequest(_Options):
    """The body of /v1/responses. No response is stored, so the whole conversation is sent each time."""

    model: str | None = None
    input: Annotated[
        Annotated[str, Tag("Text")]
        | Annotated[
            list[InputItem],
            Field(min_length=1),
            Tag("Parts"),
        ],
        _CONTENT,
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
