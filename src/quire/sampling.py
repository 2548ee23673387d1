"""One request's settings: merged once, checked once, and the same for every engine.

A value comes from the request, else the user's configuration, else the model's
`generation_config.json`, else LLaMA-Factory's defaults. `resolve` is the only place of that merge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from quire.errors import (
    PromptTooLongError,
    SamplingError,
    UnsupportedOptionError,
    nearest,
    sentence,
)
from quire.response_format import Constraint, read_response_format

_NO_BIAS: Mapping[int, float] = MappingProxyType({})

MAX_COMPLETIONS = 128
MAX_LOGPROBS = 64


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What an engine needs to know of one request.

    `max_tokens` is final: cut to the context already. `top_k` 0 means the whole vocabulary and
    `temperature` 0 means greedy. `eos_token_ids` end a completion unless `ignore_eos`;
    `stop_token_ids` (the template's stop words among them) end it in any case.
    `priority`: a lower number is served earlier. `timeout` is in seconds from submission.
    """

    max_tokens: int
    n: int = 1
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=lambda: _NO_BIAS)
    bad_words: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    response_format: Constraint | None = None
    skip_special_tokens: bool = True
    priority: int = 0
    cache_salt: str | None = None
    """Requests of different salts share no cached prefix: who asks cannot learn what others asked."""
    timeout: float | None = None
    streamed: bool = True
    """False where the caller reads whole answers only: an engine may then emit one delta each."""

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0


DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "do_sample": True,
        "temperature": 0.95,
        "top_p": 0.7,
        "top_k": 50,
        "num_beams": 1,
        "max_length": 1024,
        "max_new_tokens": 1024,
        "repetition_penalty": 1.0,
        "length_penalty": 1.0,
        "skip_special_tokens": True,
    }
)
"""LLaMA-Factory's defaults, the last resort of the merge."""

SAMPLING_OPTIONS = frozenset(DEFAULTS) | {
    "num_return_sequences",
    "n",
    "seed",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "min_p",
    "min_tokens",
    "ignore_eos",
    "logit_bias",
    "logprobs",
    "prompt_logprobs",
    "bad_words",
    "stop_token_ids",
    "response_format",
    "priority",
    "cache_salt",
    "timeout",
}
"""What a request may give for sampling; `REQUEST_OPTIONS` adds what templates and engines take."""

REQUEST_OPTIONS = SAMPLING_OPTIONS | {
    "enable_thinking",
    "preserve_thinking",
    "adapter",
    "request_id",
}

_FROM_MODEL = ("do_sample", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def check_option_names(options: Iterable[str]) -> None:
    """Raise UnsupportedOptionError for an option that is not one of a request."""
    for name in options:
        if name not in REQUEST_OPTIONS:
            raise UnsupportedOptionError(
                sentence(f"Unknown request option {name!r}{nearest(name, REQUEST_OPTIONS)}")
            )


def resolve(
    request: Mapping[str, Any],
    configured: Mapping[str, Any],
    generation_config: Mapping[str, Any],
    *,
    prompt_length: int,
    context_length: int,
    eos_token_ids: Sequence[int] = (),
    stop_token_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
) -> SamplingParams:
    """Merge one request's options over all else, check them, and fit them to the context.

    Args:
        request: the options that came with the request; None counts as not given.
        configured: those that the user's configuration sets explicitly.
        generation_config: the content of the model's `generation_config.json`.
        prompt_length: tokens in the prompt.
        context_length: tokens that a sequence may have, prompt and answer together.
        eos_token_ids, stop_token_ids, stop_strings: from the model and its template.

    Raises:
        SamplingError: a value out of its range.
        UnsupportedOptionError: an unknown option, or one that no engine here honours.
        PromptTooLongError: the prompt leaves no room for a single token.
    """
    given, own, merged = _merge(request, configured, generation_config)
    _refuse_beams(merged)
    ignore_eos = _boolean("ignore_eos", merged.get("ignore_eos", False))
    # A template names the end of a turn, which often is EOS itself: ignored, it ends nothing.
    ignored = frozenset(eos_token_ids) if ignore_eos else frozenset[int]()
    return SamplingParams(
        max_tokens=_max_tokens(given, own, prompt_length, context_length),
        n=_integer("n", given.get("n", given.get("num_return_sequences", 1)), 1, MAX_COMPLETIONS),
        min_tokens=_integer("min_tokens", merged.get("min_tokens", 0), 0),
        temperature=_temperature(merged, given, own),
        top_p=_number("top_p", merged["top_p"], 0.0, 1.0) or 1.0,
        top_k=max(_integer("top_k", merged["top_k"], -1), 0),
        min_p=_number("min_p", merged.get("min_p", 0.0), 0.0, 1.0),
        repetition_penalty=_number("repetition_penalty", merged["repetition_penalty"], 0.0, 100.0)
        or 1.0,
        presence_penalty=_number(
            "presence_penalty", merged.get("presence_penalty", 0.0), -2.0, 2.0
        ),
        frequency_penalty=_number(
            "frequency_penalty", merged.get("frequency_penalty", 0.0), -2.0, 2.0
        ),
        seed=_optional_integer("seed", merged.get("seed"), -(2**63), 2**64 - 1),
        stop=(*stop_strings, *_strings("stop", merged.get("stop", ()))),
        stop_token_ids=tuple(
            token
            for token in (*stop_token_ids, *_token_ids(merged.get("stop_token_ids")))
            if token not in ignored
        ),
        eos_token_ids=tuple(eos_token_ids),
        ignore_eos=ignore_eos,
        logit_bias=_logit_bias(merged.get("logit_bias") or {}),
        bad_words=_strings("bad_words", merged.get("bad_words", ())),
        logprobs=_logprobs("logprobs", merged.get("logprobs")),
        prompt_logprobs=_logprobs("prompt_logprobs", merged.get("prompt_logprobs")),
        response_format=read_response_format(merged.get("response_format")),
        skip_special_tokens=_boolean("skip_special_tokens", merged["skip_special_tokens"]),
        priority=_integer("priority", merged.get("priority", 0), -(2**31), 2**31 - 1),
        cache_salt=read_cache_salt(merged.get("cache_salt")),
        timeout=_timeout(merged.get("timeout")),
    )


def _merge(
    request: Mapping[str, Any], configured: Mapping[str, Any], generation_config: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What the request gives, what the configuration does, and all sources as one; None is unset."""
    check_option_names(request)
    given = {name: value for name, value in request.items() if value is not None}
    if "n" in given and "num_return_sequences" in given:
        raise SamplingError("Give n or num_return_sequences, not both: they mean the same.")
    own = {name: value for name, value in configured.items() if value is not None}
    from_model = {
        name: generation_config[name]
        for name in _FROM_MODEL
        if generation_config.get(name) is not None
    }
    return given, own, {**DEFAULTS, **from_model, **own, **given}


def _refuse_beams(merged: Mapping[str, Any]) -> None:
    if _integer("num_beams", merged["num_beams"], 1) != 1:
        raise UnsupportedOptionError(
            "num_beams above 1 (beam search) is not supported; sample several with num_return_sequences."
        )
    if _number("length_penalty", merged["length_penalty"], -math.inf, math.inf) != 1.0:
        raise UnsupportedOptionError(
            "length_penalty belongs to beam search, which is not supported."
        )


def _max_tokens(
    given: Mapping[str, Any], own: Mapping[str, Any], prompt_length: int, context_length: int
) -> int:
    room = context_length - prompt_length
    if room < 1:
        raise PromptTooLongError(
            f"The prompt has {prompt_length:,} tokens and the context holds {context_length:,}: no room "
            "for an answer. Shorten the conversation, or raise vllm_maxlen if the model allows it."
        )
    for source in (given, own):
        if source.get("max_new_tokens") is not None:
            return min(_integer("max_new_tokens", source["max_new_tokens"], 1), room)
        if source.get("max_length") is not None:
            length = _integer("max_length", source["max_length"], 1)
            return min(max(length - prompt_length, 1), room)
    return min(DEFAULTS["max_new_tokens"], room)


def _temperature(
    merged: Mapping[str, Any], given: Mapping[str, Any], own: Mapping[str, Any]
) -> float:
    """0 where the result is greedy. A temperature in a stronger source beats a weaker do_sample."""
    value = _number("temperature", merged["temperature"], 0.0, 100.0)
    if _boolean("do_sample", merged["do_sample"]):
        return value
    for source in (given, own):
        if "do_sample" in source:
            return 0.0
        if "temperature" in source:
            return value
    return 0.0


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise SamplingError(f"{name} must be a number, not {value!r}.")
    if not low <= value <= high:
        raise SamplingError(f"{name} must be between {low:g} and {high:g}, not {value!r}.")
    return float(value)


def _integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not whole:
        raise SamplingError(f"{name} must be a whole number, not {value!r}.")
    if value < low or (high is not None and value > high):
        most = "" if high is None else f" and at most {high}"
        raise SamplingError(f"{name} must be at least {low}{most}, not {value!r}.")
    return int(value)


def _optional_integer(name: str, value: Any, low: int, high: int) -> int | None:
    return None if value is None else _integer(name, value, low, high)


def _logprobs(name: str, value: Any) -> int | None:
    if value is None or value is False:
        return None
    return 1 if value is True else _integer(name, value, 0, MAX_LOGPROBS)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise SamplingError(f"{name} must be true or false, not {value!r}.")
    return value


def _strings(name: str, value: Any) -> tuple[str, ...]:
    values = (value,) if isinstance(value, str) else tuple(value or ())
    for item in values:
        if not isinstance(item, str) or not item:
            raise SamplingError(f"{name} must be a string or a list of strings that are not empty.")
    return values


def _token_ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise SamplingError(f"stop_token_ids must be a list of token ids, not {value!r}.")
    return tuple(_integer("stop_token_ids", token, 0, 2**31 - 1) for token in value)


def _logit_bias(value: Any) -> Mapping[int, float]:
    if not isinstance(value, Mapping):
        raise SamplingError("logit_bias must map token ids to numbers.")
    bias: dict[int, float] = {}
    for token, amount in value.items():
        try:
            token_id = int(token)
        except (TypeError, ValueError):
            raise SamplingError(
                f"logit_bias has the key {token!r}, which is no token id."
            ) from None
        bias[token_id] = _number(f"logit_bias[{token_id}]", amount, -100.0, 100.0)
    return MappingProxyType(bias)


def read_cache_salt(value: Any) -> str | None:
    """Check a salt.

    Raises:
        SamplingError: it is no text, or empty.
    """
    if value is not None and (not isinstance(value, str) or not value):
        raise SamplingError(f"cache_salt must be a text that is not empty, not {value!r}.")
    return value


def _timeout(value: Any) -> float | None:
    if value is None:
        return None
    seconds = _number("timeout", value, 0.0, math.inf)
    if seconds == 0.0:
        raise SamplingError("timeout must be above 0 seconds.")
    return seconds
