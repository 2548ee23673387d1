"""BaseEngine: the methods that users of any engine call, thin over a `ChatEngine`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from quire.adapters.folder import Adapter
from quire.arguments import InferArgs
from quire.chat.pooling import embedding_options, pool_texts, score_options
from quire.chat.token_chat import TokenChat
from quire.engines.seam import ChatEngine, EngineInfo, EngineState
from quire.errors import UnsupportedOptionError
from quire.model_folder import local_adapter
from quire.options import ThinkingChoices
from quire.outputs import AnswerSum, Delta, Embedding, Response
from quire.prompt import Prompt
from quire.request import ChatRequest, Messages, Tools
from quire.sampling import SamplingParams
from quire.template.template import Template
from quire.tokenizer import Tokenizer


class BaseEngine:
    """An engine with a loaded model, with the methods of LLaMA-Factory's engines.

    Each public method builds one `ChatRequest`, which goes down unchanged; `stream_request` and
    `chat_request` take a request that exists already.
    """

    def __init__(self, arguments: InferArgs, chat: ChatEngine) -> None:
        """Answer through `chat`, which is closed with this engine."""
        self.model_args, self.data_args = arguments.model, arguments.data
        self.finetuning_args, self.generating_args = arguments.finetuning, arguments.generating
        self._chat = chat

    # --- properties ------------------------------------------------------------------------------

    @property
    def arguments(self) -> InferArgs:
        """The four groups of arguments that the engine was made with."""
        return InferArgs(
            self.model_args, self.data_args, self.finetuning_args, self.generating_args
        )

    @property
    def info(self) -> EngineInfo:
        """What the engine can do, and its limits."""
        return self._chat.info

    @property
    def state(self) -> EngineState:
        """The engine's current state."""
        return self._chat.state

    @property
    def name(self) -> str:
        """The engine's name, such as NativeEngine."""
        return self.info.name

    @property
    def thinking_choices(self) -> ThinkingChoices | None:
        """What a request can choose of the thought before its answer; None where that is nothing, or not known."""
        return self._chat.thinking_choices

    @property
    def can_generate(self) -> bool:
        """Whether the model generates text; a reward model scores texts instead."""
        return "generate" in self.info.purposes

    @property
    def has_tokens(self) -> bool:
        """Whether prompts are made in this process, so that `tokens` exists."""
        return isinstance(self._chat, TokenChat)

    @property
    def tokens(self) -> TokenChat:
        """The token engine with its preparation of prompts.

        Raises:
            UnsupportedOptionError: the tokenizer and the template are at the servers (`remote_api:
                chat`).
        """
        if not isinstance(self._chat, TokenChat):
            raise UnsupportedOptionError(
                "With remote_api chat the server renders and tokenises. What needs the model's "
                "tokenizer here (prompts of token ids or without a template, log-probabilities on "
                "quire's own server) needs the model's folder as model_name_or_path, and remote_api: "
                "tokens."
            )
        return self._chat

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            UnsupportedOptionError: see `tokens`.
        """
        return self.tokens.preparation.tokenizer

    @property
    def template(self) -> Template:
        """The chat template.

        Raises:
            UnsupportedOptionError: see `tokens`.
        """
        return self.tokens.preparation.template

    # --- chat ------------------------------------------------------------------------------------

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
        """Answer a conversation whole.

        Args:
            messages: in LLaMA-Factory's or OpenAI's form; see `quire.messages.read_conversation`.
            system: the system message; it replaces one at the start of `messages`.
            tools: the tools that the model may call, as a list or as JSON text of one.
            images, videos, audios: media for the placeholders in the messages.
            **input_kwargs: options of `quire.options.OPTIONS`.

        Returns:
            Exactly `num_return_sequences` responses, in the order of their indices.

        Raises:
            RequestError: the request is wrong.
            RequestTimeoutError: the request's `timeout` has passed.
            EngineError: the engine failed at the request, or cannot serve any.
        """
        return await self.chat_request(
            ChatRequest.of(
                messages, system, tools, images, videos, audios, input_kwargs, streamed=False
            )
        )

    def stream_chat(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """Answer a conversation with one completion, as a stream of its text.

        Arguments and errors are those of `chat`.

        Raises:
            UnsupportedOptionError: more than one completion is asked for.
        """
        return self.stream_text(
            ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        )

    def stream(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncGenerator[Delta, None]:
        """Answer a conversation as a stream of deltas: text, parts, token ids, logprobs, usage.

        Arguments and errors are those of `chat`.
        """
        return self.stream_request(
            ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        )

    def stream_request(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a request as a stream of deltas; see ChatEngine.stream."""
        return self._chat.stream(request)

    async def chat_request(self, request: ChatRequest) -> list[Response]:
        """Answer a request whole; see `chat`."""
        answers = AnswerSum()
        async with aclosing(self._chat.stream(request)) as deltas:
            async for delta in deltas:
                answers.add(delta)
        return answers.responses()

    async def stream_text(self, request: ChatRequest) -> AsyncGenerator[str, None]:
        """Answer a request as a stream of text; see `stream_chat`."""
        options = request.options
        if (options.get("num_return_sequences") or options.get("n") or 1) != 1:
            raise UnsupportedOptionError(
                "stream_chat gives the text of one completion; for several use stream, whose deltas "
                "carry an index."
            )
        async with aclosing(self._chat.stream(request)) as deltas:
            async for delta in deltas:
                if delta.text:
                    yield delta.text

    # --- without a template ----------------------------------------------------------------------

    def generate(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Delta, None]:
        """Complete token ids without a template; see TokenEngine.generate.

        Raises:
            UnsupportedOptionError: see `tokens`.
        """
        return self.tokens.engine.generate(prompt, params)

    async def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score texts with a reward model (`stage: rm`): the raw output of the model's head for each.

        Args:
            batch_input: the texts.
            **input_kwargs:
                max_length: tokens to which a text is truncated, at its end; without it, one that is
                too long is refused.
                timeout: seconds for all texts together.
                priority: a lower number is served earlier.
                cache_salt: calls with different salts share no cached prefix.

        Raises:
            NotImplementedError: the stage is not rm.
            RequestError: a text or an option is wrong.
            EngineError: the engine failed at a text, or cannot serve any.
        """
        return [one.vector[0] for one in await self.score(batch_input, **input_kwargs)]

    async def score(self, batch_input: Sequence[str], **input_kwargs: Any) -> list[Embedding]:
        """`get_scores` as vectors of length 1, each with its text's token count.

        Raises:
            NotImplementedError, RequestError, EngineError: see `get_scores`.
        """
        if "score" not in self.info.purposes:
            raise NotImplementedError(
                f"{self.name} scores no texts here: scores need a reward model, loaded with stage: rm."
            )
        return await pool_texts(self.tokens, batch_input, score_options(input_kwargs))

    async def get_embeddings(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[list[float]]:
        """Embed texts, or token ids, into vectors of the model's hidden size; see `embed`."""
        return [list(one.vector) for one in await self.embed(batch_input, **input_kwargs)]

    async def embed(
        self, batch_input: Sequence[str | Sequence[int]], **input_kwargs: Any
    ) -> list[Embedding]:
        """Embed texts into vectors of the model's hidden size, each with its text's token count.

        Args:
            batch_input: texts, or lists of token ids.
            **input_kwargs:
                pooling: "last" or "mean" of the hidden states after the last norm; the native
                engine's default is "last", vLLM's is chosen when it starts.
                normalize: whether vectors are scaled to length 1; true by default.
                max_length: tokens to which a text is truncated, at its end; without it, one that is
                too long is refused.
                add_special_tokens: whether a text gets the tokens that the tokenizer puts around one;
                true by default. Token ids are taken unchanged.
                adapter: the LoRA adapter to compute with, as in a chat.
                timeout: seconds for all texts together.
                priority: a lower number is served earlier.
                cache_salt: calls with different salts share no cached prefix.

        Raises:
            RequestError: a text or an option is wrong.
            UnsupportedOptionError: this engine makes no embeddings.
            EngineError: the engine failed at a text, or cannot serve any.
        """
        if "embed" not in self.info.purposes:
            raise UnsupportedOptionError(
                f"{self.name} makes no embeddings here; the native engine does beside text "
                "(infer_backend: native), and vLLM in an engine of their own, with vllm_config "
                '{"runner": "pooling"}.'
            )
        return await pool_texts(self.tokens, batch_input, embedding_options(input_kwargs))

    # --- adapters --------------------------------------------------------------------------------

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The LoRA adapters that requests may name; "base" is the model without one."""
        return self._chat.engine.adapters if isinstance(self._chat, TokenChat) else ()

    async def load_adapter(self, path: str | Path, name: str | None = None) -> Adapter:
        """Check an adapter and serve it from now on, by default under its folder's name.

        Args:
            path: a folder, or a name on the hub, which is downloaded if needed.

        Raises:
            AdapterError: the adapter is broken, does not fit the model, or cannot be had.
            UnsupportedOptionError: this engine serves no adapters.
        """
        engine = self.tokens.engine
        path = await asyncio.to_thread(local_adapter, path, self.model_args)
        return await engine.load_adapter(path, name)

    async def drop_adapter(self, name: str) -> Adapter:
        """Stop serving an adapter. Requests in flight with it finish normally.

        Raises:
            UnknownAdapterError: no adapter has this name.
            UnsupportedOptionError: this engine serves no adapters.
        """
        return await self.tokens.engine.drop_adapter(name)

    # --- lifecycle -------------------------------------------------------------------------------

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError if the engine cannot serve."""
        await self._chat.health()

    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""
        await self._chat.close()
