"""A server's chat API as an engine of the upper seam: messages go out, taken-apart answers come back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from quire.arguments import InferArgs
from quire.engines.remote.arguments import check_chat_arguments
from quire.engines.remote.chat_answers import ChatAnswerReader
from quire.engines.remote.connection import RemoteConnection, shared_fields
from quire.engines.seam import (
    ChatEngine,
    EngineInfo,
    EngineState,
    RequestIds,
    in_time,
    raise_failed,
)
from quire.errors import PromptTooLongError, UnsupportedOptionError
from quire.media.placement import place_media
from quire.messages import Conversation, Message, ToolCall, read_conversation
from quire.options import check_option_names, read_option
from quire.outputs import Delta
from quire.request import ChatRequest
from quire.response_format import Constraint, read_response_format
from quire.sampling import OptionResolver, SamplingParams, structured_outputs
from quire.tools.base import wrap

PATH = "/v1/chat/completions"

_MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MAX_TOP_LOGPROBS = 20


class RemoteChatEngine(ChatEngine):
    """Servers that render conversations and take answers apart themselves.

    There is no tokenizer and no template here, so that options which neither the request nor the
    configuration sets are the server's.
    """

    def __init__(self, connection: RemoteConnection, arguments: InferArgs) -> None:
        self._connection = connection
        self._data_args = arguments.data
        self._configured = arguments.generating.explicit()
        length = connection.model.context_length
        check_chat_arguments(arguments.model, arguments.data, arguments.generating, length)
        self.info = EngineInfo(
            "RemoteEngine",
            length or arguments.model.vllm_maxlen,
            loop_bound=True,
            elsewhere=True,
        )
        self._resolver = OptionResolver(
            self._configured, {}, context_length=self.info.context_length
        )
        self._ids = RequestIds()

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation; see ChatEngine."""
        return in_time(self._stream(request), read_option(request.options, "timeout"))

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        options = request.options
        check_option_names(options)
        conversation = self._conversation(request)
        # The prompt has one token at least; how many, the server knows.
        params = self._resolver.resolve(options, 1, streamed=request.streamed)
        given = {name: value for name, value in options.items() if value is not None}
        body = chat_body(
            conversation,
            params,
            {**self._configured, **given},
            self._connection.model.asked(params.adapter),
            template_variables=self._template_variables(options),
        )
        with self._ids.claim(params.request_id):
            async with aclosing(self._answer(body, params)) as deltas:
                async for delta in deltas:
                    raise_failed(delta)
                    yield delta

    async def _answer(
        self, body: Mapping[str, Any], params: SamplingParams
    ) -> AsyncGenerator[Delta, None]:
        """The answer's deltas. A limit that does not fit beside the prompt is cut by the server.

        Only the server can count the prompt. Some cut `max_tokens` to the room that is left, others
        refuse it; these are asked again without it, and then fill just that room.
        """
        begun = False
        try:
            deltas = self._connection.answer(PATH, body, ChatAnswerReader(params), params)
            async with aclosing(deltas):
                async for delta in deltas:
                    begun = True
                    yield delta
            return
        except PromptTooLongError:
            if begun:
                raise
        unlimited = {name: value for name, value in body.items() if name != "max_tokens"}
        deltas = self._connection.answer(PATH, unlimited, ChatAnswerReader(params), params)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    def _conversation(self, request: ChatRequest) -> Conversation:
        media = request.media
        conversation = place_media(
            read_conversation(request.messages, request.system, request.tools),
            media.images,
            media.videos,
            media.audios,
            kinds=self.info.media,
        )
        if conversation.system is None and self._data_args.default_system:
            conversation = replace(conversation, system=self._data_args.default_system)
        return conversation

    def _template_variables(self, options: Mapping[str, Any]) -> dict[str, Any]:
        thinking = read_option(options, "enable_thinking")
        if thinking is None:
            # A constraint leaves no room for a thought, unless the server is known to take thoughts
            # apart from it; then the request may ask for one.
            constrained = read_response_format(options.get("response_format")) is not None
            thinking = False if constrained else self._data_args.enable_thinking
        preserve = self._data_args.preserve_thinking
        if options.get("preserve_thinking") is not None:
            preserve = read_option(options, "preserve_thinking")
        variables: dict[str, Any] = {} if thinking is None else {"enable_thinking": thinking}
        return variables | ({"preserve_thinking": True} if preserve else {})

    async def health(self) -> None:
        """Raise EngineDeadError where no server is healthy, EngineClosedError after `close`."""
        await self._connection.health()

    async def close(self) -> None:
        """Close all connections, which ends the requests in flight."""
        await self._connection.close()

    @property
    def state(self) -> EngineState:
        """How the servers are: they may come back by themselves."""
        return EngineState(recovers=True)


# --- a request's body ----------------------------------------------------------------------------


def chat_body(
    conversation: Conversation,
    params: SamplingParams,
    chosen: Mapping[str, Any],
    model: str,
    *,
    template_variables: Mapping[str, Any],
) -> dict[str, Any]:
    """The request's body: every field of `params` is in it, or left to the server.

    Args:
        chosen: the sampling options that the request or the configuration sets. What the model's
            generation_config may say otherwise is not sent: that file is at the server.
        template_variables: what the model's chat template is told, such as `enable_thinking`.

    Raises:
        SamplingError: a value that vLLM does not take.
        UnsupportedOptionError: an option that the chat API has no words for.
    """
    if "max_length" in chosen and "max_new_tokens" not in chosen:
        raise UnsupportedOptionError(
            "max_length counts the prompt's tokens, which only the server knows with remote_api "
            "chat; give max_new_tokens."
        )
    body = shared_fields(params)
    for name in _MODEL_DEFAULTS:
        if name not in chosen and not (name == "temperature" and params.greedy):
            del body[name]
    body |= {"model": model, "messages": openai_messages(conversation)}
    if conversation.tools:
        body |= {"tools": [wrap(tool) for tool in conversation.tools], "tool_choice": "auto"}
    if template_variables:
        body["chat_template_kwargs"] = dict(template_variables)
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": _top_logprobs(params.logprobs)}
    if params.response_format is not None:
        body |= _constraint(params.response_format)
    return body


def _top_logprobs(count: int) -> int:
    """One more than asked for: the sampled token takes one of them."""
    return count + 1 if 0 < count < _MAX_TOP_LOGPROBS else count


def _constraint(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json":
        schema = {"name": "answer", "schema": constraint.value}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": structured_outputs(constraint)}


def openai_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The turns in OpenAI's form, the system message first; calls and results get identities."""
    system = conversation.system
    front = [] if system is None else [{"role": "system", "content": system}]
    waiting: list[str] = []
    turns: list[dict[str, Any]] = []
    for place, message in enumerate(conversation.messages):
        if message.tool_calls:
            calls = tuple(
                call if call.id else replace(call, id=f"call_{place}_{number}")
                for number, call in enumerate(message.tool_calls)
            )
            waiting = [str(call.id) for call in calls]
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and waiting:
            first = waiting.pop(0)
            message = replace(message, tool_call_id=message.tool_call_id or first)
        turns.append(_message(message))
    return front + turns


def _message(message: Message) -> dict[str, Any]:
    written: dict[str, Any] = {"role": message.role, "content": message.text}
    if message.tool_calls:
        written["tool_calls"] = [_call(call) for call in message.tool_calls]
        written["content"] = message.text or None
    if message.reasoning:
        written["reasoning_content"] = message.reasoning
    for name in ("tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            written[name] = value
    return written


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}
