"""RemoteEngine: running vLLM or quire servers behind the same seam as an engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar

from quire.arguments import DataArguments, FinetuningArguments, GeneratingArguments, ModelArguments
from quire.chat.base_engine import BaseEngine
from quire.chat.in_time import in_time
from quire.chat.media_prompts import CallMedia
from quire.chat.preparation import Messages, Request, Tools
from quire.chat.response import ChatDelta
from quire.engines.remote import chat_requests, completions
from quire.engines.remote.address import read_addresses
from quire.engines.remote.chat_answers import ChatPart, ChatReader
from quire.engines.remote.client import RemoteClient, check_key
from quire.engines.remote.completions import CompletionsReader, completion_body
from quire.engines.remote.greeting import greet
from quire.engines.remote.options import (
    api_key,
    check_arguments,
    check_chat_arguments,
    sends_tokens,
)
from quire.engines.remote.reading import AnswerReader
from quire.errors import (
    GenerationError,
    PromptTooLongError,
    UnsupportedOptionError,
)
from quire.messages import Conversation, read_conversation
from quire.outputs import Delta
from quire.prompt import Prompt
from quire.response_format import read_response_format
from quire.sampling import SAMPLING_OPTIONS, SamplingParams, check_option_names, resolve
from quire.weights.folder import read_json

Part = TypeVar("Part")


class RemoteEngine(BaseEngine):
    """One model on one or several servers, the least loaded of which gets the next request.

    Making one gives a `RemoteTokensEngine` or a `RemoteChatEngine`, as `remote_api` says.

    Raises, when made:
        ConfigError: an argument that cannot be honoured, or httpx is not installed.
        EngineStartError: no server can be reached.
        ModelError: the servers do not serve the model, or its folder here cannot be used.
    """

    loop_bound = True
    elsewhere = True

    def __new__(
        cls,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> Self:
        chosen: Any = cls
        if cls is RemoteEngine:
            chosen = RemoteTokensEngine if sends_tokens(model_args) else RemoteChatEngine
        return super().__new__(chosen)

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        check_arguments(model_args, finetuning_args)
        super().__init__(model_args, data_args, finetuning_args, generating_args)
        addresses, key = read_addresses(model_args.remote_base_url), check_key(api_key(model_args))
        self._model, lost = greet(addresses, key, model_args.remote_model)
        self._client = RemoteClient(addresses, key)
        for server in self._client.pool.servers:
            self._client.pool.note(server, healthy=server.address not in lost)

    async def _answer(
        self,
        path: str,
        body: Mapping[str, Any],
        reader: AnswerReader[Part],
        *,
        adapter: str | None,
        request_id: str | None,
    ) -> AsyncGenerator[Part, None]:
        """Ask the servers, and read the answer with `reader`, streamed or whole."""
        asked = self._client.ask(path, body, request_id=request_id, adapter=adapter)
        async with asked as answer:
            if body["stream"]:
                async with aclosing(answer.events()) as events:
                    async for event in events:
                        for part in reader.add(event):
                            yield part
            else:
                whole = await answer.whole()
                for part in await asyncio.to_thread(reader.add, whole):
                    yield part
        for part in reader.flush():
            yield part

    async def health(self) -> None:
        """Raise EngineDeadError where no server is healthy, EngineClosedError after `close`."""
        await self._client.check()

    async def close(self) -> None:
        """Close all connections, which ends the requests under way."""
        await self._client.close()


class RemoteTokensEngine(RemoteEngine):
    """Conversations are rendered here; token ids are sent, and come back."""

    name = "RemoteEngine"

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        super().__init__(model_args, data_args, finetuning_args, generating_args)
        folder = Path(model_args.model_name_or_path).expanduser()
        self.read_folder(folder)
        self.context_length = _context_length(folder, model_args, self._model.context_length)

    async def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Complete one prompt; see BaseEngine."""
        body = completion_body(prompt, params, self._model.asked(adapter))
        deltas = self._answer(
            completions.PATH,
            body,
            CompletionsReader(prompt, params),
            adapter=adapter,
            request_id=request_id,
        )
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta


class RemoteChatEngine(RemoteEngine):
    """Messages are sent; the server renders them, and takes the answer apart.

    There is no tokenizer and no template here, so `generate` and `prepare` are refused, and options
    that neither the request nor the configuration sets are the server's.
    """

    name = "RemoteEngine"

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        super().__init__(model_args, data_args, finetuning_args, generating_args)
        length = self._model.context_length
        check_chat_arguments(model_args, data_args, generating_args, length)
        self.context_length = length or model_args.vllm_maxlen
        self.generation_config = {}
        self.eos_token_ids = ()

    def generate(
        self,
        prompt: Prompt,
        params: SamplingParams,
        *,
        adapter: str | None = None,
        request_id: str | None = None,
    ) -> AsyncGenerator[Delta, None]:
        """Refused: token ids have no meaning without the model's folder."""
        raise UnsupportedOptionError(_NO_TOKENS)

    def prepare(
        self,
        messages: Messages,
        system: str | None,
        tools: Tools,
        options: Mapping[str, Any],
    ) -> Request:
        """Refused: prompts are made at the server."""
        raise UnsupportedOptionError(_NO_TOKENS)

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
        check_option_names(options)
        media = CallMedia(images, videos, audios)
        conversation = self._conversation(messages, system, tools, media)
        params = replace(self._chat_params(options), streamed=streamed)
        body = chat_requests.chat_body(
            conversation,
            params,
            self._chosen(options),
            self._model.asked(options.get("adapter")),
            template_variables=self._template_variables(options),
        )
        parts = in_time(self._parts(body, params, options), params.timeout)
        async with aclosing(parts):
            async for part in parts:
                if part.finish_reason == "error":
                    raise GenerationError("The server failed in a step of this request.")
                yield _chat_delta(part)

    async def _parts(
        self, body: Mapping[str, Any], params: SamplingParams, options: Mapping[str, Any]
    ) -> AsyncGenerator[ChatPart, None]:
        """The answer's parts. A limit that does not fit beside the prompt is cut by the server.

        Only the server can count the prompt. Some cut `max_tokens` to the room that is left, others
        refuse it; these are asked again without it, and then fill just that room.
        """
        begun = False
        try:
            async with aclosing(self._asked(body, params, options)) as parts:
                async for part in parts:
                    begun = True
                    yield part
            return
        except PromptTooLongError:
            if begun:
                raise
        unlimited = {name: value for name, value in body.items() if name != "max_tokens"}
        async with aclosing(self._asked(unlimited, params, options)) as parts:
            async for part in parts:
                yield part

    def _asked(
        self, body: Mapping[str, Any], params: SamplingParams, options: Mapping[str, Any]
    ) -> AsyncGenerator[ChatPart, None]:
        return self._answer(
            chat_requests.PATH,
            body,
            ChatReader(params),
            adapter=options.get("adapter"),
            request_id=options.get("request_id"),
        )

    def _conversation(
        self, messages: Messages, system: str | None, tools: Tools, media: CallMedia
    ) -> Conversation:
        conversation = self.media_prompts.place(read_conversation(messages, system, tools), media)
        if conversation.system is None and self.data_args.default_system:
            conversation = replace(conversation, system=self.data_args.default_system)
        return conversation

    def _chat_params(self, options: Mapping[str, Any]) -> SamplingParams:
        sampling = {name: value for name, value in options.items() if name in SAMPLING_OPTIONS}
        return resolve(
            sampling,
            self.generating_args.explicit(),
            self.generation_config,
            prompt_length=1,  # the least that a prompt has; the server knows better
            context_length=self.context_length,
        )

    def _chosen(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The sampling options that somebody chose, rather than a default."""
        given = {name: value for name, value in options.items() if value is not None}
        return {**self.generating_args.explicit(), **given}

    def _template_variables(self, options: Mapping[str, Any]) -> dict[str, Any]:
        thinking, preserve = options.get("enable_thinking"), options.get("preserve_thinking")
        if thinking is None:
            # A constraint leaves no room for a thought, unless the server is known to take thoughts
            # apart from it; then the request may ask for one.
            constrained = read_response_format(options.get("response_format")) is not None
            thinking = False if constrained else self.data_args.enable_thinking
        preserve = self.data_args.preserve_thinking if preserve is None else preserve
        variables: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        return variables | ({"preserve_thinking": True} if preserve else {})


_NO_TOKENS = (
    "With remote_api chat the server renders and tokenises; for prompts of token ids give the "
    "model's folder as model_name_or_path, and remote_api: tokens."
)


def _context_length(folder: Path, model_args: ModelArguments, served: int | None) -> int:
    """The servers' limit; vllm_maxlen where it is set and lower, or where they tell none."""
    wished = model_args.explicit().get("vllm_maxlen")
    if served is not None:
        return min(served, wished or served)
    positions = read_json(folder, "config.json").get("max_position_embeddings")
    longest = positions if isinstance(positions, int) and positions > 0 else model_args.vllm_maxlen
    return min(model_args.vllm_maxlen, longest)


def _chat_delta(part: ChatPart) -> ChatDelta:
    return ChatDelta(
        index=part.index,
        text=part.reasoning + part.content,
        content=part.content,
        reasoning=part.reasoning,
        tool_calls=part.tool_calls,
        token_ids=part.token_ids,
        logprobs=part.logprobs,
        prompt_logprobs=part.prompt_logprobs,
        finish_reason=part.finish_reason,
        stop_reason=part.stop_reason,
        usage=part.usage,
    )
