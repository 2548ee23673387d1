"""VllmEngine: chat over vLLM."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quire.arguments import (
    DataArguments,
    FinetuningArguments,
    GeneratingArguments,
    InferArgs,
    ModelArguments,
)
from quire.chat.base_engine import BaseEngine
from quire.chat.preparation import ChatFormat, Preparation, PreparedRequest
from quire.chat.token_chat import TokenChat
from quire.engines.seam import with_timeout
from quire.engines.vllm.token_engine import VllmTokenEngine
from quire.errors import SamplingError
from quire.model_folder import find_model_folder, with_local_adapters, with_model_defaults
from quire.options import read_option
from quire.request import ChatRequest, Messages, Tools

if TYPE_CHECKING:
    from vllm import RequestOutput


class VllmEngine(BaseEngine):
    """The production engine, on GPUs or a CPU. All its requests run on one event loop.

    Raises:
        ConfigError: vLLM is not installed, or cannot honour an argument.
        ModelError: the model's folder or an adapter cannot be used.
        EngineStartError: vLLM failed to start, or took longer than `vllm_start_timeout`.
        OutOfMemoryError: the KV cache would not hold one sequence.
    """

    def __init__(
        self,
        model_args: ModelArguments,
        data_args: DataArguments,
        finetuning_args: FinetuningArguments,
        generating_args: GeneratingArguments,
    ) -> None:
        folder = find_model_folder(model_args)
        model_args = with_local_adapters(model_args)
        given = InferArgs(model_args, data_args, finetuning_args, generating_args)
        arguments = with_model_defaults(given, folder)
        chat_format = ChatFormat.of_folder(folder, arguments)
        self.token_engine = VllmTokenEngine(arguments, folder, chat_format.tokenizer)
        try:
            preparation = Preparation(chat_format, arguments, self.token_engine.info, folder)
            self.token_engine.media_of = preparation.media.vllm_input
            super().__init__(arguments, TokenChat(preparation, self.token_engine))
        except BaseException:
            self.token_engine.end()
            raise

    async def _generate(
        self,
        messages: Messages,
        system: str | None = None,
        tools: Tools = None,
        images: Sequence[Any] | None = None,
        videos: Sequence[Any] | None = None,
        audios: Sequence[Any] | None = None,
        **input_kwargs: Any,
    ) -> AsyncIterator[RequestOutput]:
        """Answer a conversation as vLLM's own outputs, each with all text so far.

        This is the method of LLaMA-Factory's VllmEngine: awaiting it prepares the request and returns
        the iterator. Several completions come together in one output, at their end.

        Raises:
            RequestError: the request is wrong.
            RequestTimeoutError: the request's `timeout` has passed.
        """
        request = ChatRequest.of(messages, system, tools, images, videos, audios, input_kwargs)
        timeout = read_option(input_kwargs, "timeout")
        outputs = self._prepared_outputs(request)
        if timeout is not None:
            outputs = with_timeout(outputs, timeout)
        # The generator's first item is the prepared request. Asking for it here raises what is wrong
        # with the request, and starts the one time limit that covers preparation and answer.
        prepared = await anext(outputs)
        assert isinstance(prepared, PreparedRequest)
        return outputs  # type: ignore[return-value]

    async def _prepared_outputs(
        self, request: ChatRequest
    ) -> AsyncGenerator[PreparedRequest | RequestOutput, None]:
        prepared = await self.tokens.preparation.prepare(request)
        params = prepared.params
        if params.greedy and params.n > 1:
            raise SamplingError("Greedy completions are all the same: ask _generate for one.")
        yield prepared
        # No AnswerReader follows here, so the special tokens that it would hide are hidden by vLLM.
        skip = params.skip_special_tokens or bool(prepared.special)
        params = replace(params, skip_special_tokens=skip)
        outputs = self.token_engine.generate_cumulative(prepared.prompt, params)
        async with aclosing(outputs):
            async for output in outputs:
                yield output
