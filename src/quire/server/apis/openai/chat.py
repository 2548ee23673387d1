"""/v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import AnswerSum, Delta, TextPart, ThoughtPart, TokenLogprob
from quire.outputs import Response as Completion
from quire.server.apis.body import in_thread_if_large, json_answer, read_body
from quire.server.apis.ids import NEW_IDS, AnswerIds
from quire.server.apis.openai.request import chat_call, echoed
from quire.server.apis.openai.schema import ChatCompletion, ChatCompletionRequest
from quire.server.apis.openai.writing import (
    DONE,
    Extras,
    UsageSum,
    end_of,
    prompt_logprobs,
    quoted,
    tool_call,
    usage_fields,
)
from quire.server.apis.openapi import documented
from quire.server.call import Call, Caller, caller_of
from quire.server.errors import Problem
from quire.server.part_logprobs import PartLogprob, with_part_logprobs
from quire.server.service import Service, service_of
from quire.server.sse import EventStream
from quire.server.streams import CancelOnDisconnect, take_all
from quire.server.token_texts import TokenTexts


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["chat"])

    @routes.post(
        "/v1/chat/completions", **documented(ChatCompletionRequest, ChatCompletion, streams=True)
    )
    async def create_chat_completion(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events."""
        service = service_of(request)
        body = await read_body(request, ChatCompletionRequest)
        service.models.resolve(body.model)  # before a long conversation is gone through
        call = await in_thread_if_large(request, partial(chat_call, body))
        caller = caller_of(request)
        if not body.stream:
            async with CancelOnDisconnect(request.receive):
                return json_answer(await answer_chat(service, body, call, caller))
        deltas, texts = await _deltas(service, body, call, caller)
        extras = Extras.of(body.stream_options, token_ids=body.return_token_ids)
        encoder = ChatEncoder(body.model or service.models.name, texts, extras, echoed(body))
        return EventStream(deltas, encoder, keep_alive=service.arguments.keep_alive)

    return routes


async def answer_chat(
    service: Service,
    body: ChatCompletionRequest,
    call: Call,
    caller: Caller,
    ids: AnswerIds = NEW_IDS,
) -> dict[str, Any]:
    """The body of a whole answer; raises what `Service.stream` does.

    Args:
        call: what `chat_call` makes of the body.
    """
    deltas, texts = await _deltas(service, body, call, caller)
    answers = AnswerSum()
    await take_all(deltas, answers.add)
    name = body.model or service.models.name
    return whole_answer(name, answers.responses(), texts, body, ids)


async def _deltas(
    service: Service, body: ChatCompletionRequest, call: Call, caller: Caller
) -> tuple[AsyncGenerator[Delta, None], TokenTexts | None]:
    """The answer's deltas, and the texts of tokens if they are wanted."""
    texts = await _texts(service, body)
    deltas = service.stream(call, caller)
    if body.logprobs and texts is not None:
        deltas = with_part_logprobs(deltas, texts)
    return deltas, texts


async def _texts(service: Service, body: ChatCompletionRequest) -> TokenTexts | None:
    """The texts of tokens, if log-probabilities are wanted."""
    if not body.logprobs and body.prompt_logprobs is None:
        return None
    return await service.token_texts(as_ids=bool(body.return_tokens_as_token_ids))


def whole_answer(
    name: str,
    completions: list[Completion],
    texts: TokenTexts | None,
    body: ChatCompletionRequest,
    ids: AnswerIds = NEW_IDS,
) -> dict[str, Any]:
    """The body of a whole answer, from its completions."""
    usage = UsageSum.of(completions)
    answer: dict[str, Any] = {
        "id": ids.new("chatcmpl-"),
        "object": "chat.completion",
        "created": ids.now(),
        "model": name,
        "choices": [_choice(completion, texts, body, ids) for completion in completions],
        "usage": usage_fields(usage),
    }
    if body.return_token_ids:
        answer["prompt_token_ids"] = completions[0].prompt_token_ids
    if body.prompt_logprobs is not None and texts is not None:
        answer["prompt_logprobs"] = prompt_logprobs(completions[0].prompt_logprobs or (), texts)
    return answer


def _choice(
    completion: Completion, texts: TokenTexts | None, body: ChatCompletionRequest, ids: AnswerIds
) -> dict[str, Any]:
    content = echoed(body) + completion.content
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content or (None if completion.tool_calls else ""),
        "refusal": None,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [tool_call(call, ids) for call in completion.tool_calls]
    logprobs = None
    if body.logprobs and texts is not None:
        logprobs = json.loads(chat_logprobs(completion.logprobs or (), texts))
    return {
        "index": completion.index,
        "message": message,
        "logprobs": logprobs,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        **({"token_ids": completion.token_ids} if body.return_token_ids else {}),
    }


def chat_logprobs(logprobs: Sequence[TokenLogprob], texts: TokenTexts) -> str:
    """JSON of a choice's `logprobs`: of the content's tokens, and beside them of the thought's."""
    content: list[TokenLogprob] = []
    thought: list[TokenLogprob] = []
    for one in logprobs:
        is_thought = isinstance(one, PartLogprob) and one.kind == "thought"
        (thought if is_thought else content).append(one)
    beside = f',"reasoning_content":{texts.listed(thought)}' if thought else ""
    return f'{{"content":{texts.listed(content)},"refusal":null{beside}}}'


class ChatEncoder:
    """Writes `chat.completion.chunk` events, formatted by hand, since most come once per token."""

    def __init__(self, name: str, texts: TokenTexts | None, extras: Extras, echo: str = "") -> None:
        """`echo` is the text that each completion continues, and that is repeated before it."""
        self._texts, self._extras = texts, extras
        self._first = f'"role":"assistant","content":{quoted(echo)}'
        self._before = (
            f'data: {{"id":"{NEW_IDS.new("chatcmpl-")}","object":"chat.completion.chunk",'
            f'"created":{NEW_IDS.now()},"model":{quoted(name)},"choices":['
        )
        self._calls: dict[int, int] = {}  # number of tool calls of each completion that has begun
        self._usage = UsageSum()

    def encode(self, delta: Delta) -> bytes:
        """The events of one delta."""
        index = delta.index
        self._usage.add(delta)
        begun = "" if index in self._calls else self._begin(delta)
        with_ids, held = self._extras.token_ids, ""
        if delta.parts is None and delta.finish_reason is None:  # most tokens
            if not delta.text and not delta.logprobs and not with_ids:
                return begun.encode()
            change = f'"content":{quoted(delta.text)}'
        else:
            change = self._change(delta)
            if self._extras.held_text and delta.text and not change:
                held = f',"held_text":{quoted(delta.text)}'
            if not (change or held or delta.finish_reason or delta.logprobs or with_ids):
                return begun.encode()
        end = end_of(delta)
        logprobs = "null"
        if delta.logprobs and self._texts is not None:
            logprobs = chat_logprobs(delta.logprobs, self._texts)
        ids = f',"token_ids":{list(delta.token_ids)}' if with_ids else ""
        return (
            f'{begun}{self._before}{{"index":{index},"delta":{{{change}}},"logprobs":{logprobs},'
            f'"finish_reason":{end}{held}{ids}}}{self._after()}'
        ).encode("ascii")

    def _begin(self, delta: Delta) -> str:
        """The first event of a completion; the very first has the prompt."""
        prompt = ""
        if self._extras.token_ids and not self._calls:
            prompt = f',"prompt_token_ids":{json.dumps(delta.prompt_token_ids)}'
        self._calls[delta.index] = 0
        return (
            f'{self._before}{{"index":{delta.index},"delta":{{{self._first}}},"logprobs":null,'
            f'"finish_reason":null}}{self._after(prompt)}'
        )

    def _after(self, more: str = "") -> str:
        """What follows the choices of an event."""
        return f"]{more}{self._extras.usage_field(self._usage)}}}\n\n"

    def _change(self, delta: Delta) -> str:
        reasoning = content = ""
        calls: list[dict[str, Any]] = []
        for part in delta.all_parts():
            if isinstance(part, TextPart):
                content += part.text
            elif isinstance(part, ThoughtPart):
                reasoning += part.text
            else:
                calls.append({"index": self._calls[delta.index], **tool_call(part)})
                self._calls[delta.index] += 1
        change: list[str] = []
        if reasoning:
            change.append(f'"reasoning_content":{quoted(reasoning)}')
        if content:
            change.append(f'"content":{quoted(content)}')
        if calls:
            change.append(f'"tool_calls":{json.dumps(calls)}')
        return ",".join(change)

    def end(self) -> bytes:
        """Usage, if requested, and the end."""
        return self._extras.last_event(self._before, self._usage) + DONE

    def failure(self, problem: Problem) -> bytes:
        """The error, and the end."""
        return f"data: {json.dumps(problem.body)}\n\n".encode("ascii") + DONE
