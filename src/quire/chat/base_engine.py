"""BaseEngine: what a user of any engine calls. It is thin over the two seams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from quire.adapters.folder import Adapter
from quire.arguments import InferArgs
from quire.chat.texts import embedding_options, pool_texts, score_options
from quire.chat.token_chat import TokenChat
from quire.engines.seam import ChatEngine, EngineInfo, EngineState
from quire.errors import UnsupportedOptionError
from quire.outputs import AnswerSum, Delta, Embedding, Response
from quire.prompt import Prompt
from quire.request import ChatRequest, Messages, Tools
from quire.sampling import SamplingParams
from quire.template.template import Template
from quire.tokenizer import Tokenizer


class BaseEngine:
    """An engine with a model loaded, with the methods of LLaMA-Factory's engines.

    Each public method builds one `ChatRequest` and hands it down; `stream_request` and
    `chat_request` take one that is built already.
    """

    def __init__(self, arguments: InferArgs, chat: ChatEngine) -> None:
        """Answer with `chat`, which is closed with this engine."""
        self.model_args, self.data_args = arguments.model, arguments.data
        self.finetuning_args, self.generating_args = arguments.finetuning, arguments.generating
        self._chat = chat

    # --- what it is ------------------------------------------------------------------------------

    @property
    def info(self) -> EngineInfo:
        """What the engine can do, and its limits."""
        return self._chat.info

    @property
    def state(self) -> EngineState:
        """How the engine is at this moment."""
        return self._chat.state

    @property
    def name(self) -> str:
        """The engine's name, such as NativeEngine."""
        return self.info.name

    @property
    def can_generate(self) -> bool:
        """Whether it writes text; a reward model scores texts instead."""
        return "generate" in self.info.purposes

    @property
    def has_tokens(self) -> bool:
        """Whether prompts are made here, so that `tokens` is there."""
        return isinstance(self._chat, TokenChat)

    @property
    def tokens(self) -> TokenChat:
        """The engine as a token engine with its preparation.

        Raises:
            UnsupportedOptionError: the servers behind it keep tokenizer and template to themselves.
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
        """The model's tokenizer; raises as `tokens` does."""
        return self.tokens.preparation.tokenizer

    @property
    def template(self) -> Template:
        """What renders conversations; raises as `tokens` does."""
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
        """Answer a conversation. Returns exactly `num_return_sequences` responses, in order.

        The options are those of `quire.options.OPTIONS`.

        Raises:
            RequestError: the request is wrong.
            EngineError: the engine could not do it.
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
        """Answer a conversation, text alone, as it is written; of one completion."""
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
        """Answer a conversation as deltas with index, parts, token ids, log-probabilities and usage."""
        return self.stream_request(
            ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        )

    def stream_request(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a request as deltas; see ChatEngine."""
        return self._chat.stream(request)

    async def chat_request(self, request: ChatRequest) -> list[Response]:
        """Answer a request whole; see `chat`."""
        answers = AnswerSum()
        async with aclosing(self._chat.stream(request)) as deltas:
            async for delta in deltas:
                answers.add(delta)
        return answers.responses()

    async def stream_text(self, request: ChatRequest) -> AsyncGenerator[str, None]:
        """Answer a request as text; see `stream_chat`."""
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
        """Complete token ids as they are; see TokenEngine.

        Raises:
            UnsupportedOptionError: the engine has no tokens; see `tokens`.
        """
        return self.tokens.engine.generate(prompt, params)

    async def get_scores(self, batch_input: list[str], **input_kwargs: Any) -> list[float]:
        """Score each text with a reward model (`stage: rm`): the raw number of the model's head.

        The options are max_length (cuts a text at its end, in tokens), timeout (in seconds, for all
        texts), priority and cache_salt.

        Raises:
            NotImplementedError: the stage is not rm.
            RequestError: a text or an option is wrong; no other request is harmed.
            EngineError: the engine could not do it.
        """
        return [one.vector[0] for one in await self.score(batch_input, **input_kwargs)]

    async def score(self, batch_input: Sequence[str], **input_kwargs: Any) -> list[Embedding]:
        """`get_scores`, as vectors of one number each, with the tokens that each text has."""
        if "score" not in self.info.purposes:
            raise NotImplementedError(
                f"{self.name} scores no texts here: scores need a reward model, loaded with stage: rm."
            )
        return await pool_texts(self.tokens, batch_input, score_options(input_kwargs))

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
            batch_input: texts, or lists of token ids.
            **input_kwargs:
                pooling: of the hidden states after the last norm, "last" or "mean"; the native
                engine's own is "last", vLLM's is chosen when it starts.
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
        """Check an adapter's folder and serve it from now on, by default under the folder's name.

        Raises:
            AdapterError: it is broken, or does not fit the model.
            UnsupportedOptionError: this engine serves no adapters.
        """
        return await self.tokens.engine.load_adapter(path, name)

    async def drop_adapter(self, name: str) -> Adapter:
        """Serve an adapter no more.

        Raises:
            UnknownAdapterError: there is none of this name.
            UnsupportedOptionError: this engine serves no adapters.
        """
        return await self.tokens.engine.drop_adapter(name)

    # --- lifecycle -------------------------------------------------------------------------------

    async def health(self) -> None:
        """Raise EngineDeadError or EngineClosedError when the engine cannot serve."""
        await self._chat.health()

    async def close(self) -> None:
        """Free all memory and end all threads and processes. May be called twice."""
        await self._chat.close()
