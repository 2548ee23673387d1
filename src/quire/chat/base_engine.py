"""BaseEngine: the one seam. Chat is written here once, over each engine's `generate`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

from quire.adapters.folder import Adapter
from quire.chat.completion import CompletionCollector, CompletionReader
from quire.chat.in_time import in_time
from quire.chat.media_prompts import CallMedia
from quire.chat.preparation import Messages, RequestPreparation, Tools
from quire.chat.response import ChatDelta, Response
from quire.errors import GenerationError, UnsupportedOptionError
from quire.outputs import Delta, Embedding, EngineLoad, EngineMemory
from quire.prompt import Prompt
from quire.sampling import SamplingParams


class BaseEngine(RequestPreparation, ABC):
    """An engine with a model loaded.

    A subclass sets the attributes here and in RequestPreparation, and implements `generate`,
    `health` and `close`.
    """

    name: str
    can_generate: bool = True
    loop_bound: bool = False
    """True where `generate` must always be called from one and the same event loop."""
    elsewhere: bool = False
    """True where the engine runs on servers of its own: looking at it asks them."""

    @abstractmethod
    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Complete one prompt. Closing the iterator, or cancelling its task, aborts the request."""

    @abstractmethod
    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""

    @abstractmethod
    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""

    @property
    def memory(self) -> EngineMemory | None:
        """What weights and KV cache take; None where the engine lives elsewhere."""
        return None

    @property
    def load(self) -> EngineLoad | None:
        """Figures of this moment; None where the engine does not tell them."""
        return None

    def prompt_tokens(self, prompt: Prompt) -> int | None:
        """How many tokens the model reads; None where that is known with the answer alone."""
        return len(prompt)

    @property
    def max_sequences(self) -> int | None:
        """How many completions run at once; None where it is not known."""
        return None

    @property
    def recovers(self) -> bool:
        """Whether it comes back by itself where `health` says that it is dead."""
        return self.elsewhere

    @property
    def restarts(self) -> int:
        """How often it was started again by itself."""
        return 0

    async def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score each text with a reward model (`stage: rm`)."""
        raise NotImplementedError(f"{self.name} does not score texts.")

    async def get_embeddings(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[list[float]]:
        """Each text (or its token ids) as a vector of the model's hidden size; see `embed`."""
        return [list(one.vector) for one in await self.embed(batch_input, **input_kwargs)]

    async def embed(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[Embedding]:
        """Embed texts, and say how many tokens each of them has.

        Args:
            pooling: of the hidden states after the last norm, "last" or "mean"; the native engine's
                own is "last".
            normalize: whether a vector gets the length 1 (the default).
            max_length: tokens to which a text is cut; without it, one that is too long is refused.
            add_special_tokens: whether a text gets those that the tokenizer puts around it (the
                default). Token ids are taken as they are.
            adapter: the LoRA adapter to compute with, as in a chat.
            timeout: seconds for all of it.
            priority: a lower number is served earlier.
            cache_salt: calls of different salts share no cached prefix.

        Raises:
            RequestError: a text or an option is wrong; no other request is harmed.
            UnsupportedOptionError: this engine makes no embeddings.
            EngineError: the engine could not do it.
        """
        raise UnsupportedOptionError(
            f"{self.name} makes no embeddings; the native engine does (infer_backend: native), and "
            'vLLM with vllm_config {"runner": "pooling"}.'
        )

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that requests may name; "base" is the model without one."""
        return ()

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Check an adapter's folder and serve it from now on, by default under the folder's name.

        Raises:
            AdapterError: it is broken, or does not fit the model.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.name} does not serve adapters.")

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more.

        Raises:
            UnknownAdapterError: there is none of this name.
            UnsupportedOptionError: this engine serves no adapters.
        """
        raise UnsupportedOptionError(f"{self.name} does not serve adapters.")

    # --- chat, over generate ---------------------------------------------------------------------

    async def chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> list[Response]:
        """Answer a conversation. Returns exactly `num_return_sequences` responses, in order.

        Raises:
            RequestError: the request is wrong.
            EngineError: the engine could not do it.
        """
        collected: dict[int, CompletionCollector] = {}
        stream = self._stream(
            messages, system, tools, images, videos, audios, input_kwargs, streamed=False
        )
        async with aclosing(stream):
            async for delta in stream:
                collected.setdefault(delta.index, CompletionCollector()).add(delta)
        return [collected[index].response(index) for index in sorted(collected)]

    async def stream_chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """Answer a conversation, text alone, as it is written."""
        count = input_kwargs.get("num_return_sequences") or input_kwargs.get("n") or 1
        if count != 1:
            raise UnsupportedOptionError(
                "stream_chat gives the text of one completion; for several use stream, whose deltas "
                "carry an index."
            )
        stream = self.stream(messages, system, tools, images, videos, audios, **input_kwargs)
        async with aclosing(stream):
            async for delta in stream:
                if delta.text:
                    yield delta.text

    def stream(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[ChatDelta, None]:
        """Answer a conversation as deltas with index, token ids, log-probabilities and usage."""
        return self._stream(
            messages, system, tools, images, videos, audios, input_kwargs, streamed=True
        )

    def deltas(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
        *,
        streamed: bool,
    ) -> AsyncGenerator[ChatDelta, None]:
        """`stream` for a caller who may want the answer whole: not `streamed`, in few deltas."""
        return self._stream(messages, system, tools, None, None, None, options, streamed=streamed)

    async def _stream(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        images: Sequence[Any] | None,
        videos: Sequence[Any] | None,
        audios: Sequence[Any] | None,
        options: Mapping[str, Any],
        *,
        streamed: bool,
    ) -> AsyncGenerator[ChatDelta, None]:
        media = CallMedia(images, videos, audios)
        request = await self.prepared(messages, system, tools, options, media)
        request = replace(request, params=replace(request.params, streamed=streamed))
        deltas = self.generate(
            request.prompt, request.params, adapter=request.adapter, request_id=request.request_id
        )
        readers: dict[int, CompletionReader] = {}
        async with aclosing(in_time(deltas, request.params.timeout)) as timed:
            async for delta in timed:
                raise_failed(delta)
                reader = readers.get(delta.index)
                if reader is None:
                    reader = readers[delta.index] = CompletionReader(self._reply_reader(request))
                    first = reader.read(delta)
                    first.prompt_tokens = self.prompt_tokens(request.prompt)
                    yield first
                else:
                    yield reader.read(delta)


def raise_failed(delta: Delta) -> None:
    """Raise GenerationError where a fault in a step ended the request."""
    if delta.finish_reason == "error":
        raise GenerationError(delta.error or "The engine failed in a step of this request.")
