"""SamplingParams as fields of a request: what both of vLLM's APIs share."""

from __future__ import annotations

from typing import Any

from quire.errors import SamplingError
from quire.response_format import Constraint
from quire.sampling import SamplingParams

MAX_TEMPERATURE = 2.0
_GREEDY_BELOW = 1e-5  # vLLM takes lower temperatures as 0
_MAX_SEED = 2**63 - 1


def is_greedy(params: SamplingParams) -> bool:
    """Whether the server will take the likeliest token each time."""
    return params.temperature < _GREEDY_BELOW


def wants_stream(params: SamplingParams) -> bool:
    """Whether to ask for a stream; the prompt's log-probabilities come with whole answers only."""
    return params.streamed and params.prompt_logprobs is None


def shared_fields(params: SamplingParams) -> dict[str, Any]:
    """The fields that the completions API and the chat API have in common.

    All that the server's own defaults could fill in is given. Of several greedy completions only
    one is asked for: they are all the same, and vLLM refuses to compute them twice.

    Raises:
        SamplingError: a value that vLLM does not take.
    """
    _check(params)
    streamed = wants_stream(params)
    fields: dict[str, Any] = {
        "n": 1 if is_greedy(params) else params.n,
        "max_tokens": params.max_tokens,
        "min_tokens": min(params.min_tokens, params.max_tokens),
        "temperature": 0.0 if is_greedy(params) else params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "ignore_eos": params.ignore_eos,
        "skip_special_tokens": params.skip_special_tokens,
        "stop": list(params.stop),
        "stop_token_ids": _stop_token_ids(params),
        "stream": streamed,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    if streamed:
        fields["stream_options"] = {"include_usage": True}
    return fields | _optional_fields(params)


def _optional_fields(params: SamplingParams) -> dict[str, Any]:
    """Those that are sent only where they say something."""
    fields = {
        "seed": params.seed,
        "logit_bias": {str(token): bias for token, bias in params.logit_bias.items()} or None,
        "bad_words": list(params.bad_words) or None,
        "prompt_logprobs": params.prompt_logprobs,
        "priority": params.priority or None,
        "cache_salt": params.cache_salt,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _stop_token_ids(params: SamplingParams) -> list[int]:
    eos = () if params.ignore_eos else params.eos_token_ids
    return list(dict.fromkeys((*params.stop_token_ids, *eos)))


def _check(params: SamplingParams) -> None:
    if params.temperature > MAX_TEMPERATURE:
        raise SamplingError(
            f"temperature must be at most {MAX_TEMPERATURE:g} on the remote engine, not "
            f"{params.temperature:g}: vLLM takes no higher one."
        )
    if params.seed is not None and params.seed > _MAX_SEED:
        raise SamplingError(
            f"seed must be at most {_MAX_SEED} on the remote engine, not {params.seed}: vLLM takes "
            "signed numbers of 64 bits."
        )


def structured_outputs(constraint: Constraint) -> dict[str, Any]:
    """vLLM's own field for a constraint on the answer's text."""
    if constraint.kind == "json_object":
        return {"json_object": True}
    value = list(constraint.value) if constraint.kind == "choice" else constraint.value
    return {constraint.kind: value}
