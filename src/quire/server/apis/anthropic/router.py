"""/v1/messages and /v1/messages/count_tokens."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from quire.options import Strings
from quire.server.apis.anthropic.request import messages_call, prompt_call
from quire.server.apis.anthropic.schema import (
    AnthropicErrorBody,
    AnthropicMessage,
    CountTokensRequest,
    MessagesRequest,
    TokenCount,
)
from quire.server.apis.anthropic.writer import MessageWriter
from quire.server.apis.body import in_thread_if_large, json_answer, read_body
from quire.server.apis.openapi import documented
from quire.server.call import caller_of
from quire.server.service import service_of
from quire.server.sse import EventStream
from quire.server.streams import CancelOnDisconnect, take_all

PATH = "/v1/messages"


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["anthropic"])

    @routes.post(
        PATH,
        **documented(MessagesRequest, AnthropicMessage, streams=True, error=AnthropicErrorBody),
    )
    async def create_message(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events."""
        service = service_of(request)
        body = await read_body(request, MessagesRequest)
        service.models.resolve(body.model)  # before a long conversation is gone through
        call = await in_thread_if_large(request, partial(messages_call, body))
        writer = MessageWriter(
            body.model,
            stop_sequences=Strings().read("stop_sequences", call.options.get("stop") or ()),
            omit_thoughts=(body.thinking or {}).get("display") == "omitted",
        )
        deltas = service.stream(call, caller_of(request))
        if call.streamed:
            return EventStream(deltas, writer, keep_alive=service.arguments.keep_alive)
        async with CancelOnDisconnect(request.receive):
            await take_all(deltas, writer.events)
        return json_answer(writer.message)

    @routes.post(
        f"{PATH}/count_tokens",
        **documented(CountTokensRequest, TokenCount, error=AnthropicErrorBody),
    )
    async def count_tokens(request: Request) -> Response:
        """Count the tokens of a prompt, without an answer."""
        service = service_of(request)
        body = await read_body(request, CountTokensRequest)
        service.models.resolve(body.model)
        call = await in_thread_if_large(request, partial(prompt_call, body))
        async with CancelOnDisconnect(request.receive):
            prompt = await service.prompt(call)
        return json_answer({"input_tokens": len(prompt)})

    return routes
