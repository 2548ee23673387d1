"""Perplexity: how likely the model finds each token of a text, by the engine's own scores of prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing

from quire.chat import ChatModel
from quire.errors import ConfigError, GenerationError, UnsupportedOptionError
from quire.prompt import Prompt
from quire.sampling import SamplingParams

WINDOW = 512
"""Tokens that are computed as one prompt at most; each window begins anew."""
_AT_ONCE = 8


def run_quality(model: ChatModel, text: str) -> list[float]:
    """The log-probability (natural) of every token of `text` but the first of each window.

    The text goes in bare, without a template.

    Raises:
        ConfigError: the text is too short.
        UnsupportedOptionError: the engine has no tokenizer here, or scores no prompts.
    """
    tokenizer = getattr(model.engine, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedOptionError(
            "--quality needs the model's tokenizer: give model_name_or_path as its folder."
        )
    windows = cut(tokenizer.encode_literal(text), min(WINDOW, model.engine.context_length - 1))
    if not windows:
        raise ConfigError("The text to measure the quality on has fewer than two tokens.")
    return asyncio.run(_score_all(model, windows))


def cut(ids: Sequence[int], size: int) -> list[tuple[int, ...]]:
    """Windows of `size` tokens in order; a last one of a single token says nothing and is dropped."""
    windows = [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [window for window in windows if len(window) > 1]


async def _score_all(model: ChatModel, windows: Sequence[tuple[int, ...]]) -> list[float]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def score(window: tuple[int, ...]) -> list[float]:
        async with slots:
            return await _score(model, window)

    return [value for found in await asyncio.gather(*map(score, windows)) for value in found]


async def _score(model: ChatModel, window: tuple[int, ...]) -> list[float]:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, streamed=False)
    stream = model.acomplete(Prompt(window), params)
    async with aclosing(stream):
        async for delta in stream:
            if delta.finish_reason == "error":
                raise GenerationError(delta.error or "The engine failed while it scored the text.")
            if delta.prompt_logprobs is not None:
                return [entry.logprob for entry in delta.prompt_logprobs if entry is not None]
    raise UnsupportedOptionError(
        "This engine gives no log-probabilities of a prompt: no --quality."
    )
