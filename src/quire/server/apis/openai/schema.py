"""OpenAI's requests and answers; fields that quire does not support are refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired, TypeAlias

from pydantic import BaseModel, Discriminator, Field, Tag, WithJsonSchema
from typing_extensions import TypedDict

from quire.server.apis.body import Body, only, strict
from quire.server.apis.openai.messages import Message
from quire.server.apis.option_fields import OptionFields, option_fields
from quire.server.apis.refused_fields import Refused, refused_fields

Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Label: TypeAlias = Annotated[str, Field(max_length=1024)]
ThinkingBudget: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Alternatives: TypeAlias = Annotated[int, Field(ge=0)]
"""How many alternatives to list for a token; the server's own limit is checked with the call's."""
Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


@strict
class StreamOptions(TypedDict):
    include_usage: NotRequired[bool | None]
    continuous_usage_stats: NotRequired[bool | None]
    """Every chunk has the usage so far."""
    include_held_text: NotRequired[bool | None]
    """Chunks of a chat completion also have, as `held_text`, what may become a call or a mark: a call
    itself comes whole, once it is certain. What is text after all comes again as content."""
    include_obfuscation: NotRequired[Literal[False] | None]


class ToolHints(TypedDict, total=False):
    """Fields of a tool that are for another server's way of offering it; dropped."""

    allowed_callers: Annotated[
        Any,
        only(
            [],
            ["direct"],
            because="Tools are called by the model alone: leave allowed_callers out.",
        ),
        WithJsonSchema({"enum": [None, [], ["direct"]]}),
    ]
    cache_control: Any
    defer_loading: Any
    eager_input_streaming: Any
    input_examples: Any
    output_schema: Any


@strict
class Function(TypedDict):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:/-]{1,128}$")]
    description: NotRequired[str | None]
    parameters: NotRequired[dict[str, Any] | None]
    strict: NotRequired[bool | None]
    """Ignored: arguments follow the schema if and only if `tool_choice` forces the call."""


@strict
class Tool(ToolHints):
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
class AllowedNames(TypedDict):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


@strict
class AllowedFunctions(TypedDict):
    """Only these tools of the request are offered."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedNames


def choice_of(*, function: str, allowed_tools: str) -> Discriminator:
    """Chooses the member of a tool choice: `Word` for a word, else the tag of the object's type."""
    tags = {"function": function, "allowed_tools": allowed_tools}

    def choose(value: Any) -> str | None:
        if isinstance(value, str):
            return "Word"
        kind = value.get("type") if isinstance(value, dict) else None
        return tags.get(kind) if isinstance(kind, str) else None

    known = "known are none, auto, required, and objects of the types function and allowed_tools"
    return Discriminator(choose, "unknown_type", known)


ToolChoiceParam: TypeAlias = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("Word")]
    | Annotated[NamedTool, Tag("NamedTool")]
    | Annotated[AllowedFunctions, Tag("AllowedFunctions")],
    choice_of(function="NamedTool", allowed_tools="AllowedFunctions"),
]


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
    json_schema: NotRequired[JsonSchema | None]
    regex: NotRequired[str | None]
    choice: NotRequired[Annotated[list[str], Field(min_length=1)] | None]
    grammar: NotRequired[str | None]


@strict
class StructuredOutputs(TypedDict):
    """vLLM's own form of `response_format`; exactly one is given."""

    json: NotRequired[dict[str, Any] | None]
    json_object: NotRequired[Literal[True] | None]
    regex: NotRequired[str | None]
    choice: NotRequired[Annotated[list[str], Field(min_length=1)] | None]
    grammar: NotRequired[str | None]
    # How vLLM's own grammars are made; only what is done here anyway is accepted.
    disable_additional_properties: NotRequired[Literal[False] | None]
    disable_any_whitespace: NotRequired[Literal[False] | None]
    structural_tag: NotRequired[None]
    whitespace_pattern: NotRequired[None]


CHAT_OPTIONS = (
    "enable_thinking",
    "preserve_thinking",
    "reasoning_effort",
    "chat_template_kwargs",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "thinking_budget",
)
"""Options of conversations, which completions do not have."""

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
            *CHAT_OPTIONS,
        ),
    )


_SCHEDULING = "is for vLLM's own processes, and not supported"
_TEMPLATE = "is not supported: the model's template is the server's"
OTHERS = {
    "allowed_token_ids": Refused(
        "allowed_token_ids is not supported: give logit_bias or bad_words", ([],)
    ),
    "ec_transfer_params": Refused(f"ec_transfer_params {_SCHEDULING}"),
    "guided_choice": Refused("guided_choice is vLLM's old form: give response_format"),
    "guided_decoding_backend": Refused("guided_decoding_backend is vLLM's old form: leave it out"),
    "guided_grammar": Refused("guided_grammar is vLLM's old form: give response_format"),
    "guided_json": Refused("guided_json is vLLM's old form: give response_format"),
    "guided_regex": Refused("guided_regex is vLLM's old form: give response_format"),
    "kv_transfer_params": Refused(f"kv_transfer_params {_SCHEDULING}"),
    "length_penalty": Refused(
        "length_penalty belongs to beam search, which is not supported", (1,)
    ),
    "logits_processors": Refused(
        "logits_processors is not supported: no client's code is run", ([],)
    ),
    "logprob_token_ids": Refused("logprob_token_ids is not supported: give top_logprobs", ([],)),
    "mm_processor_kwargs": Refused(
        "mm_processor_kwargs is not supported: the server sets it", ({},)
    ),
    "repetition_detection": Refused("repetition_detection is not supported: give penalties"),
    "return_token_offsets": Refused("return_token_offsets is not supported", (False,)),
    "spaces_between_special_tokens": Refused(
        "spaces_between_special_tokens: false is not supported", (True,)
    ),
    "stream_interval": Refused("stream_interval is not supported: each step is an event", (1,)),
    "truncation_side": Refused(
        "truncation_side is not supported: prompts are cut at their start", ("left",)
    ),
    "use_beam_search": Refused(
        "use_beam_search is not supported; ask for several with n", (False,)
    ),
    "vllm_xargs": Refused("vllm_xargs is not supported", ({},)),
    "watermarking": Refused("watermarking is not supported", (False,)),
}
OTHERS_OF_CHAT = {
    "add_special_tokens": Refused(
        "The template of a chat writes the special tokens: leave add_special_tokens out.", (False,)
    ),
    "audio": Refused("audio is not supported: quire answers with text"),
    "chat_template": Refused(f"chat_template {_TEMPLATE}"),
    "function_call": Refused(
        "function_call is OpenAI's old form: give tool_choice", ("none", "auto")
    ),
    "functions": Refused("functions is OpenAI's old form: give tools", ([],)),
    "include_reasoning": Refused(
        "include_reasoning: false is not supported; reasoning_effort none asks for no thought",
        (True,),
    ),
    "media_io_kwargs": Refused("media_io_kwargs is not supported: the server sets it", ({},)),
    "moderation": Refused("moderation is not supported"),
    "prediction": Refused(
        "prediction is not supported; native_speculation guesses ahead by itself"
    ),
    "return_mm_kwargs": Refused("return_mm_kwargs is not supported", (False,)),
    "return_prompt_text": Refused(
        "return_prompt_text is not supported: return_token_ids gives the prompt", (False,)
    ),
    "web_search_options": Refused("web_search_options is not supported: quire searches no web"),
}
OTHERS_OF_COMPLETIONS = {
    "best_of": Refused("best_of is not supported: ask for several with n, and choose", (1,)),
    "prompt_embeds": Refused("prompt_embeds is not supported: give a text or token ids"),
    "thinking_token_budget": Refused(
        "thinking_token_budget: thoughts are told from answers in chats alone"
    ),
    "suffix": Refused("suffix is not supported: text is completed at its end alone", ("",)),
}

if TYPE_CHECKING:
    _Refused = _RefusedOfChat = _RefusedOfCompletions = Body
else:
    _Refused = refused_fields("RefusedFields", OTHERS)
    _RefusedOfChat = refused_fields("RefusedOfChat", OTHERS_OF_CHAT)
    _RefusedOfCompletions = refused_fields("RefusedOfCompletions", OTHERS_OF_COMPLETIONS)


class SamplingFields(_Options, _Refused):
    """The fields that chat and completions share, besides the options of the table."""

    model: str | None = None
    max_tokens: Count | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Label | None = None
    response_format: ResponseFormatParam | None = None
    structured_outputs: StructuredOutputs | None = None
    echo: bool | None = None
    """Puts a completion's prompt before its text; in a chat, the message that an answer continues."""
    prompt_logprobs: Alternatives | None = None
    """Log-probabilities of the prompt's tokens; not in a stream."""
    return_token_ids: bool | None = None
    """Each choice and each chunk carries its `token_ids`, and the first one `prompt_token_ids`."""
    return_tokens_as_token_ids: bool | None = None
    """In log-probabilities a token is named `token_id:7`, not by its text."""
    # Hints, which change no answer.
    request_id: Label | None = None
    session_id: Label | None = None


class ChatCompletionRequest(SamplingFields, _RefusedOfChat):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Alternatives | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoiceParam | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    """"none" turns thinking off, all others turn it on; a template that reads it is given it."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's chat template; one that it never reads is refused."""
    enable_thinking: bool | None = None
    thinking_budget: ThinkingBudget | None = None
    """Most tokens of a thought, which is then closed."""
    thinking_token_budget: ThinkingBudget | None = None
    """vLLM's name for `thinking_budget`."""
    preserve_thinking: bool | None = None
    documents: list[dict[str, Any]] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """The answer continues the last message, as one with `prefix: true` or `partial: true` asks."""
    # For OpenAI's own service; these change no answer.
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    verbosity: Literal["low", "medium", "high"] | None = None
    client_metadata: Any = None
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


class CompletionRequest(SamplingFields, _RefusedOfCompletions):
    """The body of /v1/completions."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """0 needs `echo`, and returns the prompt alone, with its log-probabilities."""
    add_special_tokens: bool | None = None
    """Whether texts get the special tokens that the tokenizer adds, such as BOS; true by default."""
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
    """Of the content's tokens alone."""
    refusal: None = None
    reasoning_content: list[TokenInfo] | None = None
    """Of the thought's tokens, where there is one."""


class ChatChoice(BaseModel):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "abort"]
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class PromptToken(BaseModel):
    logprob: float
    rank: int
    decoded_token: str


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length", "abort"]
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, PromptToken] | None] | None = None


class TextCompletion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: TokenUsage


class ThinkingCard(BaseModel):
    switch: bool
    """Whether `enable_thinking` turns thoughts on and off."""
    default: bool | None
    """Whether the model thinks where a request says nothing; null where it decides itself."""
    efforts: list[str]
    """Words of `reasoning_effort` that differ for this model's template, among low, medium and high."""


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int
    max_media: dict[str, int]
    """The most media of one prompt, by the kinds that the model takes: image, video, audio."""
    defaults: dict[str, float | bool | str]
    """What options are where a request does not set them, by their names in this API."""
    thinking: ThinkingCard | None
    """What a request can choose of thoughts; null where it can choose nothing, or where that is not known."""


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]
    max_body_bytes: int
    """Size of one request's body."""


class State(BaseModel):
    status: str
