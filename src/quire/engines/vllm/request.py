"""From quire's sampling settings to vLLM's: each is mapped, or refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire.errors import SamplingError
from quire.response_format import Constraint
from quire.sampling import SamplingParams, greedy_on_vllm, structured_outputs, vllm_fields

if TYPE_CHECKING:
    import vllm
    from vllm.sampling_params import StructuredOutputsParams


def to_vllm(params: SamplingParams, *, cumulative: bool = False) -> vllm.SamplingParams:
    """The settings of one request as vLLM's own.

    A stream gets deltas and a whole answer one output at its end; `cumulative` gives each output
    all that was written so far. Of several greedy completions one is asked for, and
    `outputs.DeltaReader` repeats it.

    Raises:
        SamplingError: vLLM refuses the settings.
    """
    import vllm

    arguments = vllm_arguments(params, cumulative=cumulative)
    try:
        return vllm.SamplingParams(**arguments)
    except Exception as error:  # ValueError before vLLM 0.27, an error of its own since
        raise SamplingError(f"vLLM refuses the request's settings: {error}") from None


def vllm_arguments(params: SamplingParams, *, cumulative: bool = False) -> dict[str, Any]:
    """What `to_vllm` gives to vLLM's class."""
    return vllm_fields(params) | {
        "seed": _seed(params.seed),
        "logit_bias": dict(params.logit_bias) or None,
        "bad_words": list(params.bad_words) or None,
        "structured_outputs": _structured_outputs(params.response_format),
        "output_kind": _output_kind(params, cumulative),
        "skip_clone": True,  # made for this one request
    }


def _output_kind(params: SamplingParams, cumulative: bool) -> Any:
    from vllm.sampling_params import RequestOutputKind

    if cumulative:
        # A cumulative output holds one completion only, so several come whole, at the end.
        several = params.n > 1 and not greedy_on_vllm(params)
        return RequestOutputKind.FINAL_ONLY if several else RequestOutputKind.CUMULATIVE
    return RequestOutputKind.DELTA if params.streamed else RequestOutputKind.FINAL_ONLY


def _seed(seed: int | None) -> int | None:
    """vLLM reads -1 as no seed, and carries signed 64-bit numbers only."""
    return None if seed is None else seed % 2**63


def _structured_outputs(constraint: Constraint | None) -> StructuredOutputsParams | None:
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**structured_outputs(constraint))
