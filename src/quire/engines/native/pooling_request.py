"""The edge of the engine for prompts that become a vector: `admission` for pooling."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import replace

import numpy as np

from quire.engines.native.admission import Limits, check_request, root_of
from quire.engines.native.batch import LoadedAdapter
from quire.engines.native.completion_text import CompletionText
from quire.engines.native.pooling import Pool, PoolingParams
from quire.engines.native.sequence import Request, Sequence
from quire.errors import MediaError, PromptTooLongError
from quire.prompt import Prompt
from quire.sampling import SamplingParams


def check_pooling(prompt: Prompt, limits: Limits) -> None:
    """Refuse what could never run; raises as `check_request` does.

    Nothing is generated, so that a prompt may fill the whole context.
    """
    if prompt.media:
        raise MediaError("Scores and embeddings are of text alone: no images, videos or audios.")
    if len(prompt) > limits.max_model_len:
        raise PromptTooLongError(
            f"The text has {len(prompt):,} tokens and the context holds {limits.max_model_len:,}: "
            "shorten it, or have it cut by max_length."
        )
    params = SamplingParams(max_tokens=1)  # the last token of a completion is never computed
    check_request(prompt, params, replace(limits, max_model_len=len(prompt) + 1))


def make_pooling_request(
    request_id: str,
    number: int,
    prompt: Prompt,
    pooling: PoolingParams,
    arrival: float,
    adapter: LoadedAdapter | None = None,
) -> Request:
    """Build a pooling request that has been checked, and its one sequence, which gets no token."""
    request = Request(
        request_id=request_id,
        prompt_ids=np.array(prompt.token_ids, dtype=np.int32),
        params=SamplingParams(max_tokens=0, temperature=0.0, priority=pooling.priority),
        priority=pooling.priority,
        arrival=arrival,
        number=number,
        root=root_of(adapter, pooling.cache_salt),
        rules=None,
        prompt_logprobs=None,
        pool=Pool(pooling, len(prompt)),
        adapter=adapter,
    )
    text = CompletionText(_NoText(), request.params)
    request.sequences.append(Sequence(request, 0, text, None, None))
    return request


class _NoText:
    """The detokenizer of what generates nothing."""

    def add(self, token: int) -> str:
        return ""

    def flush(self) -> str:
        return ""

    def read(self, tokens: Many[int]) -> str:
        return ""
