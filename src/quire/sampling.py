"""The settings of one request: merged once, checked once, and the same for every engine.

A value comes from the request, else from the user's configuration, else from the model's
`generation_config.json`, else it is the default of `options.OPTIONS`. Only `OptionResolver` merges
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from quire.errors import PromptTooLongError, SamplingError
from quire.options import OPTIONS, OPTIONS_BY_NAME, check_option_names
from quire.response_format import Constraint

_NO_BIAS: Mapping[int, float] = MappingProxyType({})
_NEVER = -100.0
"""The bias with which OpenAI's API bans a token. Minus infinity could not be sent to a remote engine."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What an engine needs to know of one request.

    The fields without a comment mean what `options.OPTIONS` says of the option that sets them.
    """

    max_tokens: int
    """Cut to what the context leaves."""
    n: int = 1
    min_tokens: int = 0
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 is the whole vocabulary."""
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    """These end a completion in any case. The template's stop words are among them."""
    include_stop_str_in_output: bool = False
    eos_token_ids: tuple[int, ...] = ()
    """These end a completion unless `ignore_eos`."""
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=lambda: _NO_BIAS)
    bad_words: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    response_format: Constraint | None = None
    skip_special_tokens: bool = True
    priority: int = 0
    cache_salt: str | None = None
    """Requests with different salts share no cached prefix, so that no client can find out by timing
    what others have asked."""
    timeout: float | None = None
    """Seconds from submission. The chat layer applies it, not the engine."""
    adapter: str | None = None
    """The LoRA adapter's name; None is the engine's default, "base" the model without one."""
    request_id: str | None = None
    """The caller's id for the request; an id in flight is refused."""
    continues: bool = False
    """Whether the prompt ends inside a text that the completion continues, so that its first token is
    none at the beginning of a text."""
    streamed: bool = True
    """False where the caller reads whole answers only. An engine may then return each completion as
    one delta."""

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken each time."""
        return self.temperature == 0.0

    @property
    def tenant(self) -> str:
        """Whose request it is, for fairness among those who wait: the salt up to its first slash.

        A server's salt is its client's own, a slash, and whatever the client has chosen.
        """
        return (self.cache_salt or "").partition("/")[0]


class OptionResolver:
    """Merges the options of a model's requests with the configuration, the model's and the defaults.

    What does not depend on a request is merged and checked once, when the resolver is made.

    Args:
        configured: the options that the user's configuration sets explicitly.
        generation_config: the content of the model's `generation_config.json`.
        context_length: most tokens of a sequence, prompt and answer together.
        eos_token_ids: the model's EOS tokens.
        suppressed_token_ids: tokens that the model must never write, whatever a request says of them.

    Raises:
        SamplingError: a configured value is of a wrong type or out of its range.
        UnsupportedOptionError: a configured option is not supported.
    """

    def __init__(
        self,
        configured: Mapping[str, Any],
        generation_config: Mapping[str, Any],
        *,
        context_length: int,
        eos_token_ids: Sequence[int] = (),
        suppressed_token_ids: Sequence[int] = (),
    ) -> None:
        self.context_length = context_length
        self._eos = tuple(eos_token_ids)
        self._suppressed = dict.fromkeys(suppressed_token_ids, _NEVER)
        self._configured = _checked(configured)
        from_model = {
            one.name: generation_config[one.from_model]
            for one in OPTIONS
            if one.from_model and generation_config.get(one.from_model) is not None
        }
        defaults = {one.name: one.default for one in OPTIONS}
        self._base = {**defaults, **_checked(from_model), **self._configured}
        base = {one.param: self._base[one.name] for one in OPTIONS if one.param is not None}
        self._params: dict[str, Any] = base | {"n": 1, "eos_token_ids": self._eos}

    @property
    def defaults(self) -> Mapping[str, Any]:
        """The value of each option that a request does not set; of None the engine decides."""
        limit = self._answer_limit({}, 0)
        return {**self._base, "temperature": self._temperature({}), "max_new_tokens": limit}

    def resolve(
        self,
        options: Mapping[str, Any],
        prompt_length: int,
        *,
        stop_token_ids: Sequence[int] = (),
        stop_strings: Sequence[str] = (),
        streamed: bool = True,
    ) -> SamplingParams:
        """Merge one request's options into its settings.

        Args:
            options: the request's own; one that is None counts as not given.
            prompt_length: tokens in the prompt.
            stop_token_ids, stop_strings: the template's stop words.
            streamed: see `SamplingParams`.

        Raises:
            SamplingError: a value is of a wrong type or out of its range.
            UnsupportedOptionError: an option is unknown, or no engine here supports it.
            PromptTooLongError: the prompt leaves no room for a single token.
        """
        given = _checked(options)
        params: dict[str, Any] = {**self._params, "streamed": streamed}
        for name, value in given.items():
            param = OPTIONS_BY_NAME[name].param
            if param is not None:
                params[param] = value
        limit = self._answer_limit(given, prompt_length)
        if params["min_tokens"] > limit:
            raise SamplingError(
                f"min_tokens is {params['min_tokens']:,}, more than the {limit:,} tokens that the "
                "answer may have (max_tokens; in Python max_new_tokens)."
            )
        params["max_tokens"] = min(limit, self._room(prompt_length))
        params["temperature"] = self._temperature(given)
        # In LLaMA-Factory, 0 means unset for these two.
        params["top_p"] = params["top_p"] or 1.0
        params["repetition_penalty"] = params["repetition_penalty"] or 1.0
        params["top_k"] = max(params["top_k"], 0)
        if stop_strings:
            params["stop"] = (*stop_strings, *params["stop"])
        if self._suppressed:
            params["logit_bias"] = {**params["logit_bias"], **self._suppressed}
        stops = (*stop_token_ids, *params["stop_token_ids"])
        if params["ignore_eos"]:
            # The template's stop word is often EOS itself, and `ignore_eos` is meant for it too.
            stops = tuple(token for token in stops if token not in self._eos)
        params["stop_token_ids"] = stops
        return SamplingParams(**params)

    def _answer_limit(self, given: Mapping[str, Any], prompt_length: int) -> int:
        """The most tokens of an answer, whatever the context holds."""
        for source in (given, self._configured):
            if "max_new_tokens" in source:
                return source["max_new_tokens"]
            if "max_length" in source:
                return max(source["max_length"] - prompt_length, 1)
        return self._base["max_new_tokens"]

    def _room(self, prompt_length: int) -> int:
        """How many tokens the context leaves for an answer."""
        room = self.context_length - prompt_length
        if room < 1:
            raise PromptTooLongError(
                f"The prompt has {prompt_length:,} tokens and the context holds "
                f"{self.context_length:,}: no room for an answer. Shorten the conversation, or raise "
                "vllm_maxlen if the model allows it."
            )
        return room

    def _temperature(self, given: Mapping[str, Any]) -> float:
        """The temperature, 0 for greedy.

        `do_sample: false` means greedy, unless a source with precedence over its own (the request over
        the configuration, that over the model) sets a temperature.
        """
        temperature = given.get("temperature", self._base["temperature"])
        if given.get("do_sample", self._base["do_sample"]):
            return temperature
        for source in (given, self._configured):
            if "do_sample" in source:
                return 0.0
            if "temperature" in source:
                return temperature
        return 0.0


def _checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Check the given options and convert their values. None counts as not given."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        option = OPTIONS_BY_NAME.get(name)
        if option is None:
            check_option_names((name,))
        elif value is not None:
            given[name] = option.type.read(name, value)
    if "n" in given and "num_return_sequences" in given:
        raise SamplingError("Give n or num_return_sequences, not both: they mean the same.")
    return given


def greedy_on_vllm(params: SamplingParams) -> bool:
    """Whether vLLM takes the most likely token each time: it treats tiny temperatures as 0."""
    return params.temperature < 1e-5


def vllm_fields(params: SamplingParams) -> dict[str, Any]:
    """The settings under vLLM's names for them, which are the same in its Python and HTTP APIs.

    vLLM refuses n > 1 for greedy requests, whose completions are all the same. One is requested, and
    the reader of the outputs repeats it. EOS is passed among the stop tokens.

    Raises:
        SamplingError: vLLM does not take a value.
    """
    fields: dict[str, Any] = {}
    for option in OPTIONS:
        name = option.wires.get("vllm")
        if name is None or option.param is None:
            continue
        value = getattr(params, option.param)
        most = option.most.get("vllm")
        if most is not None and value > most:
            raise SamplingError(f"{option.name} must be at most {most:g} with vLLM, not {value:g}.")
        fields[name] = list(value) if isinstance(value, tuple) else value
    eos = () if params.ignore_eos else params.eos_token_ids
    greedy = greedy_on_vllm(params)
    return fields | {
        "n": 1 if greedy else params.n,
        "temperature": 0.0 if greedy else params.temperature,
        "min_tokens": min(params.min_tokens, params.max_tokens),
        "stop_token_ids": list(dict.fromkeys((*params.stop_token_ids, *eos))),
    }


def structured_outputs(constraint: Constraint) -> dict[str, Any]:
    """A constraint under vLLM's names for it, which are the same in its Python and HTTP APIs."""
    if constraint.kind == "json_object":
        return {"json_object": True}
    value = list(constraint.value) if constraint.kind == "choice" else constraint.value
    return {constraint.kind: value}
