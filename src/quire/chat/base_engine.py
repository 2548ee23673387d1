"""BaseEngine: the one seam. Chat is written here once, over each engine's `generate`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.adapters.folder import Adapter
from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.completion import CompletionCollector, CompletionReader
from quire.chat.in_time import in_time
from quire.chat.media_prompts import NO_MEDIA, CallMedia, MediaPrompts
from quire.chat.reply import ReasoningSplitter, ReplyReader
from quire.chat.response import ChatDelta, Response
from quire.chat.tokenizer_loading import load_tokenizer
from quire.errors import GenerationError, MediaError, UnsupportedOptionError
from quire.media.placement import all_media
from quire.media.values import Medium
from quire.messages import Conversation, Message, read_conversation
from quire.model_folder import eos_token_ids, read_json
from quire.outputs import Delta, Embedding
from quire.prompt import Prompt
from quire.response_format import read_response_format
from quire.sampling import SAMPLING_OPTIONS, SamplingParams, check_option_names, resolve
from quire.template.registry import get_template
from quire.template.template import Template
from quire.tokenizer import Tokenizer

Messages = Sequence[Mapping[str, Any] | Message]
Tools = str | Sequence[Mapping[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Request:
    """A request made ready for an engine, and what is needed to read its answer."""

    prompt: Prompt
    params: SamplingParams
    adapter: str | None = None
    request_id: str | None = None
    hidden: frozenset[str] = frozenset()
    """Texts of special tokens which the engine shows and the reader hides."""
    starts_in_thought: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    """Those that were offered; an answer is searched for calls only where there are some."""


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """Bytes that an engine in this process took for the model's weights and for its KV cache."""

    weights: int
    kv_cache: int


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine does at this moment, and what it counted since it was made."""

    running: int
    """Completions that are computed."""
    waiting: int
    """Completions that wait in the engine."""
    kv_cache_usage: float | None = None
    """Part of the KV cache in use, 0 to 1."""
    prefix_queries: int = 0
    """Tokens of prompts that were looked up in the prefix cache."""
    prefix_hits: int = 0
    """Of these, those that were found."""
    preemptions: int = 0
    drafted: int = 0
    accepted: int = 0


class BaseEngine(ABC):
    """An engine with a model loaded.

    A subclass sets the attributes below and implements `generate`, `health` and `close`.
    """

    name: str
    model_args: ModelArguments
    data_args: DataArguments
    finetuning_args: FinetuningArguments
    generating_args: GeneratingArguments
    tokenizer: Tokenizer
    template: Template
    generation_config: Mapping[str, Any]
    context_length: int
    eos_token_ids: tuple[int, ...]
    can_generate: bool = True
    loop_bound: bool = False
    """True where `generate` must always be called from one and the same event loop."""
    elsewhere: bool = False
    """True where the engine runs on servers of its own: looking at it asks them."""

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        self.model_args, self.data_args = model_args, data_args
        self.finetuning_args, self.generating_args = finetuning_args, generating_args
        self.media_prompts = MediaPrompts(model_args, data_args)  # text alone

    def read_folder(self, folder: Path) -> None:
        """Take from a model's folder what prompts are made with: all but the weights.

        Raises:
            ConfigError: no template of the name that the arguments give.
            ModelError: a file of the folder is missing or cannot be read.
        """
        self.tokenizer = load_tokenizer(folder, self.model_args)
        self.template = get_template(
            self.data_args.template,
            self.tokenizer,
            tool_format=self.data_args.tool_format,
            default_system=self.data_args.default_system,
        )
        self.generation_config = read_json(folder, "generation_config.json")
        self.eos_token_ids = eos_token_ids(folder, self.tokenizer.eos_token_id)

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
            pooling: of the hidden states after the last norm, "last" (the default) or "mean".
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
            f"{self.name} makes no embeddings; the native engine does (infer_backend: native)."
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
                if delta.finish_reason == "error":
                    raise GenerationError(
                        delta.error or "The engine failed in a step of this request."
                    )
                reader = readers.get(delta.index)
                if reader is None:
                    reader = readers[delta.index] = CompletionReader(self._reply_reader(request))
                yield reader.read(delta)

    async def prepared(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
        media: CallMedia = NO_MEDIA,
    ) -> Request:
        """`prepare` for an event loop, and for media, which are fetched and decoded.

        A long conversation takes milliseconds, and goes to a thread; a short one takes less than the
        way there and back.
        """
        if not media and tools is None and _is_short(messages):
            return self.prepare(messages, system, tools, options)
        begun = await asyncio.to_thread(self._begin, messages, system, tools, options, media)
        if isinstance(begun, Request):
            return begun
        decoded = await self.media_prompts.load(begun)
        return await asyncio.to_thread(self._prepare, begun, decoded, options)

    def prepare(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
    ) -> Request:
        """Check and render one request of text. Pure and thread-safe; takes no engine resources.

        Raises:
            MediaError: it holds media, which `prepared` takes.
        """
        begun = self._begin(messages, system, tools, options, NO_MEDIA)
        if not isinstance(begun, Request):
            raise MediaError("Media are fetched and decoded: this request needs `prepared`.")
        return begun

    def _begin(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
        media: CallMedia,
    ) -> Request | Conversation:
        """The request, if it is of text alone; else the conversation whose media are to be loaded."""
        check_option_names(options)
        conversation = self.media_prompts.place(read_conversation(messages, system, tools), media)
        if all_media(conversation):
            return conversation
        return self._prepare(conversation, (), options)

    def _prepare(
        self, conversation: Conversation, media: Sequence[Medium], options: Mapping[str, Any]
    ) -> Request:
        preserve = options.get("preserve_thinking")
        constrained = read_response_format(options.get("response_format")) is not None
        elements = self.media_prompts.render(
            self.template,
            conversation,
            media,
            enable_thinking=self._thinking(options.get("enable_thinking"), constrained),
            preserve_thinking=self.data_args.preserve_thinking if preserve is None else preserve,
        )
        if constrained and self.template.starts_in_thought(elements):
            raise UnsupportedOptionError(
                "This model always begins with a thought, and response_format constrains an answer "
                "from its first token: the two do not go together."
            )
        prompt = self.media_prompts.encode(self.template, elements, media, self.tokenizer)
        params = self._params(options, len(prompt))
        hidden = self._hidden(params)
        return Request(
            prompt=prompt,
            params=replace(params, skip_special_tokens=False) if hidden else params,
            adapter=options.get("adapter"),
            request_id=options.get("request_id"),
            hidden=hidden,
            starts_in_thought=self.template.starts_in_thought(elements),
            tools=conversation.tools,
        )

    def _thinking(self, wanted: bool | None, constrained: bool) -> bool | None:
        """A constraint holds from the first token on, so that there is no room for a thought."""
        if not constrained:
            return self.data_args.enable_thinking if wanted is None else wanted
        if wanted:
            raise UnsupportedOptionError(
                "response_format constrains an answer from its first token, which leaves no room for "
                "a thought: leave enable_thinking out, or set it to false."
            )
        return False

    def _params(self, options: Mapping[str, Any], prompt_length: int) -> SamplingParams:
        sampling = {name: value for name, value in options.items() if name in SAMPLING_OPTIONS}
        return resolve(
            sampling,
            self.generating_args.explicit(),
            self.generation_config,
            prompt_length=prompt_length,
            context_length=self.context_length,
            eos_token_ids=self.eos_token_ids,
            stop_token_ids=self.template.stop_token_ids(self.tokenizer),
            stop_strings=self.template.stop_strings(self.tokenizer),
        )

    def _hidden(self, params: SamplingParams) -> frozenset[str]:
        """Special tokens' texts that the reader must hide, since it needs markers among them.

        Empty where no marker of thoughts or calls is a special token: the engine hides them then.
        """
        if not params.skip_special_tokens:
            return frozenset()
        special = self.tokenizer.special_texts
        tool_format = self.template.tool_format
        markers = {word.strip() for word in self.template.thought_words}
        markers.update(tool_format.markers if tool_format else ())
        return special if markers & special else frozenset()

    def _reply_reader(self, request: Request) -> ReplyReader:
        tool_format = self.template.tool_format
        return ReplyReader(
            special=request.hidden,
            reasoning=ReasoningSplitter(
                self.template.thought_words, inside=request.starts_in_thought
            ),
            tools=tool_format.parser(request.tools) if tool_format and request.tools else None,
        )


_SHORT = 4000
"""Characters of a conversation that are rendered and tokenised within about half a millisecond."""


def _is_short(messages: Messages) -> bool:
    """Whether all of it is plain text, and little. What is no conversation is not short."""
    if not isinstance(messages, (list, tuple)) or len(messages) > _SHORT // 100:
        return False
    length = 0
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, str):
            return False
        length += len(content) + 100  # a turn of its own
        if length > _SHORT:
            return False
    return True
