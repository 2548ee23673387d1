"""OpenAI's requests, as far as quire honours them; any other field is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypeAlias

from pydantic import Discriminator, Field, Tag
from typing_extensions import TypedDict

from quire.sampling import MAX_COMPLETIONS
from quire.server.openai.messages import Message
from quire.server.reading import Body, strict

MAX_MESSAGES = 4096
MAX_TOOLS = 512
MAX_STOPS = 16
MAX_PROMPTS = 256
MAX_TOP_LOGPROBS = 20

Count: TypeAlias = Annotated[int, Field(ge=1, le=2**31 - 1)]
TokenId: TypeAlias = Annotated[int, Field(ge=0, le=2**31 - 1)]
Label: TypeAlias = Annotated[str, Field(max_length=1024)]
Priority: TypeAlias = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=1e9)]
Stop: TypeAlias = Annotated[str, Field(min_length=1, max_length=1000)]
Word: TypeAlias = Annotated[str, Field(min_length=1, max_length=256)]
Bias: TypeAlias = Annotated[
    dict[Annotated[str, Field(pattern="^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
    Field(max_length=1024),
]


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
    """Where `tool_choice` forces a call its arguments follow the schema in any case; where the
    model is free to call or not they are its own, strict or not."""


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
class ResponseFormat(TypedDict):
    type: Literal["text", "json_object", "json_schema", "regex", "choice", "grammar"]
    json_schema: NotRequired[JsonSchema]
    regex: NotRequired[str]
    choice: NotRequired[Annotated[list[str], Field(min_length=1, max_length=1024)]]
    grammar: NotRequired[str]


@strict
class TemplateOptions(TypedDict):
    """What `chat_template_kwargs` may hold."""

    enable_thinking: NotRequired[bool | None]
    thinking: NotRequired[bool | None]
    preserve_thinking: NotRequired[bool | None]


@strict
class StructuredOutputs(TypedDict):
    """vLLM's own form of `response_format`; exactly one is given."""

    json: NotRequired[dict[str, Any]]
    json_object: NotRequired[Literal[True]]
    regex: NotRequired[str]
    choice: NotRequired[Annotated[list[str], Field(min_length=1, max_length=1024)]]
    grammar: NotRequired[str]


class SamplingFields(Body):
    """What chat and completions have in common; the names after `user` are quire's and vLLM's."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_COMPLETIONS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Bias | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    user: Label | None = None

    do_sample: bool | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0, le=100)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    ignore_eos: bool | None = None
    bad_words: Annotated[list[Word], Field(max_length=1024)] | None = None
    skip_special_tokens: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    return_token_ids: bool | None = None
    """Each choice, and each piece of it, carries its `token_ids`."""
    return_tokens_as_token_ids: bool | None = None
    """In log-probabilities a token is `token_id:7`, not its text."""
    priority: Priority | None = None
    timeout: Seconds | None = None
    """Seconds that the request may take in all, waiting included."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Requests of different salts share no cached prefix."""


class ChatRequest(SamplingFields):
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

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Count | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    """"none" asks for no thought; the others ask for one, whose length is the model's affair."""
    chat_template_kwargs: TemplateOptions | None = None
    enable_thinking: bool | None = None
    preserve_thinking: bool | None = None
    # Hints and labels of OpenAI's own service; they change no answer.
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None


_Ids: TypeAlias = Annotated[list[TokenId], Field(min_length=1, max_length=2**22)]
_Texts: TypeAlias = Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
_IdLists: TypeAlias = Annotated[list[_Ids], Field(min_length=1, max_length=MAX_PROMPTS)]


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
    """0 goes with `echo`: the prompt alone, with its log-probabilities."""
    echo: bool | None = None
    add_special_tokens: bool | None = None
    """Whether a text gets the tokens that the tokenizer puts around one; true if not given."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    """Log-probabilities of the prompt's own tokens; not in a stream."""
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
