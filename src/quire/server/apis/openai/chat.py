"""/v1/chat/completions."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import Delta, TextPart, ThoughtPart, Usage
from quire.outputs import Response as Completion
from quire.server.apis.body import in_thread_if_large, json_answer, read_body
from quire.server.apis.openai.request import chat_call
from quire.server.apis.openai.schema import ChatCompletion, ChatCompletionRequest
from quire.server.apis.openai.writing import (
    DONE,
    new_id,
    now,
    quoted,
    summed,
    tool_call,
    usage_fields,
)
from quire.server.apis.openapi import documented
from quire.server.call import caller_of
from quire.server.errors import Problem
from quire.server.service import service_of
from quire.server.sse import EventStream
from quire.server.streams import CancelOnDisconnect
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
        name = body.model or service.models.name
        as_ids = bool(body.return_tokens_as_token_ids)
        texts = await service.token_texts(as_ids=as_ids) if body.logprobs else None
        with_ids = bool(body.return_token_ids)
        if call.streamed:
            with_usage = bool((body.stream_options or {}).get("include_usage"))
            encoder = ChatEncoder(name, texts, with_usage=with_usage, with_ids=with_ids)
            deltas = service.stream(call, caller)
            return EventStream(deltas, encoder, keep_alive=service.arguments.keep_alive)
        async with CancelOnDisconnect(request.receive):
            completions = await service.answer(call, caller)
        return json_answer(whole_answer(name, completions, texts, with_ids=with_ids))

    return routes


def whole_answer(
    name: str, completions: list[Completion], texts: TokenTexts | None, *, with_ids: bool
) -> dict[str, Any]:
    """The body of a whole answer."""
    usage = summed([completion.usage for completion in completions if completion.usage])
    return {
        "id": new_id("chatcmpl"),
        "object": "chat.completion",
        "created": now(),
        "model": name,
        "choices": [_choice(completion, texts, with_ids) for completion in completions],
        "usage": usage_fields(usage),
    }


def _choice(completion: Completion, texts: TokenTexts | None, with_ids: bool) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": completion.content or (None if completion.tool_calls else ""),
        "refusal": None,
    }
    if completion.reasoning:
        message["reasoning_content"] = completion.reasoning
    if completion.tool_calls:
        message["tool_calls"] = [tool_call(call) for call in completion.tool_calls]
    return {
        "index": completion.index,
        "message": message,
        "logprobs": json.loads(texts.content(completion.logprobs)) if texts else None,
        "finish_reason": completion.finish_reason,
        "stop_reason": completion.stop_reason,
        **({"token_ids": completion.token_ids} if with_ids else {}),
    }


class ChatEncoder:
    """Writes `chat.completion.chunk` events, formatted by hand, since most come once per token."""

    def __init__(
        self, name: str, texts: TokenTexts | None, *, with_usage: bool, with_ids: bool = False
    ) -> None:
        self._texts, self._with_usage, self._with_ids = texts, with_usage, with_ids
        self._before = (
            f'data: {{"id":"{new_id("chatcmpl")}","object":"chat.completion.chunk",'
            f'"created":{now()},"model":{quoted(name)},"choices":['
        )
        self._after = '],"usage":null}\n\n' if with_usage else "]}\n\n"
        self._calls: dict[int, int] = {}  # number of tool calls of each completion that has begun
        self._usages: list[Usage] = []

    def encode(self, delta: Delta) -> bytes:
        """The events of one delta."""
        index = delta.index
        begun = "" if index in self._calls else self._begin(index)
        if delta.parts is None and delta.finish_reason is None:  # most tokens
            if not delta.text and not delta.logprobs and not self._with_ids:
                return begun.encode()
            change = f'"content":{quoted(delta.text)}'
        else:
            change = self._change(delta)
            if not (change or delta.finish_reason or delta.logprobs or self._with_ids):
                return begun.encode()
        end = self._end_of(delta)
        logprobs = self._texts.content(delta.logprobs) if self._texts else "null"
        ids = f',"token_ids":{list(delta.token_ids)}' if self._with_ids else ""
        return (
            f'{begun}{self._before}{{"index":{index},"delta":{{{change}}},"logprobs":{logprobs},'
            f'"finish_reason":{end}{ids}}}{self._after}'
        ).encode("ascii")

    def _begin(self, index: int) -> str:
        """The first event of a completion."""
        self._calls[index] = 0
        change = '"role":"assistant","content":""'
        return (
            f'{self._before}{{"index":{index},"delta":{{{change}}},"logprobs":null,'
            f'"finish_reason":null}}{self._after}'
        )

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

    def _end_of(self, delta: Delta) -> str:
        """JSON of the finish reason and, at a completion's end, of the stop reason."""
        if delta.finish_reason is None:
            return "null"
        if delta.usage is not None:
            self._usages.append(delta.usage)
        return f'"{delta.finish_reason}","stop_reason":{json.dumps(delta.stop_reason)}'

    def end(self) -> bytes:
        """Usage, if requested, and the end."""
        if not self._with_usage:
            return DONE
        usage = json.dumps(usage_fields(summed(self._usages)))
        return f'{self._before}],"usage":{usage}}}\n\n'.encode("ascii") + DONE

    def failure(self, problem: Problem) -> bytes:
        """The error, and the end."""
        return f"data: {json.dumps(problem.body)}\n\n".encode("ascii") + DONE
