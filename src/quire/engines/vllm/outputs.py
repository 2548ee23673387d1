"""From vLLM's outputs to deltas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quire.outputs import Delta, FinishReason, TokenLogprob, Usage
from quire.sampling import SamplingParams, greedy_on_vllm

if TYPE_CHECKING:
    from vllm import CompletionOutput, RequestOutput

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "abort",
    "error": "error",
    "repetition": "stop",
}


class DeltaReader:
    """Reads the outputs of one request, deltas or whole ones.

    Invariant: each of the request's completions gets exactly one delta with a finish reason.
    """

    def __init__(self, params: SamplingParams, prompt_length: int) -> None:
        self._params = params
        self._prompt_length = prompt_length
        self._copies = params.n if greedy_on_vllm(params) else 1
        self._counts: dict[int, int] = {}
        self._prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
        self.unfinished = params.n

    def read(self, output: RequestOutput) -> list[Delta]:
        """The deltas in one output."""
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
            # A word that a later version brings is an end like any other.
            delta.finish_reason = _FINISH_REASONS.get(reason, "stop")
            delta.stop_reason = self._stop_reason(completion, tokens)
            delta.usage = Usage(self._prompt_length, count, cached or 0)
            if delta.finish_reason == "error":
                delta.error = "vLLM failed in a step of this request."
        return delta

    def _logprobs(self, tokens: tuple[int, ...], found: Any) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        if top is None:
            return None
        # vLLM before 0.32 appends all rows again to a last output that has no token of its own.
        rows = found[: len(tokens)]
        return tuple(_token_logprob(t, row, top) for t, row in zip(tokens, rows, strict=True))

    def _stop_reason(
        self, completion: CompletionOutput, tokens: tuple[int, ...]
    ) -> str | int | None:
        """As the other engines tell it: a stop string, a stop token's id, and None for EOS alone.

        EOS went to vLLM among the stop tokens, and it tells nothing of a stop token that is its EOS.
        """
        told = completion.stop_reason
        if isinstance(told, str):
            return told
        if told is None and completion.finish_reason == "stop" and tokens:
            told = tokens[-1]
        return told if told in self._params.stop_token_ids else None


def _token_logprob(token: int, row: Mapping[int, Any], top: int) -> TokenLogprob:
    """One token's; vLLM's row holds it and its rivals, with ranks."""
    chosen = row[token]
    ranked = sorted((entry.rank or 0, other, entry.logprob) for other, entry in row.items())
    rivals = {other: logprob for rank, other, logprob in ranked if 0 < rank <= top}
    return TokenLogprob(token, chosen.logprob, rivals, chosen.rank or 0)


def _prompt_logprobs(
    tokens: list[int], rows: Any, top: int | None
) -> tuple[TokenLogprob | None, ...]:
    return tuple(
        None if row is None else _token_logprob(token, row, top or 0)
        for token, row in zip(tokens, rows, strict=True)
    )
