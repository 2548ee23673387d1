"""Reward scores through vLLM's pooling."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from quire.errors import PromptTooLongError, UnsupportedOptionError
from quire.vllm.failures import our_errors
from quire.vllm.launch import Started

_numbers = itertools.count()


async def score(
    started: Started, prompts: Sequence[Sequence[int]], context: int, options: Mapping[str, Any]
) -> list[float]:
    """The raw score of each prompt of token ids, in order: one number of the model's head.

    Raises:
        UnsupportedOptionError: any option but `max_length`, which cuts prompts at their end.
        PromptTooLongError: a prompt that does not fit the context of `context` tokens.
    """
    for name in options:
        if name != "max_length":
            raise UnsupportedOptionError(f"get_scores takes no option {name!r}.")
    length = min(int(options.get("max_length") or context), context)
    for place, ids in enumerate(prompts):
        if "max_length" not in options and len(ids) > context:
            raise PromptTooLongError(
                f"Text {place} has {len(ids):,} tokens and the context holds {context:,}; give "
                "max_length to cut it."
            )
    return await asyncio.gather(*(_one(started, list(ids[:length])) for ids in prompts))


async def _one(started: Started, ids: list[int]) -> float:
    from vllm import PoolingParams
    from vllm.inputs import tokens_input

    params = PoolingParams(task="classify", use_activation=False)
    with our_errors():
        stream = started.engine.encode(tokens_input(ids), params, f"score-{next(_numbers)}")
        async for output in stream:
            return float(output.outputs.data.flatten()[0])
    raise AssertionError("vLLM ended a score without an output")
