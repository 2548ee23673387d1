"""The chat API of a server as a `ChatEngine`: messages go out, ordered answer parts come back."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from quire.arguments import InferArgs
from quire.engines.remote.connection import RemoteConnection, check_chat_arguments, shared_fields
from quire.engines.remote.reading import (
    chat_logprobs,
    check_index,
    checked_shape,
    completions_sent,
    counted,
    finish_reason,
    ids,
    prompt_logprobs,
    repeated,
    unfinished,
    usage_of,
)
from quire.engines.seam import (
    ChatEngine,
    EngineInfo,
    EngineState,
    RequestIds,
    first_calls,
    raise_failed,
    with_timeout,
)
from quire.errors import PromptTooLongError, ToolError, UnsupportedOptionError
from quire.media.placement import place_media
from quire.messages import Conversation, Message, ToolCall, read_conversation
from quire.options import ThinkingChoices, check_option_names, may_end_with_answer, read_option
from quire.outputs import AnswerPart, Delta, TextPart, ThoughtPart, TokenLogprob, Usage
from quire.request import ChatRequest
from quire.response_format import Constraint
from quire.sampling import OptionResolver, SamplingParams, structured_outputs
from quire.tool_choice import ToolChoice
from quire.tools.base import wrap

PATH = "/v1/chat/completions"

_MODEL_DEFAULTS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MAX_TOP_LOGPROBS = 20


class RemoteChatEngine(ChatEngine):
    """Sends conversations to servers, which render them and parse the answers.

    There is neither a tokenizer nor a template here. Options that neither the request nor the
    configuration sets are left to the server.
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
            is_remote=True,
        )
        self._resolver = OptionResolver(
            self._configured, {}, context_length=self.info.context_length
        )
        self._ids = RequestIds()

    def stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        """Answer a conversation; see ChatEngine."""
        timeout = read_option(request.options, "timeout")
        deltas = self._stream(request)
        if not read_option(request.options, "parallel_tool_calls"):
            deltas = first_calls(deltas)
        return deltas if timeout is None else with_timeout(deltas, timeout)

    async def _stream(self, request: ChatRequest) -> AsyncGenerator[Delta, None]:
        options = request.options
        check_option_names(options)
        conversation = self._conversation(request)
        # Only the server can count the prompt's tokens; it has at least one.
        params = self._resolver.resolve(options, 1, streamed=request.streamed)
        given = {name: value for name, value in options.items() if value is not None}
        body = chat_body(
            conversation,
            params,
            {**self._configured, **given},
            self._connection.model.name_for(params.adapter),
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
        """The answer's deltas, also where `max_tokens` does not fit into the context.

        Only the server can count the prompt. Some servers cut `max_tokens` to the tokens that are
        left, others refuse the request. It is then sent again without `max_tokens`, for which vLLM
        takes all tokens that are left.
        """
        started = False
        try:
            deltas = self._connection.answer(PATH, body, ChatReader(params), params)
            async with aclosing(deltas):
                async for delta in deltas:
                    started = True
                    yield delta
            return
        except PromptTooLongError:
            if started:
                raise
        unlimited = {name: value for name, value in body.items() if name != "max_tokens"}
        deltas = self._connection.answer(PATH, unlimited, ChatReader(params), params)
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta

    def _conversation(self, request: ChatRequest) -> Conversation:
        media = request.media
        conversation = place_media(
            read_conversation(
                request.messages,
                request.system,
                request.tools,
                may_end_with_answer=may_end_with_answer(request.options),
            ),
            media.images,
            media.videos,
            media.audios,
            kinds=self.info.media,
        )
        if conversation.system is None and self._data_args.default_system:
            conversation = replace(conversation, system=self._data_args.default_system)
        return conversation

    def _template_variables(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The variables for the template at the server, which alone knows what it reads."""
        variables = dict(self._data_args.chat_template_kwargs or {})
        thinking = read_option(options, "enable_thinking")
        if thinking is None:
            # vLLM without a reasoning parser constrains an answer from its first token, which leaves
            # no room for a thought. A request may ask for both explicitly.
            constrained = read_option(options, "response_format") is not None
            constrained = constrained or read_option(options, "tool_choice").is_forced
            excluded = constrained and not self._connection.model.is_quire
            thinking = False if excluded else self._data_args.enable_thinking
        if thinking is not None:
            variables["enable_thinking"] = thinking
        preserve = self._data_args.preserve_thinking
        if options.get("preserve_thinking") is not None:
            preserve = read_option(options, "preserve_thinking")
        if preserve:
            variables["preserve_thinking"] = True
        return variables | dict(read_option(options, "chat_template_kwargs"))

    async def health(self) -> None:
        """Raise EngineDeadError if no server is healthy, EngineClosedError after `close`."""
        await self._connection.health()

    async def close(self) -> None:
        """Close all connections, which ends the requests in flight."""
        await self._connection.close()

    @property
    def state(self) -> EngineState:
        """The engine's current state: unhealthy servers may recover by themselves."""
        return EngineState(recovers=True)

    @property
    def thinking_choices(self) -> ThinkingChoices | None:
        """What the servers say of it, with this configuration's own default."""
        choices, configured = self._connection.model.thinking, self._data_args.enable_thinking
        if choices is None or not choices.switch or configured is None:
            return choices
        return replace(choices, default=configured)


# --- a request's body ----------------------------------------------------------------------------


def chat_body(
    conversation: Conversation,
    params: SamplingParams,
    chosen: Mapping[str, Any],
    model: str,
    *,
    template_variables: Mapping[str, Any],
) -> dict[str, Any]:
    """The request's body: every field of `params` is in it, or deliberately left to the server.

    Args:
        chosen: the options that the request or the configuration sets. The others of
            `_MODEL_DEFAULTS` are not sent: the model's generation_config.json is at the server.
        template_variables: variables for the model's chat template, such as `enable_thinking`.

    Raises:
        SamplingError: vLLM does not take a value.
        UnsupportedOptionError: the chat API has no field for an option.
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
    choice: ToolChoice = read_option(chosen, "tool_choice")
    if conversation.tools and choice.mode != "none":
        body |= {
            "tools": [wrap(tool) for tool in conversation.tools],
            "tool_choice": _tool_choice(choice),
        }
        if not read_option(chosen, "parallel_tool_calls"):
            body["parallel_tool_calls"] = False
    elif choice.is_forced:
        raise ToolError("tool_choice needs tools to choose from.")
    if (budget := read_option(chosen, "thinking_budget")) is not None:
        body["thinking_token_budget"] = budget
    for name in ("truncate_prompt_tokens", "reasoning_effort"):
        if (value := read_option(chosen, name)) is not None:
            body[name] = value
    if documents := read_option(chosen, "documents"):
        body["documents"] = list(documents)
    if read_option(chosen, "continue_final_message"):
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    elif not read_option(chosen, "add_generation_prompt"):
        body["add_generation_prompt"] = False
    if template_variables:
        body["chat_template_kwargs"] = dict(template_variables)
    if params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": _top_logprobs(params.logprobs)}
    if params.response_format is not None and not choice.is_forced:
        body |= _constraint(params.response_format)
    return body


def _tool_choice(choice: ToolChoice) -> Any:
    if choice.name is None:
        return choice.mode
    return {"type": "function", "function": {"name": choice.name}}


def _top_logprobs(count: int) -> int:
    """One more than asked for, since the server counts the sampled token among them."""
    return count + 1 if 0 < count < _MAX_TOP_LOGPROBS else count


def _constraint(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json":
        schema = {"name": "answer", "schema": constraint.value}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": structured_outputs(constraint)}


def openai_messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages in OpenAI's form, the system message first.

    Tool calls without an id get one, and a result without one gets that of the next open call.
    """
    system = conversation.system
    front = [] if system is None else [{"role": "system", "content": system}]
    open_calls: list[str] = []
    turns: list[dict[str, Any]] = []
    for index, message in enumerate(conversation.messages):
        if message.tool_calls:
            calls = tuple(
                call if call.id else replace(call, id=f"call_{index}_{number}")
                for number, call in enumerate(message.tool_calls)
            )
            open_calls = [str(call.id) for call in calls]
            message = replace(message, tool_calls=calls)
        elif message.role == "tool" and open_calls:
            first = open_calls.pop(0)
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


# --- answers -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _PartialCall:
    """A tool call whose fragments are still coming."""

    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class _Completion:
    """What is known of one completion so far."""

    tokens: int = 0
    calls: dict[int, _PartialCall] = field(default_factory=dict[int, _PartialCall])
    """Those that were not returned yet, by the server's index for them."""
    has_called: bool = False
    last: Delta | None = None
    """The delta with the finish reason, held back until the usage has come."""

    def add_calls(self, deltas: Any) -> None:
        """Add fragments of calls: the first has the name, all of them pieces of the arguments."""
        for position, delta in enumerate(deltas or ()):
            call = self.calls.setdefault(int(delta.get("index", position)), _PartialCall())
            function = delta.get("function") or {}
            call.id = call.id or str(delta.get("id") or "")
            call.name += str(function.get("name") or "")
            call.arguments += str(function.get("arguments") or "")

    def take_calls(self) -> tuple[ToolCall, ...]:
        """Return the calls so far, once text has followed them or the answer has ended.

        The start of another call does not complete a call: a server may interleave the fragments of
        several.
        """
        calls = tuple(
            ToolCall(call.name, call.arguments or "{}", call.id or None)
            for _, call in sorted(self.calls.items())
        )
        self.calls = {}
        self.has_called = self.has_called or bool(calls)
        return calls


class ChatReader:
    """Reads the deltas of one request's completions from the chat API's answer.

    The last delta of each completion is held back until the usage has come, at the stream's end.
    Where the server sends no token ids, its usage is the sum over all completions: the first one then
    carries the whole count, so that sums stay right.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._expected = completions_sent(params)
        self._copies = params.n // self._expected
        self._completions = [_Completion() for _ in range(self._expected)]
        self._usage: Any = None
        self._prompt_ids: tuple[int, ...] = ()

    def add(self, event: Mapping[str, Any]) -> list[Delta]:
        """Read one event of a stream, or a whole answer; see ResponseReader."""
        deltas: list[Delta] = []
        with checked_shape():
            self._usage = event.get("usage") or self._usage
            self._prompt_ids = ids(event.get("prompt_token_ids")) or self._prompt_ids
            for choice in event["choices"]:
                delta = self._delta(choice, event.get("prompt_logprobs"))
                if delta.finish_reason is not None:
                    self._completions[delta.index].last = delta
                elif delta.parts or delta.token_ids:
                    deltas += repeated(delta, self._copies)
        return deltas

    def flush(self) -> list[Delta]:
        """The last delta of each completion; see ResponseReader."""
        ended = [(one, one.last) for one in self._completions if one.last is not None]
        if len(ended) < self._expected:
            raise unfinished(len(ended), self._expected)
        deltas: list[Delta] = []
        for completion, delta in ended:
            calls = completion.take_calls()
            reason = delta.finish_reason
            if reason == "stop" and completion.has_called:
                reason = "tool_calls"
            last = replace(
                delta,
                parts=(*(delta.parts or ()), *calls),
                finish_reason=reason,
                usage=self._usage_of(delta.index, completion.tokens),
            )
            deltas += repeated(last, self._copies)
        return deltas

    def _delta(self, choice: Mapping[str, Any], prompt_rows: Any) -> Delta:
        index = check_index(choice["index"], self._expected)
        completion = self._completions[index]
        if completion.last is not None:
            raise ValueError("a choice after its finish_reason")
        message = choice.get("delta") or choice.get("message") or {}
        token_ids = ids(choice.get("token_ids"))
        completion.tokens += len(token_ids)
        thought = str(message.get("reasoning") or message.get("reasoning_content") or "")
        content = str(message.get("content") or "")
        parts: list[AnswerPart] = []
        if thought or content:
            parts += completion.take_calls()
        if thought:
            parts.append(ThoughtPart(thought))
        if content:
            parts.append(TextPart(content))
        completion.add_calls(message.get("tool_calls"))
        reason = finish_reason(choice.get("finish_reason"))
        return Delta(
            index,
            thought + content,
            token_ids,
            self._logprobs(choice.get("logprobs")),
            reason,
            choice.get("stop_reason"),
            prompt_logprobs=self._prompt_logprobs(index, prompt_rows),
            error="The server failed in a step of this request." if reason == "error" else None,
            parts=tuple(parts),
        )

    def _logprobs(self, value: Any) -> tuple[TokenLogprob, ...] | None:
        top = self._params.logprobs
        return None if top is None or value is None else chat_logprobs(value, top)

    def _prompt_logprobs(self, index: int, value: Any) -> tuple[TokenLogprob | None, ...] | None:
        top = self._params.prompt_logprobs
        if top is None or index:
            return None
        return prompt_logprobs(value, self._prompt_ids, top)

    def _usage_of(self, index: int, tokens: int) -> Usage:
        if not any(one.tokens for one in self._completions):
            tokens = 0 if index else counted(self._usage, "completion_tokens")
        usage = usage_of(counted(self._usage, "prompt_tokens"), tokens, self._usage)
        return usage if self._expected == 1 else replace(usage, reasoning_tokens=0)
