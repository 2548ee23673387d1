"""One request on its way into vLLM, and vLLM's outputs on their way back.

Into vLLM go sampling settings (`to_vllm`) and a prompt, with processed media where there are any
(`media_input`). Back come outputs, which a `DeltaReader` turns into deltas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from quire.engines.vllm.errors import as_quire_error
from quire.errors import (
    EngineDeadError,
    MediaError,
    PromptTooLongError,
    QuireError,
    SamplingError,
)
from quire.media.placement import KINDS, Kind
from quire.outputs import Delta, FinishReason, TokenLogprob, Usage
from quire.response_format import Constraint
from quire.sampling import SamplingParams, greedy_on_vllm, structured_outputs, vllm_fields

if TYPE_CHECKING:
    import vllm
    from vllm import CompletionOutput, RequestOutput
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine.async_llm import AsyncLLM

VllmInput: TypeAlias = Any
"""A prompt as vLLM's renderer returns it: a dictionary with `prompt_token_ids`."""

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    "repetition": "stop",
}

_FAILED = "vLLM failed in a step of this request."
_NO_TOKEN = (
    "vLLM's grammar could not go on: bad_words, min_tokens or logit_bias leave nothing of what "
    "response_format allows, or it is too large."
)

# --- sampling settings ---------------------------------------------------------------------------


def to_vllm(params: SamplingParams, *, cumulative: bool = False) -> vllm.SamplingParams:
    """Convert one request's settings into vLLM's.

    A streamed request asks vLLM for deltas, one that is answered whole for a single final output;
    with `cumulative` each output holds all text so far. Several greedy completions are the same, so
    vLLM computes one and `DeltaReader` repeats it.

    Raises:
        SamplingError: vLLM refuses the settings.
    """
    import vllm

    arguments = vllm_arguments(params, cumulative=cumulative)
    try:
        return vllm.SamplingParams(**arguments)
    except Exception as error:  # ValueError before vLLM 0.27, VLLMValidationError since
        raise SamplingError(f"vLLM refuses the request's settings: {error}") from None


def vllm_arguments(params: SamplingParams, *, cumulative: bool = False) -> dict[str, Any]:
    """The arguments of `vllm.SamplingParams` for a request; see `to_vllm`."""
    return vllm_fields(params) | {
        "seed": _seed(params.seed),
        "logit_bias": dict(params.logit_bias) or None,
        "bad_words": list(params.bad_words) or None,
        "structured_outputs": _structured_outputs(params.response_format),
        "output_kind": _output_kind(params, cumulative),
        "skip_clone": True,  # vLLM copies them otherwise, in case the caller reuses the object
    }


def _output_kind(params: SamplingParams, cumulative: bool) -> Any:
    from vllm.sampling_params import RequestOutputKind

    if cumulative:
        # With n > 1 each cumulative output carries one completion, and the others' text is lost, so
        # several are returned together at the end.
        several = params.n > 1 and not greedy_on_vllm(params)
        return RequestOutputKind.FINAL_ONLY if several else RequestOutputKind.CUMULATIVE
    return RequestOutputKind.DELTA if params.streamed else RequestOutputKind.FINAL_ONLY


def _seed(seed: int | None) -> int | None:
    """A seed that vLLM takes: it reads -1 as "no seed", and carries signed 64-bit integers only."""
    return None if seed is None else seed % 2**63


def _structured_outputs(constraint: Constraint | None) -> StructuredOutputsParams | None:
    if constraint is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**structured_outputs(constraint))


# --- the prompt ----------------------------------------------------------------------------------


def media_kinds(engine: AsyncLLM) -> frozenset[Kind]:
    """The kinds of media that the running model accepts."""
    if not engine.model_config.is_multimodal_model:
        return frozenset()
    limits = engine.renderer.get_mm_processor().info.supported_mm_limits
    return frozenset(kind for kind in KINDS if kind in limits)


async def media_input(
    engine: AsyncLLM, token_ids: list[int], media: Mapping[str, Any]
) -> VllmInput:
    """Process a prompt's media, off the event loop, into an input for `AsyncLLM.generate`.

    Args:
        token_ids: the prompt with one placeholder for each medium, which vLLM expands.
        media: `multi_modal_data`, `multi_modal_uuids` and `mm_processor_kwargs`.

    Raises:
        MediaError: the model's processor rejects the media.
        PromptTooLongError: with all placeholders expanded, the prompt fills the context.
    """
    renderer: Any = engine.renderer  # its annotations leave out a prompt's optional keys
    try:
        (inputs,) = await renderer.render_cmpl_async([{"prompt_token_ids": token_ids, **media}])
    except asyncio.CancelledError:
        raise
    except Exception as error:  # Hugging Face's processors raise whatever their code raises
        raise _media_error(error) from error
    length = len(inputs["prompt_token_ids"])
    if length >= engine.model_config.max_model_len:
        raise PromptTooLongError(
            f"The prompt has {length:,} tokens with its media and the context holds "
            f"{engine.model_config.max_model_len:,}: give fewer or smaller media, or less text."
        )
    return inputs


def _media_error(error: Exception) -> QuireError:
    known = as_quire_error(error)
    if isinstance(known, (PromptTooLongError, EngineDeadError)):
        return known
    # A processor's own message names tensors and shapes, which do not help the caller.
    return MediaError("The model's processor does not take these images, videos or audios.")


def salted(inputs: VllmInput, salt: str | None) -> VllmInput:
    """The prompt with a cache salt: only prompts of the same salt share its cached prefix."""
    return inputs if salt is None else {**inputs, "cache_salt": salt}


# --- outputs -------------------------------------------------------------------------------------


class DeltaReader:
    """Converts the outputs of one request, of kind DELTA or FINAL_ONLY, into deltas.

    Invariant: each of the request's completions gets exactly one delta with a finish reason;
    `unfinished` counts those that have not had it yet.
    """

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._copies = params.n if greedy_on_vllm(params) else 1
        self._counts: dict[int, int] = {}
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self.unfinished = params.n

    def read(self, output: RequestOutput) -> list[Delta]:
        """Return the deltas of one output, in the order of its completions."""
        if output.prompt_logprobs and self._prompt_logprobs is None:
            self._prompt_logprobs = _prompt_logprobs(
                output.prompt_token_ids or [], output.prompt_logprobs, self._params.prompt_logprobs
            )
        deltas: list[Delta] = []
        for completion in output.outputs:
            delta = self._delta(completion, output.num_cached_tokens)
            if delta is None:
                continue
            deltas.append(delta)
            if self._copies > 1:
                deltas += [
                    replace(delta, index=index, prompt_logprobs=None)
                    for index in range(1, self._copies)
                ]
        return deltas

    def _delta(self, completion: CompletionOutput, cached: int | None) -> Delta | None:
        index, tokens = completion.index, tuple(completion.token_ids)
        reason = completion.finish_reason
        if not tokens and not completion.text and reason is None:
            return None
        count = self._counts[index] = self._counts.get(index, 0) + len(tokens)
        delta = Delta(index, completion.text, tokens)
        if completion.logprobs is not None:
            delta.logprobs = self._logprobs(tokens, completion.logprobs)
        if self._prompt_logprobs is not None and index == 0:
            delta.prompt_logprobs, self._prompt_logprobs = self._prompt_logprobs, None
        if reason is not None:
            self.unfinished -= self._copies
            # A later vLLM may add reasons, so an unknown one counts as "stop".
            delta.finish_reason = _FINISH_REASONS.get(reason, "stop")
            delta.stop_reason = self._stop_reason(completion, tokens)
            delta.usage = Usage(self._prompt_length, count, cached or 0)
            if delta.finish_reason == "error":
                # vLLM ends a request so where its grammar rejects the token that was sampled.
                delta.refused = self._params.response_format is not None
                delta.error = _NO_TOKEN if delta.refused else _FAILED
        return delta

    def _logprobs(self, tokens: tuple[int, ...], rows: Any) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        if top is None:
            return None
        # vLLM before 0.32 repeats all earlier rows in a last output that has no token of its own.
        rows = rows[: len(tokens)]
        return tuple(_token_logprob(t, row, top) for t, row in zip(tokens, rows, strict=True))

    def _stop_reason(
        self, completion: CompletionOutput, tokens: tuple[int, ...]
    ) -> str | int | None:
        """The stop string, the id of the stop token, or None where EOS ended the completion.

        quire passes EOS to vLLM among the stop tokens, so vLLM reports it as one; and it reports
        nothing for a stop token that is the model's EOS. Both are corrected, to match other engines.
        """
        reported = completion.stop_reason
        if isinstance(reported, str):
            return reported
        if reported is None and completion.finish_reason == "stop" and tokens:
            reported = tokens[-1]
        return reported if reported in self._params.stop_token_ids else None


def _token_logprob(token: int, row: Mapping[int, Any], top: int) -> TokenLogprob:
    """The log-probability of one token from vLLM's row, which maps token ids to values and ranks."""
    chosen = row[token]
    ranked = sorted((entry.rank or 0, other, entry.logprob) for other, entry in row.items())
    likeliest = {other: logprob for rank, other, logprob in ranked if 0 < rank <= top}
    return TokenLogprob(token, chosen.logprob, likeliest, chosen.rank or 0)


def _prompt_logprobs(
    tokens: list[int], rows: Any, top: int | None
) -> tuple[TokenLogprob | None, ...]:
    return tuple(
        None if row is None else _token_logprob(token, row, top or 0)
        for token, row in zip(tokens, rows, strict=True)
    )
