"""From quire's sampling settings to vLLM's: each is mapped, or refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.errors import SamplingError
from quire.response_format import Constraint
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    import vllm
    from vllm.sampling_params import StructuredOutputsParams

MAX_TEMPERATURE = 2.0
"""vLLM refuses more."""


def to_vllm(params: SamplingParams, *, cumulative: bool = False) -> vllm.SamplingParams:
    """The settings of one request as vLLM's own.

    A stream gets deltas and a whole answer one output at its end; `cumulative` gives each output
    all that was written so far. Greedy completions of one prompt are equal: one is asked for, and
    `outputs.DeltaReader` repeats it.

    Raises:
        SamplingError: vLLM refuses the settings.
    """
    import vllm

    try:
        return vllm.SamplingParams(**_arguments(params, _output_kind(params, cumulative)))
    except SamplingError:
        raise
    except Exception as error:  # ValueError before vLLM 0.27, an error of its own since
        raise SamplingError(f"vLLM refuses the request's settings: {error}") from None


def _arguments(params: SamplingParams, output_kind: Any) -> dict[str, Any]:
    if params.temperature > MAX_TEMPERATURE:
        raise SamplingError(
            f"temperature must be at most {MAX_TEMPERATURE:g} with vLLM, not {params.temperature:g}."
        )
    eos = () if params.ignore_eos else params.eos_token_ids
    return {
        "n": 1 if params.greedy else params.n,
        "max_tokens": params.max_tokens,
        "min_tokens": min(params.min_tokens, params.max_tokens),
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "min_p": params.min_p,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "seed": _seed(params.seed),
        "stop": list(params.stop),
        "stop_token_ids": [*params.stop_token_ids, *eos],
        "ignore_eos": params.ignore_eos,
        "logit_bias": dict(params.logit_bias) or None,
        "bad_words": list(params.bad_words) or None,
        "logprobs": params.logprobs,
        "prompt_logprobs": params.prompt_logprobs,
        "structured_outputs": _structured_outputs(params.response_format),
        "skip_special_tokens": params.skip_special_tokens,
        "output_kind": output_kind,
        "skip_clone": True,  # made for this one request
    }


def _output_kind(params: SamplingParams, cumulative: bool) -> Any:
    from vllm.sampling_params import RequestOutputKind

    if cumulative:
        # A cumulative output holds one completion only, so several come whole, at the end.
        several = params.n > 1 and not params.greedy
        return RequestOutputKind.FINAL_ONLY if several else RequestOutputKind.CUMULATIVE
    return RequestOutputKind.DELTA if params.streamed else RequestOutputKind.FINAL_ONLY


def _seed(seed: int | None) -> int | None:
    """vLLM reads -1 as no seed, and carries signed 64-bit numbers only."""
    return None if seed is None else seed % 2**63


def _structured_outputs(constraint: Constraint | None) -> StructuredOutputsParams | None:
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    if constraint.kind == "json_object":
        return StructuredOutputsParams(json_object=True)
    value = list(constraint.value) if constraint.kind == "choice" else constraint.value
    named: dict[str, Any] = {constraint.kind: value}
    return StructuredOutputsParams(**named)
