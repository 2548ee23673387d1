"""Remote servers as a `TokenEngine`: token ids go to `/v1/completions`, and deltas come back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.arguments import ModelArguments
from quire.constraints.grammar import grammar_text
from quire.constraints.lark import unforced
from quire.engines.remote.connection import RemoteConnection, shared_fields
from quire.engines.remote.reading import (
    check_index,
    checked_shape,
    completion_logprobs,
    completions_sent,
    finish_reason,
    ids,
    prompt_logprobs,
    repeated,
    unfinished,
    usage_of,
)
from quire.engines.seam import EngineInfo, RequestIds, TokenEngine
from quire.errors import GenerationError, MediaError
from quire.outputs import Delta, FinishReason, TokenLogprob
from quire.prompt import Prompt
from quire.response_format import Constraint
from quire.sampling import SamplingParams, structured_outputs
from quire.weights.folder import read_json

PATH = "/v1/completions"


class RemoteTokenEngine(TokenEngine):
    """Sends token ids to servers. Conversations are rendered in this process."""

    def __init__(
        self, connection: RemoteConnection, folder: Path, model_args: ModelArguments
    ) -> None:
        self._connection = connection
        self._ids = RequestIds()
        self.info = EngineInfo(
            "RemoteEngine",
            _context_length(folder, model_args, connection.model.context_length),
            # With vLLM that is the affair of the backend with which a server was started.
            composes_grammars=connection.model.is_quire,
            loop_bound=True,
            is_remote=True,
        )

    async def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see TokenEngine."""
        with self._ids.claim(params.request_id):
            body = completion_body(prompt, params, self._connection.model.name_for(params.adapter))
            reader = CompletionsReader(prompt, params)
            deltas = self._connection.answer(PATH, body, reader, params)
            async with aclosing(deltas):
                async for delta in deltas:
                    yield delta

    async def health(self) -> None:
        """Raise EngineDeadError if no server is healthy, EngineClosedError after `close`."""
        await self._connection.health()

    async def close(self) -> None:
        """Close all connections, which ends the requests in flight."""
        await self._connection.close()


def _context_length(folder: Path, model_args: ModelArguments, served: int | None) -> int:
    """The context length in tokens: the servers' own, or `vllm_maxlen` if the user set it lower.

    Where the servers do not say, it is `vllm_maxlen`, cut to the model's own limit.
    """
    configured = model_args.explicit().get("vllm_maxlen")
    if served is not None:
        return min(served, configured or served)
    positions = read_json(folder, "config.json").get("max_position_embeddings")
    longest = positions if isinstance(positions, int) and positions > 0 else model_args.vllm_maxlen
    return min(model_args.vllm_maxlen, longest)


def completion_body(prompt: Prompt, params: SamplingParams, model: str) -> dict[str, Any]:
    """The request's body: every field of `params` is in it.

    Raises:
        SamplingError: vLLM does not take a value.
        MediaError: the prompt holds media.
    """
    if prompt.media:
        raise MediaError("The remote engine takes text alone: no images, videos or audios.")
    body = shared_fields(params)
    body |= {"model": model, "prompt": list(prompt.token_ids), "add_special_tokens": False}
    if params.logprobs is not None:
        body["logprobs"] = params.logprobs
    if params.response_format is not None:
        constraint = params.response_format
        if constraint.kind == "answer":
            constraint = Constraint("grammar", unforced(grammar_text(constraint)))
        body["structured_outputs"] = structured_outputs(constraint)
    return body


class CompletionsReader:
    """Reads the deltas of one request's completions from the completions API's answer.

    The last delta of each completion is held back until the usage has come, at the stream's end.
    """

    def __init__(self, prompt: Prompt, params: SamplingParams) -> None:
        self._prompt = prompt
        self._params = params
        self._expected = completions_sent(params)
        self._copies = params.n // self._expected
        self._counts = [0] * self._expected
        self._last: dict[int, Delta] = {}
        self._usage: Any = None

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Read one event of a stream, or a whole answer; see ResponseReader."""
        deltas: list[Delta] = []
        with checked_shape():
            self._usage = event.get("usage") or self._usage
            for choice in event["choices"]:
                delta = self._delta(choice)
                if delta.finish_reason is not None:
                    self._last[delta.index] = delta
                elif delta.text or delta.token_ids:
                    deltas += repeated(delta, self._copies)
        return deltas

    def flush(self) -> list[Delta]:
        """The last delta of each completion; see ResponseReader."""
        if len(self._last) < self._expected:
            raise unfinished(len(self._last), self._expected)
        deltas: list[Delta] = []
        for index, delta in sorted(self._last.items()):
            usage = usage_of(len(self._prompt), self._counts[index], self._usage)
            deltas += repeated(replace(delta, usage=usage), self._copies)
        return deltas

    def _delta(self, choice: Mapping[str, Any]) -> Delta:
        index = check_index(choice["index"], self._expected)
        if index in self._last:
            raise ValueError("a choice after its finish_reason")
        text, token_ids = str(choice.get("text") or ""), ids(choice.get("token_ids"))
        if choice.get("token_ids") is None and text:
            raise GenerationError(
                "The server gives no token ids (return_token_ids): it is too old, or no server of "
                "vLLM or quire. Use remote_api: chat."
            )
        self._counts[index] += len(token_ids)
        reason = finish_reason(choice.get("finish_reason"))
        return Delta(
            index,
            text,
            token_ids,
            self._logprobs(choice.get("logprobs"), token_ids),
            reason,
            self._stop_reason(reason, choice.get("stop_reason"), token_ids),
            prompt_logprobs=self._prompt_logprobs(index, choice.get("prompt_logprobs")),
        )

    def _logprobs(self, value: Any, token_ids: tuple[int, ...]) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        if top is None or not token_ids:
            return None
        return completion_logprobs(value, token_ids, top)

    def _prompt_logprobs(self, index: int, value: Any) -> tuple[TokenLogprob | None, ...] | None:
        top = self._params.prompt_logprobs
        if top is None or index:
            return None
        return prompt_logprobs(value, self._prompt.token_ids, top)

    def _stop_reason(
        self, reason: FinishReason | None, reported: str | int | None, token_ids: tuple[int, ...]
    ) -> str | int | None:
        """The stop string, the id of the stop token, or None where EOS ended the completion.

        quire sends EOS among the stop tokens, so the server reports it as one; and it reports nothing
        for a stop token that is its own EOS. Both are corrected, to match other engines.
        """
        if reason != "stop" or isinstance(reported, str) or not token_ids:
            return reported
        last = token_ids[-1]
        if last in self._params.stop_token_ids:
            return last
        return None if last in self._params.eos_token_ids else reported
