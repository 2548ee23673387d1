"""Perplexity: how likely the model finds each token of a text, by the engine's own scores of prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from quire.bench.text import Passage
from quire.chat import ChatModel
from quire.errors import (
    ConfigError,
    GenerationError,
    UnsupportedOptionError,
)
from quire.prompt import Prompt
from quire.request import ChatRequest
from quire.sampling import SamplingParams

WINDOW = 512
"""Tokens of a bare text that are computed as one prompt at most; each window begins anew."""
_AT_ONCE = 8


@dataclass(frozen=True)
class Window:
    """Token ids of one prompt, of which those from `start` on are scored."""

    ids: tuple[int, ...]
    start: int


def run_quality(model: ChatModel, passages: Sequence[Passage]) -> list[float]:
    """The log-probability (natural) of every token that is scored, in order.

    Of an answer these are all its tokens, after its question in the model's own format; of bare text
    all but the first of each window.

    Raises:
        ConfigError: there is nothing to score.
        PromptTooLongError: a question alone fills the context.
        UnsupportedOptionError: the engine has no tokenizer here, or scores no prompts.
    """
    if not model.engine.has_tokens:
        raise UnsupportedOptionError(
            "--quality and --text need the model's tokenizer: give model_name_or_path as its folder."
        )
    windows = [window for passage in passages for window in windows_of(model, passage)]
    if not windows:
        raise ConfigError("The text to measure the perplexity on has fewer than two tokens.")
    return asyncio.run(_score_all(model, windows))


def windows_of(model: ChatModel, passage: Passage) -> Iterator[Window]:
    """Cut one passage into prompts that fit the context. An answer that is too long loses its end."""
    engine = model.engine
    room = engine.info.context_length - 1
    ids = engine.tokenizer.encode_literal(passage.text)
    if passage.question is None:
        size = min(WINDOW, room)
        for start in range(0, len(ids) - 1, size):
            window = tuple(ids[start : start + size])
            if len(window) > 1:
                yield Window(window, 1)
        return
    messages = [{"role": "user", "content": passage.question}]
    request = ChatRequest(messages, options={"enable_thinking": False})
    asked = engine.tokens.preparation.prepare_text(request).prompt.token_ids
    whole = (*asked, *ids)[:room]
    if len(whole) > len(asked):
        yield Window(whole, len(asked))


async def _score_all(model: ChatModel, windows: Sequence[Window]) -> list[float]:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def score(window: Window) -> list[float]:
        async with slots:
            return await _score(model, window)

    return [value for found in await asyncio.gather(*map(score, windows)) for value in found]


async def _score(model: ChatModel, window: Window) -> list[float]:
    params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, streamed=False)
    stream = model.acomplete(Prompt(window.ids), params)
    async with aclosing(stream):
        async for delta in stream:
            if delta.finish_reason == "error":
                raise GenerationError(delta.error or "The engine failed while it scored the text.")
            if delta.prompt_logprobs is not None:
                entries = delta.prompt_logprobs[window.start :]
                return [entry.logprob for entry in entries if entry is not None]
    raise UnsupportedOptionError(
        "This engine gives no log-probabilities of a prompt, which --quality and --text need."
    )
