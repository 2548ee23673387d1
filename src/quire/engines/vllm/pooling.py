"""Texts to vectors through vLLM's pooling: the scores of reward models, and embeddings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from quire.engines.seam import PoolingParams
from quire.engines.vllm.failures import our_errors
from quire.engines.vllm.launch import Started
from quire.engines.vllm.media import salted
from quire.errors import UnsupportedOptionError
from quire.prompt import PoolingKind

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

_numbers = itertools.count()


async def pool(
    started: Started,
    token_ids: Sequence[int],
    params: PoolingParams,
    adapter: LoRARequest | None,
) -> tuple[float, ...]:
    """One prompt's vector: its scores as the head gives them, or its embedding.

    Cancelling the call aborts the request in vLLM.

    Raises:
        UnsupportedOptionError: the engine was started with another way of pooling.
    """
    import vllm
    from vllm.inputs import tokens_input

    if params.kind is not None:
        _check_kind(started, params.kind)
    settings = vllm.PoolingParams(
        task="classify" if params.score else "embed", use_activation=params.normalize
    )
    with our_errors():
        stream = started.engine.encode(
            salted(tokens_input(list(token_ids)), params.cache_salt),
            settings,
            f"text-{next(_numbers)}",
            lora_request=adapter,
            priority=params.priority,
        )
        async with aclosing(stream):
            async for output in stream:
                return tuple(output.outputs.data.flatten().tolist())
    raise AssertionError("vLLM ended a text without an output")


def _check_kind(started: Started, kind: PoolingKind) -> None:
    pooler = started.engine.model_config.pooler_config
    own = str(pooler.seq_pooling_type if pooler is not None else "LAST").lower()
    if kind != own:
        raise UnsupportedOptionError(
            f"pooling: this engine was started with {own}, not {kind}; that is chosen by "
            f'vllm_config {{"runner": "pooling", "pooler_config": {{"pooling_type": "{kind.upper()}"}}}}.'
        )
