"""Texts that are scored or embedded: their options, their tokens, and many prompts in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from quire.chat.token_chat import TokenChat
from quire.engines.seam import PoolingParams, time_limit
from quire.errors import (
    PromptTooLongError,
    RequestError,
    SamplingError,
    UnsupportedOptionError,
    nearest,
    sentence,
)
from quire.options import Flag, Integer, read_option
from quire.outputs import Embedding
from quire.prompt import POOLING_KINDS, Prompt
from quire.tokenizer import Tokenizer

T = TypeVar("T")

_SCORE_OPTIONS = ("max_length", "priority", "timeout", "cache_salt")
_EMBEDDING_OPTIONS = (*_SCORE_OPTIONS, "pooling", "normalize", "add_special_tokens", "adapter")
_LENGTH = Integer(1, 2**31 - 1)


@dataclass(frozen=True, slots=True)
class TextOptions:
    """The options of a call of `get_scores` or `embed`."""

    pooling: PoolingParams
    max_length: int | None = None
    """Tokens to which texts are truncated, at their end; None refuses those that are too long."""
    timeout: float | None = None
    """Seconds for the whole call."""
    add_special_tokens: bool = False
    """Whether texts get the tokens that the tokenizer puts around one."""


def score_options(options: Mapping[str, Any]) -> TextOptions:
    """Read the options of `get_scores`.

    Raises:
        UnsupportedOptionError: an option is unknown.
        SamplingError: an option is of a wrong type or out of its range.
    """
    _check_names("get_scores", options, _SCORE_OPTIONS)
    return _text_options(options, PoolingParams(score=True, **_shared(options)))


def embedding_options(options: Mapping[str, Any]) -> TextOptions:
    """Read the options of `embed`.

    Raises:
        UnsupportedOptionError: an option is unknown.
        SamplingError: an option is of a wrong type or out of its range.
    """
    _check_names("get_embeddings", options, _EMBEDDING_OPTIONS)
    kind = options.get("pooling")
    if kind is not None and kind not in POOLING_KINDS:
        raise SamplingError(f"pooling must be one of {', '.join(POOLING_KINDS)}, not {kind!r}.")
    pooling = PoolingParams(
        kind=kind,
        normalize=_flag(options, "normalize"),
        adapter=read_option(options, "adapter"),
        **_shared(options),
    )
    return _text_options(options, pooling, special=_flag(options, "add_special_tokens"))


def _check_names(method: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for name in options:
        if name not in known:
            raise UnsupportedOptionError(
                sentence(f"{method} takes no option {name!r}{nearest(name, known)}")
            )


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: read_option(options, name) for name in ("priority", "cache_salt")}


def _flag(options: Mapping[str, Any], name: str) -> bool:
    return Flag().read(name, options.get(name, True))


def _text_options(
    options: Mapping[str, Any], pooling: PoolingParams, *, special: bool = False
) -> TextOptions:
    length = options.get("max_length")
    return TextOptions(
        pooling,
        None if length is None else _LENGTH.read("max_length", length),
        read_option(options, "timeout"),
        special,
    )


async def pool_texts(chat: TokenChat, texts: object, options: TextOptions) -> list[Embedding]:
    """Pool all texts into vectors at the same time. An error, or cancelling the call, cancels all.

    Raises:
        RequestError: a text cannot be read, or the engine refuses one.
        RequestTimeoutError: `options.timeout` has passed.
        EngineError: the engine failed at a text, or cannot serve any.
    """
    context = chat.info.context_length
    async with time_limit(options.timeout):
        await chat.health()
        tokenizer = chat.preparation.tokenizer
        prompts = await asyncio.to_thread(read_texts, texts, tokenizer, options, context)
        return await _all_of(chat.engine.pool(prompt, options.pooling) for prompt in prompts)


async def _all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order. When this raises, all calls have ended.

    `gather` alone leaves the others running after an error, so they are cancelled and awaited.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def read_texts(
    texts: object, tokenizer: Tokenizer, options: TextOptions, context: int
) -> list[Prompt]:
    """Tokenise texts into prompts; token ids are checked. Long texts take milliseconds.

    Raises:
        RequestError: this is no list of texts, or one of them is empty.
        PromptTooLongError: a text is longer than the context, and no `max_length` truncates it.
    """
    if not isinstance(texts, (list, tuple)):
        raise RequestError(f"Give the texts as a list, not as {type(texts).__name__}.")
    length = None if options.max_length is None else min(options.max_length, context)
    prompts: list[Prompt] = []
    for index, text in enumerate(cast("Sequence[object]", texts)):
        if length is None and isinstance(text, str) and tokenizer.exceeds([text], context):
            raise PromptTooLongError(
                f"Text {index} has far more tokens than the context holds ({context:,}); give "
                "max_length to cut it."
            )
        ids = _read(index, text, tokenizer, options.add_special_tokens, length)
        if not ids:
            raise RequestError(f"Text {index} is empty: it has no token.")
        if len(ids) > context:
            raise PromptTooLongError(
                f"Text {index} has {len(ids):,} tokens and the context holds {context:,}: shorten "
                "it, or have it cut by max_length (truncate_prompt_tokens on /v1/embeddings and "
                "/v1/score)."
            )
        prompts.append(Prompt(tuple(ids)))
    return prompts


def _read(
    index: int, text: object, tokenizer: Tokenizer, special: bool, length: int | None
) -> list[int]:
    """The token ids of one text, truncated to `length` tokens."""
    if isinstance(text, str):
        try:
            return (
                tokenizer.encode_whole(text, length) if special else tokenizer.encode(text, length)
            )
        except RequestError as error:
            raise RequestError(f"Text {index}: {error}") from error
    ids: list[Any] = (
        list(cast("Iterable[Any]", text)) if isinstance(text, (list, tuple)) else [None]
    )
    if not all(type(number) is int and 0 <= number < 2**31 for number in ids):
        raise RequestError(f"Text {index} is neither a text nor a list of token ids.")
    return ids[:length]
