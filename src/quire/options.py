"""The table of all request options: `OPTIONS`.

Each entry has the option's name, its name for people and its group, its type and range, its default,
its meaning, the sources that may set it, the field of `SamplingParams` that it becomes, and its name in
each API. Derived from the table are the merge of all sources (`sampling.OptionResolver`), the fields of
the server's APIs, what is sent to vLLM and to remote servers, shell completion, the settings of the chat
page, and the page of documentation.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from quire.errors import SamplingError, UnsupportedOptionError, nearest, sentence
from quire.response_format import read_response_format
from quire.tool_choice import AUTO, read_tool_choice

MAX_COMPLETIONS = 128
MAX_LOGPROBS = 64

_MAX_DEPTH = 100  # of a variable for a chat template

_SHORT_REPR = reprlib.Repr()
_SHORT_REPR.maxstring = _SHORT_REPR.maxother = 80  # characters

Wire: TypeAlias = Literal["openai", "responses", "anthropic", "vllm"]
"""An API with names of its own for options: OpenAI's chat and text completions, OpenAI's Responses,
Anthropic's Messages, and vLLM's, in this process and over HTTP."""

Group: TypeAlias = Literal["sampling", "length", "words", "thinking", "output", "prompt", "service"]
"""What an option is about; see `GROUPS`."""

GROUPS: Mapping[Group, str] = MappingProxyType(
    {
        "sampling": "Sampling",
        "length": "Length and stops",
        "words": "Repetition and words",
        "thinking": "Thinking",
        "output": "Output and tools",
        "prompt": "Prompt",
        "service": "Service",
    }
)
"""The groups in the order of the table, each with its heading."""

# --- types -------------------------------------------------------------------------------------------


class OptionType(Protocol):
    """The type and range of an option's values."""

    def read(self, name: str, value: Any) -> Any:
        """Check and convert a value of the option `name`.

        Raises:
            SamplingError: the value is of a wrong type or out of its range.
        """
        ...

    @property
    def schema(self) -> dict[str, Any]:
        """The type as JSON Schema, for the OpenAPI page."""
        ...

    def __str__(self) -> str:
        """The type and its range in words."""
        ...


@dataclass(frozen=True, slots=True)
class Number:
    """A number from `low` to `high`, both included, but for `low` where that is `exclusive`.

    `or_zero` allows 0 too.
    """

    low: float = -math.inf
    high: float = math.inf
    exclusive: bool = False
    or_zero: bool = False

    def read(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise SamplingError(f"{name} must be a number, not {_shown(value)}.")
        inside = self.low <= value <= self.high and not (self.exclusive and value == self.low)
        if not (inside or (self.or_zero and value == 0)):
            raise SamplingError(f"{name} must be {self._range()}, not {_shown(value)}.")
        try:
            return float(value)
        except OverflowError:
            raise SamplingError(f"{name} is too large a number: {_shown(value)}.") from None

    @property
    def schema(self) -> dict[str, Any]:
        low = {"exclusiveMinimum" if self.exclusive else "minimum": self.low}
        bounds = low | {"maximum": self.high}
        schema: dict[str, Any] = {"type": "number"}
        schema |= {name: value for name, value in bounds.items() if math.isfinite(value)}
        return {"anyOf": [{"const": 0}, schema]} if self.or_zero else schema

    def _range(self) -> str:
        if math.isinf(self.high):
            return f"above {self.low:g}" if self.exclusive else f"at least {self.low:g}"
        zero = ", or 0" if self.or_zero else ""
        return f"between {self.low:g} and {self.high:g}{zero}"

    def __str__(self) -> str:
        return "a number" if math.isinf(self.low) else f"a number {self._range()}"


@dataclass(frozen=True, slots=True)
class Integer:
    """An integer from `low` to `high`, both included."""

    low: int
    high: int | None = None

    def read(self, name: str, value: Any) -> int:
        integral = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not integral:
            raise SamplingError(f"{name} must be an integer, not {_shown(value)}.")
        if value < self.low or (self.high is not None and value > self.high):
            raise SamplingError(f"{name} must be {self._range()}, not {_shown(value)}.")
        return int(value)

    @property
    def schema(self) -> dict[str, Any]:
        most = {} if self.high is None else {"maximum": self.high}
        return {"type": "integer", "minimum": self.low} | most

    def _range(self) -> str:
        most = "" if self.high is None else f" and at most {self.high}"
        return f"at least {self.low}{most}"

    def __str__(self) -> str:
        return f"an integer, {self._range()}"


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def read(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise SamplingError(f"{name} must be true or false, not {_shown(value)}.")
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}

    def __str__(self) -> str:
        return "true or false"


@dataclass(frozen=True, slots=True)
class String:
    """A string that is not empty, of at most `longest` characters."""

    longest: int | None = None

    def read(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise SamplingError(f"{name} must be a text that is not empty, not {_shown(value)}.")
        if self.longest is not None and len(value) > self.longest:
            raise SamplingError(_too_long(name, value, self.longest))
        return value

    @property
    def schema(self) -> dict[str, Any]:
        most = {} if self.longest is None else {"maxLength": self.longest}
        return {"type": "string", "minLength": 1} | most

    def __str__(self) -> str:
        return f"a text{_at_most(self.longest)}"


@dataclass(frozen=True, slots=True)
class Strings:
    """One string or a list of strings, none of them empty, each of at most `longest` characters."""

    longest: int | None = None

    def read(self, name: str, value: Any) -> tuple[str, ...]:
        values = {name: value}
        if isinstance(value, (list, tuple)):
            values = {f"{name}[{index}]": one for index, one in enumerate(value)}
        for place, one in values.items():
            if not isinstance(one, str) or not one:
                raise SamplingError(
                    f"{name} must be a string or a list of strings that are not empty: {place} is "
                    f"{_shown(one)}."
                )
            if self.longest is not None and len(one) > self.longest:
                raise SamplingError(_too_long(place, one, self.longest))
        return tuple(values.values())

    @property
    def schema(self) -> dict[str, Any]:
        text = String(self.longest).schema
        return {"anyOf": [text, {"type": "array", "items": text}]}

    def __str__(self) -> str:
        return f"a text{_at_most(self.longest)}, or a list of them"


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A list of token ids."""

    def read(self, name: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, (list, tuple)):
            raise SamplingError(f"{name} must be a list of token ids, not {_shown(value)}.")
        return tuple(_TOKEN_ID.read(name, token) for token in value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": _TOKEN_ID.schema}

    def __str__(self) -> str:
        return "a list of token ids"


@dataclass(frozen=True, slots=True)
class TokenBias:
    """Numbers from -100 to 100 by token id; the ids may be strings, as JSON requires of keys."""

    def read(self, name: str, value: Any) -> Mapping[int, float]:
        if not isinstance(value, Mapping):
            raise SamplingError(f"{name} must map token ids to numbers.")
        bias: dict[int, float] = {}
        for token, amount in value.items():
            try:
                token_id = _TOKEN_ID.read(name, int(token))
            except (TypeError, ValueError, OverflowError):
                raise SamplingError(
                    f"{name} has the key {_shown(token)}, which is no token id."
                ) from None
            bias[token_id] = _BIAS.read(f"{name}[{token_id}]", amount)
        return MappingProxyType(bias)

    @property
    def schema(self) -> dict[str, Any]:
        return {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,9}$"},
            "additionalProperties": _BIAS.schema,
        }

    def __str__(self) -> str:
        return "numbers from -100 to 100, by token id"


@dataclass(frozen=True, slots=True)
class Alternatives:
    """A number of most likely tokens; true means 1, false no log-probabilities at all."""

    def read(self, name: str, value: Any) -> int | None:
        if isinstance(value, bool):
            return 1 if value else None
        return Integer(0, MAX_LOGPROBS).read(name, value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"type": "boolean"}, Integer(0, MAX_LOGPROBS).schema]}

    def __str__(self) -> str:
        return f"{Integer(0, MAX_LOGPROBS)}; or true for one, or false"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A constraint on the answer's text; see `response_format`."""

    def read(self, name: str, value: Any) -> Any:
        return read_response_format(value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def __str__(self) -> str:
        return "a dictionary with a type: text, json_object, json_schema, regex, choice or grammar"


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether tools are called; see `tool_choice`."""

    def read(self, name: str, value: Any) -> Any:
        return read_tool_choice(value)

    @property
    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"enum": ["auto", "none", "required"]}, {"type": "object"}]}

    def __str__(self) -> str:
        return "auto, none, required, or a dictionary that names a function"


@dataclass(frozen=True, slots=True)
class Variables:
    """Variables for a chat template: JSON values by name."""

    def read(self, name: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise SamplingError(f"{name} must map names to values, not {_shown(value)}.")
        for key in value:
            if not isinstance(key, str) or not key.isidentifier():
                raise SamplingError(
                    f"{name} has the key {_shown(key)}, which is no variable's name."
                )
        return {key: _json_value(f"{name}[{_shown(key)}]", one) for key, one in value.items()}

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def __str__(self) -> str:
        return "values by the names of variables"


@dataclass(frozen=True, slots=True)
class Documents:
    """A list of dictionaries of JSON values."""

    def read(self, name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
        if not isinstance(value, (list, tuple)):
            raise SamplingError(f"{name} must be a list of dictionaries, not {_shown(value)}.")
        for index, one in enumerate(value):
            if not isinstance(one, Mapping):
                raise SamplingError(f"{name}[{index}] must be a dictionary, not {_shown(one)}.")
        return tuple(_json_value(f"{name}[{index}]", one) for index, one in enumerate(value))

    @property
    def schema(self) -> dict[str, Any]:
        return {"type": "array", "items": {"type": "object"}}

    def __str__(self) -> str:
        return "a list of dictionaries, such as title and text"


@dataclass(frozen=True, slots=True)
class OnlyValue:
    """A number of which only one value is supported; `reason` is the error text for others."""

    value: float
    reason: str

    def read(self, name: str, value: Any) -> Any:
        number = Number().read(name, value)
        if number != self.value:
            raise UnsupportedOptionError(self.reason)
        return value

    @property
    def schema(self) -> dict[str, Any]:
        return {"const": self.value}

    def __str__(self) -> str:
        return f"{self.value:g} alone"


def _shown(value: object) -> str:
    """A value in an error text, cut: it may be as large as a body."""
    try:
        return _SHORT_REPR.repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return "this"


def _json_value(name: str, value: Any, depth: int = 0) -> Any:
    """A copy of a value that is made of JSON's types alone; raises SamplingError for any other."""
    if depth > _MAX_DEPTH:
        raise SamplingError(f"{name} is nested deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _json_value(name, one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(name, one, depth + 1) for one in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    raise SamplingError(f"{name} must be a value of JSON, not {_shown(value)}.")


def _too_long(name: str, text: str, longest: int) -> str:
    return f"{name} may have at most {longest:,} characters, and has {len(text):,}."


def _at_most(longest: int | None) -> str:
    return "" if longest is None else f" of at most {longest:,} characters"


_TOKEN_ID = Integer(0, 2**31 - 1)
_BIAS = Number(-100, 100)

# --- the table ---------------------------------------------------------------------------------------

_NO_NAMES: Mapping[Wire, str] = MappingProxyType({})
_NO_LIMITS: Mapping[str, float] = MappingProxyType({})
_NO_TYPES: Mapping[Wire, OptionType] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Option:
    """One request option.

    Attributes:
        label: its name for people, on the chat page and in the documentation.
        meaning: a text for all who set it: people on the page as well as programs. The name of another
            option stands in backticks, since the page shows that one's label instead.
        default: its value where no source sets it. The defaults of `GeneratingArguments`' fields are
            LLaMA-Factory's.
        param: the field of `SamplingParams` that it sets; None where it is read elsewhere.
        wires: its name in each API that has it.
        from_model: its name in the model's `generation_config.json`; None where that may not set it.
        most: an engine's highest value, where that is lower than the type's.
        wire_types: an API's type, where that is narrower.
        template: whether it is for the chat template or the engine rather than for sampling.
    """

    name: str
    label: str
    group: Group
    type: OptionType
    default: Any
    meaning: str
    param: str | None = None
    wires: Mapping[Wire, str] = field(default_factory=lambda: _NO_NAMES)
    from_model: str | None = None
    most: Mapping[str, float] = field(default_factory=lambda: _NO_LIMITS)
    template: bool = False
    wire_types: Mapping[Wire, OptionType] = field(default_factory=lambda: _NO_TYPES)


def _named(
    name: str, *wires: Wire, responses: str | None = None, anthropic: str | None = None
) -> dict[Wire, str]:
    """`name` in each of these APIs, and other names in the last two."""
    named: dict[Wire, str] = dict.fromkeys(wires, name)
    if responses is not None:
        named["responses"] = responses
    if anthropic is not None:
        named["anthropic"] = anthropic
    return named


# fmt: off
OPTIONS: tuple[Option, ...] = (
    Option("do_sample", "Sample tokens", "sampling", Flag(), True,
        "Whether tokens are drawn at random, by their probabilities. Without it the most likely one is "
        "taken each time.",
        wires=_named("do_sample", "openai", "responses"), from_model="do_sample"),
    Option("temperature", "Temperature", "sampling", Number(0, 100), 0.95,
        "Divides the logits before sampling: below 1 the most likely tokens gain, above 1 the others. "
        "0 takes the most likely one each time.",
        "temperature", _named("temperature", "openai", "responses", "anthropic", "vllm"),
        from_model="temperature", most={"vllm": 2.0},
        wire_types={"openai": Number(0, 2), "responses": Number(0, 2), "anthropic": Number(0, 1)}),
    Option("top_p", "Top-p", "sampling", Number(0, 1), 0.7,
        "Samples from the most likely tokens that together have this probability; 1 means all. 0 means "
        "unset, 1.0; on the OpenAI and Anthropic APIs it takes the most likely one, as there.",
        "top_p", _named("top_p", "openai", "responses", "anthropic", "vllm"), from_model="top_p"),
    Option("top_k", "Top-k", "sampling", Integer(-1, 2**31 - 1), 50,
        "Samples from this many of the most likely tokens. 0 and -1 mean all.",
        "top_k", _named("top_k", "openai", "responses", "anthropic", "vllm"), from_model="top_k"),
    Option("min_p", "Min-p", "sampling", Number(0, 1), 0.0,
        "Leaves out tokens whose probability is below this fraction of the most likely one's.",
        "min_p", _named("min_p", "openai", "responses", "vllm"), from_model="min_p"),
    Option("seed", "Seed", "sampling", Integer(-(2**63), 2**64 - 1), None,
        "The seed of sampling: with it, the same request gets the same answer.",
        "seed", _named("seed", "openai", "responses", "vllm"), from_model="seed"),
    Option("max_new_tokens", "Max tokens", "length", Integer(1), 1024,
        "Most tokens of an answer; always cut to what the context leaves.",
        "max_tokens",
        _named("max_tokens", "openai", "anthropic", "vllm", responses="max_output_tokens")),
    Option("max_length", "Max tokens with the prompt", "length", Integer(1), 1024,
        "Most tokens of prompt and answer together, where `max_new_tokens` is not given."),
    Option("min_tokens", "Min tokens", "length", Integer(0, 2**31 - 1), 0,
        "Neither EOS, nor a stop token, nor a stop string ends an answer before this many "
        "tokens. At most `max_new_tokens`.",
        "min_tokens", _named("min_tokens", "openai", "responses", "vllm")),
    Option("stop", "Stop strings", "length", Strings(), (),
        "Strings that end an answer; they are not part of it.",
        "stop", _named("stop", "openai", "responses", "vllm", anthropic="stop_sequences"),
        from_model="stop_strings",
        wire_types=dict.fromkeys(("openai", "responses", "anthropic"), Strings(longest=1000))),
    Option("stop_token_ids", "Stop tokens", "length", TokenIds(), (),
        "Tokens that end an answer, in addition to those of the model and its template.",
        "stop_token_ids", _named("stop_token_ids", "openai", "responses", "vllm")),
    Option("include_stop_str_in_output", "Keep what stopped it", "length", Flag(), False,
        "Whether what ended an answer, a stop string or a stop token with a text, stays at its end.",
        "include_stop_str_in_output",
        _named("include_stop_str_in_output", "openai", "responses", "vllm")),
    Option("ignore_eos", "Ignore EOS", "length", Flag(), False,
        "Whether an answer goes on after EOS, the token by which the model ends it.",
        "ignore_eos", _named("ignore_eos", "openai", "responses", "vllm")),
    # A logit divided by much less is more than float32 holds.
    Option("repetition_penalty", "Repetition penalty", "words",
        Number(0.001, 100, or_zero=True), 1.0,
        "Above 1, tokens of the prompt and the answer become less likely: it divides their positive "
        "logits and multiplies negative ones (Keskar et al., 2019). 0 means unset, 1.0.",
        "repetition_penalty", _named("repetition_penalty", "openai", "responses", "vllm"),
        from_model="repetition_penalty"),
    Option("presence_penalty", "Presence penalty", "words", Number(-2, 2), 0.0,
        "Subtracted from the logits of tokens that are in the answer: above 0, new ones gain.",
        "presence_penalty", _named("presence_penalty", "openai", "responses", "vllm"),
        from_model="presence_penalty"),
    Option("frequency_penalty", "Frequency penalty", "words", Number(-2, 2), 0.0,
        "Subtracted from the logits of the answer's tokens, once for each occurrence.",
        "frequency_penalty", _named("frequency_penalty", "openai", "responses", "vllm"),
        from_model="frequency_penalty"),
    Option("logit_bias", "Logit bias", "words", TokenBias(), MappingProxyType({}),
        "Added to the logits of tokens, by their ids. -100 all but forbids a token.",
        "logit_bias", _named("logit_bias", "openai", "responses", "vllm")),
    Option("bad_words", "Banned strings", "words", Strings(), (),
        "Strings that an answer never contains.",
        "bad_words", _named("bad_words", "openai", "responses", "vllm"),
        wire_types=dict.fromkeys(("openai", "responses"), Strings(longest=256))),
    Option("enable_thinking", "Thinking", "thinking", Flag(), None,
        "Whether a reasoning model thinks before its answer. By default the configuration "
        "decides, or the template.",
        wires=_named("enable_thinking", "openai", responses="reasoning", anthropic="thinking"),
        template=True),
    Option("reasoning_effort", "Reasoning effort", "thinking", String(longest=64), None,
        "How much a reasoning model thinks: \"none\", \"low\", \"medium\", \"high\" or another word "
        "of its own. Given to a chat template that reads it; where `enable_thinking` is not given, "
        "\"none\" turns thinking off too, and any other turns it on. A hint: other templates are "
        "left as they are.",
        wires=_named("reasoning_effort", "openai"), template=True),
    Option("thinking_budget", "Thinking budget", "thinking", Integer(0, 2**31 - 1), None,
        "Most tokens of a thought, which is then closed. By default the configuration decides. "
        "Only for models that close a thought with one token.",
        wires=_named("thinking_budget", "openai", "responses"), template=True),
    Option("preserve_thinking", "Keep earlier thoughts", "thinking", Flag(), False,
        "Whether thoughts of earlier turns stay in the prompt.",
        wires=_named("preserve_thinking", "openai"), template=True),
    Option("response_format", "Response format", "output", ResponseFormat(), None,
        "A constraint on the answer's text: JSON, JSON of a schema, a regular expression, one "
        "of several texts, or a grammar. A thought before the answer is free, and so are calls.",
        "response_format",
        _named("response_format", "openai", responses="text", anthropic="output_config")),
    Option("skip_special_tokens", "Hide special tokens", "output", Flag(), True,
        "Whether special tokens are left out of an answer's text.",
        "skip_special_tokens", _named("skip_special_tokens", "openai", "responses", "vllm")),
    Option("n", "Completions", "output", Integer(1, MAX_COMPLETIONS), 1,
        "Number of completions of one prompt.",
        "n", _named("n", "openai", "vllm")),
    Option("num_return_sequences", "Completions", "output", Integer(1, MAX_COMPLETIONS), 1,
        "The same as `n`, under its name in transformers and LLaMA-Factory.",
        "n"),
    Option("logprobs", "Log-probabilities", "output", Alternatives(), None,
        "Returns the log-probability of each token of the answer, and of this many most likely "
        "tokens at its position.",
        "logprobs", _named("logprobs", "openai", "vllm", responses="top_logprobs")),
    Option("prompt_logprobs", "Log-probabilities of the prompt", "output", Alternatives(), None,
        "The same for the prompt's own tokens.",
        "prompt_logprobs", _named("prompt_logprobs", "openai", "vllm")),
    Option("num_beams", "Beams", "output",
        OnlyValue(1, "num_beams above 1 (beam search) is not supported; sample several with "
                     "num_return_sequences."), 1,
        "Beam search, which is not supported."),
    Option("length_penalty", "Length penalty", "output",
        OnlyValue(1, "length_penalty belongs to beam search, which is not supported."), 1.0,
        "Of beam search, which is not supported."),
    Option("tool_choice", "Tool choice", "output", Choice(), AUTO,
        "Whether tools are called: auto, none, required, or a dictionary that names one.",
        template=True),
    Option("parallel_tool_calls", "Parallel tool calls", "output", Flag(), True,
        "Whether an answer may call more than one tool.",
        template=True),
    Option("truncate_prompt_tokens", "Cut a long prompt", "prompt", Integer(-1), None,
        "Cuts a longer prompt to this many of its last tokens; -1 to what leaves room for "
        "`max_new_tokens`.",
        wires=_named("truncate_prompt_tokens", "openai", "responses"), template=True),
    Option("chat_template_kwargs", "Template variables", "prompt", Variables(), MappingProxyType({}),
        "Further variables for the model's own chat template, such as `date_string`; they win over "
        "the configuration's. One that the template never reads is refused.",
        wires=_named("chat_template_kwargs", "openai", "responses", "anthropic"), template=True),
    Option("documents", "Documents", "prompt", Documents(), (),
        "Documents for a chat template that writes them into the prompt, each with keys as the "
        "model wants them, such as `title` and `text`.",
        wires=_named("documents", "openai"), template=True),
    Option("add_generation_prompt", "Begin an answer", "prompt", Flag(), True,
        "Whether the prompt ends where an answer begins. If false, it ends with the last message.",
        wires=_named("add_generation_prompt", "openai", "responses"), template=True),
    Option("continue_final_message", "Continue the last message", "prompt", Flag(), False,
        "Whether the answer continues the last message, an assistant's: its text, or its thought "
        "where it has no text. The answer is the continuation alone.",
        "continues", wires=_named("continue_final_message", "openai", "responses"), template=True),
    Option("priority", "Priority", "service", Integer(-(2**31), 2**31 - 1), 0,
        "The order of service: a lower number is served earlier.",
        "priority", _named("priority", "openai", "responses")),
    Option("timeout", "Time limit", "service", Number(0, exclusive=True), None,
        "Seconds that the request may take, including waiting, media and preparation.",
        "timeout", _named("timeout", "openai", "responses")),
    Option("cache_salt", "Cache salt", "service", String(), None,
        "Requests with different salts share no cached prefix, so that no client can find out "
        "by timing what others have asked.",
        "cache_salt", _named("cache_salt", "openai", "responses"),
        wire_types=dict.fromkeys(("openai", "responses"), String(longest=256))),
    Option("adapter", "Adapter", "service", String(), None,
        "The LoRA adapter to answer with, by name; \"base\" is the model without one.",
        "adapter", template=True),
    Option("request_id", "Request id", "service", String(), None,
        "An id for the request, as in logs; an id in flight is refused.",
        "request_id", template=True),
)
# fmt: on

OPTIONS_BY_NAME: Mapping[str, Option] = MappingProxyType({one.name: one for one in OPTIONS})
REQUEST_OPTIONS = frozenset(OPTIONS_BY_NAME)
"""The names of all that a request may ask for."""
SAMPLING_OPTIONS = frozenset(one.name for one in OPTIONS if not one.template)
"""The names of those for sampling; the others are for the chat template or the engine."""


def check_option_names(options: Iterable[str]) -> None:
    """Raise UnsupportedOptionError for the first name that is no request option."""
    for name in options:
        if name not in OPTIONS_BY_NAME:
            raise UnsupportedOptionError(
                sentence(f"Unknown request option {name!r}{nearest(name, REQUEST_OPTIONS)}")
            )


def read_option(options: Mapping[str, Any], name: str) -> Any:
    """The checked value of one option, or its default where it is not given.

    Raises:
        SamplingError: the value is of a wrong type or out of its range.
    """
    option, value = OPTIONS_BY_NAME[name], options.get(name)
    return option.default if value is None else option.type.read(name, value)


def may_end_with_answer(options: Mapping[str, Any]) -> bool:
    """Whether options say what comes after an assistant's message at a conversation's end."""
    names = ("continue_final_message", "add_generation_prompt")
    return any(options.get(name) is not None for name in names)


def on_wire(wire: Wire) -> dict[str, Option]:
    """The options that an API has, by their names there."""
    return {one.wires[wire]: one for one in OPTIONS if wire in one.wires}


@dataclass(frozen=True, slots=True)
class ThinkingChoices:
    """What a model's requests can choose of the thought before an answer."""

    switch: bool
    """Whether `enable_thinking` turns it on and off."""
    default: bool | None
    """Whether the model thinks where a request says nothing; None where it decides itself."""
    efforts: tuple[str, ...]
    """Words of `reasoning_effort` that differ in what they ask for."""
