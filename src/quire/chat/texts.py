"""Texts to be scored or embedded: their reading, and many requests as one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar, cast

from quire.chat.text_options import TextOptions
from quire.errors import PromptTooLongError, RequestError, RequestTimeoutError
from quire.prompt import Prompt
from quire.tokenizer import Tokenizer

T = TypeVar("T")


async def each_text(
    read: Callable[[], list[Prompt]],
    compute: Callable[[Prompt], Coroutine[Any, Any, T]],
    timeout: float | None,
) -> list[T]:
    """Compute each prompt that `read` returns, all at once. What ends the call early cancels them.

    `read` runs off the event loop: it tokenises.

    Raises:
        RequestError: `read` or the engine refuses one of them.
        RequestTimeoutError: `timeout` seconds have passed.
        EngineError: the engine could not do it.
    """
    try:
        async with asyncio.timeout(timeout):
            prompts = await asyncio.to_thread(read)
            return await _all_of(map(compute, prompts))
    except TimeoutError:
        raise RequestTimeoutError(f"The request's timeout of {timeout:g} s passed.") from None


async def _all_of(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; after an error the others are cancelled, and have ended."""
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
    """The prompts of texts, or of token ids; takes milliseconds for long ones.

    Raises:
        RequestError: this is no list of texts, or one of them is empty.
        PromptTooLongError: a text does not fit the context, and no max_length cuts it.
    """
    if not isinstance(texts, (list, tuple)):
        raise RequestError(f"Give the texts as a list, not as {type(texts).__name__}.")
    length = None if options.max_length is None else min(options.max_length, context)
    prompts: list[Prompt] = []
    for place, text in enumerate(cast("Sequence[object]", texts)):
        ids = _read(place, text, tokenizer, options.add_special_tokens, length)
        if not ids:
            raise RequestError(f"Text {place} is empty: it has no token.")
        if len(ids) > context:
            raise PromptTooLongError(
                f"Text {place} has {len(ids):,} tokens and the context holds {context:,}; give "
                "max_length to cut it."
            )
        prompts.append(Prompt(tuple(ids)))
    return prompts


def _read(
    place: int, text: object, tokenizer: Tokenizer, special: bool, length: int | None
) -> list[int]:
    """The ids of one text, cut to `length` tokens at its end."""
    if isinstance(text, str):
        try:
            return (
                tokenizer.encode_whole(text, length) if special else tokenizer.encode(text)[:length]
            )
        except Exception as error:  # half a surrogate pair
            raise RequestError(f"Text {place} cannot be tokenised: {error!r}.") from error
    ids: list[Any] = (
        list(cast("Iterable[Any]", text)) if isinstance(text, (list, tuple)) else [None]
    )
    if not all(type(number) is int and 0 <= number < 2**31 for number in ids):
        raise RequestError(f"Text {place} is neither a text nor a list of token ids.")
    return ids[:length]
