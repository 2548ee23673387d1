"""Texts to scores and vectors on an engine of vLLM that was started for one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.chat.text_options import TextOptions, embedding_options, score_options
from quire.chat.texts import each_text, read_texts
from quire.engines.vllm.adapters import ServedAdapters
from quire.engines.vllm.launch import Started
from quire.engines.vllm.plan import Purpose
from quire.engines.vllm.pooling import check_pooling, pool
from quire.errors import UnsupportedOptionError
from quire.outputs import Embedding, Usage
from quire.prompt import Prompt
from quire.tokenizer import Tokenizer

_ENGINE_OF_ITS_OWN = (
    'vLLM makes embeddings in an engine of their own: give vllm_config {"runner": "pooling"}; the '
    "native engine (infer_backend: native) makes them beside text."
)


class VllmTexts:
    """What `get_scores` and `embed` of a VllmEngine do; `context` is in tokens."""

    def __init__(
        self, tokenizer: Tokenizer, adapters: ServedAdapters, purpose: Purpose, context: int
    ) -> None:
        self._tokenizer = tokenizer
        self._adapters = adapters
        self._purpose: Purpose = purpose
        self._context = context

    async def scores(
        self, started: Started, texts: Sequence[str], options: Mapping[str, Any]
    ) -> list[float]:
        """The raw number of the model's head for each text; see `VllmEngine.get_scores`."""
        if self._purpose != "score":
            raise NotImplementedError("Scores need a reward model: load it with stage: rm.")
        found = await self._pooled(started, texts, score_options(options))
        return [vector[0] for vector, _ in found]

    async def embed(
        self, started: Started, texts: Sequence[str | Sequence[int]], options: Mapping[str, Any]
    ) -> list[Embedding]:
        """The vector of each text; see `VllmEngine.embed`."""
        if self._purpose != "embed":
            raise UnsupportedOptionError(_ENGINE_OF_ITS_OWN)
        read = embedding_options(options)
        if read.pooling is not None:
            check_pooling(started, read.pooling)
        return [
            Embedding(vector, Usage(prompt_tokens=len(prompt), completion_tokens=0))
            for vector, prompt in await self._pooled(started, texts, read)
        ]

    async def _pooled(
        self, started: Started, texts: object, options: TextOptions
    ) -> list[tuple[tuple[float, ...], Prompt]]:
        """The vector of each text, and the prompt that it became."""
        adapter = await self._adapters.request(started, options.adapter)

        def read() -> list[Prompt]:
            return read_texts(texts, self._tokenizer, options, self._context)

        async def compute(prompt: Prompt) -> tuple[tuple[float, ...], Prompt]:
            vector = await pool(
                started,
                prompt.token_ids,
                self._purpose,
                normalize=options.normalize,
                adapter=adapter,
                priority=options.priority,
                cache_salt=options.cache_salt,
            )
            return vector, prompt

        return await each_text(read, compute, options.timeout)
