"""OpenAI's requests and answers; fields that quire does not support are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NotRequired, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag
from typing_extensions import TypedDict

from quire.server.apis.body import strict
from quire.server.apis.openai.messages import Message
from quire.server.apis.option_fields import OptionFields, option_fields

Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Label: TypeAlias = Annotated[str, Field(max_length=1024)]
Alternatives: TypeAlias = Annotated[int, Field(ge=0)]
"""How many alternatives to list for a token; the server's own limit is checked with the call's."""


@strict
class StreamOptions(TypedDict):
    include_usage: NotRequired[bool | None]
    include_obfuscation: NotRequired[Literal[False] | None]


@strict
class Function(TypedDict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]
    """Ignored: arguments follow the schema if and only if `tool_choice` forces the call."""


@strict
class Tool(TypedDict):
    type: Literal["function"]
    function: Function


@strict
class ChosenFunction(TypedDict):
    name: str


@strict
class NamedTool(TypedDict):
    type: Literal["function"]
    function: ChosenFunction


@strict
class JsonSchema(TypedDict):
    name: NotRequired[str | None]
    description: NotRequired[str | None]
    schema: dict[str, Any]
    strict: NotRequired[bool | None]
    """An answer follows the schema in either case."""


@strict
class ResponseFormatParam(TypedDict):
    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    json_schema: NotRequired[JsonSchema]
    regex: NotRequired[str]
    choice: NotRequired[Annotated[list[str], Field(min_length=1)]]
    grammar: NotRequired[str]


@strict
class TemplateOptions(TypedDict):
    """The keys that `chat_template_kwargs` may have."""

    enable_thinking: NotRequired[bool | None]
    thinking: NotRequired[bool | None]
    preserve_thinking: NotRequired[bool | None]


@strict
class StructuredOutputs(TypedDict):
    """vLLM's own form of `response_format`; exactly one is given."""

    json: NotRequired[dict[str, Any]]
    json_object: NotRequired[Literal[True]]
    regex: NotRequired[str]
    choice: NotRequired[Annotated[list[str], Field(min_length=1)]]
    grammar: NotRequired[str]


if TYPE_CHECKING:
    _Options = OptionFields
else:
    _Options = option_fields(
        "openai",
        but=(
            # These are declared below, in another form or for one of the two APIs.
            "max_tokens",
            "logprobs",
            "prompt_logprobs",
            "response_format",
            "enable_thinking",
            "preserve_thinking",
        ),
    )


class SamplingFields(_Options):
    """The fields that chat and completions share, besides the options of the table."""

    model: str | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None
    response_format: ResponseFormatParam | None = None
    structured_outputs: StructuredOutputs | None = None
    return_token_ids: bool | None = None
    """Each choice and each chunk carries its `token_ids`."""
    return_tokens_as_token_ids: bool | None = None
    """In log-probabilities a token is named `token_id:7`, not by its text."""


class ChatCompletionRequest(SamplingFields):
    """The body of /v1/chat/completions."""

    refused: ClassVar[Mapping[str, str]] = {
        "functions": "functions is OpenAI's old form: give tools",
        "function_call": "function_call is OpenAI's old form: give tool_choice",
        "audio": "audio is not supported: quire answers with text",
        "prediction": "prediction is not supported; native_speculation guesses ahead by itself",
        "web_search_options": "web_search_options is not supported: quire searches no web",
        "guided_json": "guided_json is vLLM's old form: give response_format",
        "guided_regex": "guided_regex is vLLM's old form: give response_format",
        "guided_choice": "guided_choice is vLLM's old form: give response_format",
        "guided_grammar": "guided_grammar is vLLM's old form: give response_format",
    }

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: list[Tool] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """"none" turns thinking off, all others turn it on; none limits its length."""
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None
    preserve_thinking: bool | None = None
    # For OpenAI's own service; these change no answer.
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None


_Ids: TypeAlias = Annotated[list[TokenId], Field(min_length=1)]
_Texts: TypeAlias = Annotated[list[str], Field(min_length=1)]
_IdLists: TypeAlias = Annotated[list[_Ids], Field(min_length=1)]


def _kind_of_prompt(value: Any) -> str | None:
    if isinstance(value, list):
        first: Any = value[0] if value else ""
        return "Ids" if type(first) is int else "IdLists" if isinstance(first, list) else "Texts"
    return "Text" if isinstance(value, str) else None


Prompt: TypeAlias = Annotated[
    Annotated[str, Tag("Text")]
    | Annotated[_Texts, Tag("Texts")]
    | Annotated[_Ids, Tag("Ids")]
    | Annotated[_IdLists, Tag("IdLists")],
    Discriminator(
        _kind_of_prompt, "prompt_type", "a text, a list of texts, or token ids are needed"
    ),
]


class CompletionRequest(SamplingFields):
    """The body of /v1/completions."""

    refused: ClassVar[Mapping[str, str]] = {
        "suffix": "suffix is not supported: text is completed at its end alone",
        "best_of": "best_of is not supported: ask for several with n, and choose",
    }

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """0 needs `echo`, and returns the prompt alone, with its log-probabilities."""
    echo: bool | None = None
    add_special_tokens: bool | None = None
    """Whether texts get the special tokens that the tokenizer adds, such as BOS; true by default."""
    prompt_logprobs: Alternatives | None = None
    """Log-probabilities of the prompt's tokens; not in a stream."""
    logprobs: Alternatives | None = None


# --- answers, for the OpenAPI page ---------------------------------------------------------------


class CachedTokens(BaseModel):
    cached_tokens: int


class ReasoningTokens(BaseModel):
    reasoning_tokens: int


class TokenUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens
    completion_tokens_details: ReasoningTokens


class AnsweredFunction(BaseModel):
    name: str
    arguments: str
    """JSON text, as the model wrote it."""


class AnsweredCall(BaseModel):
    id: str
    type: Literal["function"]
    function: AnsweredFunction


class ChatMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[AnsweredCall] | None = None


class TokenRival(BaseModel):
    token: str
    bytes: list[int]
    logprob: float


class TokenInfo(TokenRival):
    top_logprobs: list[TokenRival]


class ChatLogprobs(BaseModel):
    content: list[TokenInfo]
    refusal: None = None


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "abort"]
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class PromptToken(BaseModel):
    logprob: float
    rank: int
    decoded_token: str


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "abort"]
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class State(BaseModel):
    status: str
