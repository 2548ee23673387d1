"""Prompts as vLLM takes them: token ids, and decoded media in the forms of the model's family."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from quire.engines.vllm.failures import translate
from quire.errors import EngineDeadError, MediaError, PromptTooLongError, QuireError
from quire.media.placement import KINDS, Kind

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

VllmInput: TypeAlias = Any
"""A prompt as vLLM's renderer leaves it: a dictionary with `prompt_token_ids`."""


def media_kinds(engine: AsyncLLM) -> frozenset[Kind]:
    """The kinds of media that the running model takes."""
    if not engine.model_config.is_multimodal_model:
        return frozenset()
    limits = engine.renderer.get_mm_processor().info.supported_mm_limits
    return frozenset(kind for kind in KINDS if kind in limits)


async def media_input(
    engine: AsyncLLM, token_ids: list[int], media: Mapping[str, Any]
) -> VllmInput:
    """A prompt with its media processed, off the event loop, ready for `AsyncLLM.generate`.

    Args:
        token_ids: with one placeholder a medium, which vLLM expands.
        media: `multi_modal_data`, `multi_modal_uuids` and `mm_processor_kwargs`.

    Raises:
        MediaError: the model's processor does not take them.
        PromptTooLongError: with all placeholders expanded, the prompt fills the context.
    """
    renderer: Any = engine.renderer  # its types do not know a prompt's optional keys
    try:
        (found,) = await renderer.render_cmpl_async([{"prompt_token_ids": token_ids, **media}])
    except asyncio.CancelledError:
        raise
    except Exception as error:  # a processor's errors are of any kind
        raise _media_error(error) from error
    length = len(found["prompt_token_ids"])
    if length >= engine.model_config.max_model_len:
        raise PromptTooLongError(
            f"The prompt has {length:,} tokens with its media and the context holds "
            f"{engine.model_config.max_model_len:,}: give fewer or smaller media, or less text."
        )
    return found


def _media_error(error: Exception) -> QuireError:
    found = translate(error)
    if isinstance(found, (PromptTooLongError, EngineDeadError)):
        return found
    # What a processor says is of no use to whoever sent the media.
    return MediaError("The model's processor does not take these images, videos or audios.")


def salted(inputs: VllmInput, salt: str | None) -> VllmInput:
    """A prompt whose prefix only prompts of the same salt share."""
    return inputs if salt is None else {**inputs, "cache_salt": salt}
