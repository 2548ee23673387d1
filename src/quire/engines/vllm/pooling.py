"""Texts to vectors through vLLM's pooling: the scores of reward models, and embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from quire.engines.vllm.failures import our_errors
from quire.engines.vllm.launch import Started
from quire.engines.vllm.media import salted
from quire.engines.vllm.plan import Purpose
from quire.errors import UnsupportedOptionError

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_numbers = itertools.count()


async def pool(
    started: Started,
    token_ids: Sequence[int],
    purpose: Purpose,
    *,
    normalize: bool = False,
    adapter: LoRARequest | None = None,
    priority: int = 0,
    cache_salt: str | None = None,
) -> tuple[float, ...]:
    """One prompt's vector: its scores as the head gives them, or its embedding.

    Cancelling the call aborts the request in vLLM.
    """
    from vllm import PoolingParams
    from vllm.inputs import tokens_input

    task = "classify" if purpose == "score" else "embed"
    params = PoolingParams(task=task, use_activation=normalize)
    with our_errors():
        stream = started.engine.encode(
            salted(tokens_input(list(token_ids)), cache_salt),
            params,
            f"text-{next(_numbers)}",
            lora_request=adapter,
            priority=priority,
        )
        async with aclosing(stream):
            async for output in stream:
                return tuple(output.outputs.data.flatten().tolist())
    raise AssertionError("vLLM ended a text without an output")


def check_pooling(started: Started, kind: str) -> None:
    """Check that this engine pools hidden states as a call wants it ("last", "mean").

    Raises:
        UnsupportedOptionError: it does not; vLLM pools in one way, chosen when it starts.
    """
    pooler = started.engine.model_config.pooler_config
    own = str(pooler.seq_pooling_type if pooler is not None else "LAST").lower()
    if kind != own:
        raise UnsupportedOptionError(
            f"pooling: this engine was started with {own}, not {kind}; that is chosen by "
            f'vllm_config {{"runner": "pooling", "pooler_config": {{"pooling_type": "{kind.upper()}"}}}}.'
        )
