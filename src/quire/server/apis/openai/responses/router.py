"""/v1/responses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import TokenLogprob
from quire.server.apis.body import in_thread_if_large, json_answer, read_body
from quire.server.apis.ids import NEW_IDS, AnswerIds
from quire.server.apis.openai.responses.request import (
    echo,
    functions,
    responses_call,
    wants_logprobs,
)
from quire.server.apis.openai.responses.schema import ResponseObject, ResponsesRequest
from quire.server.apis.openai.responses.writer import ResponseWriter
from quire.server.apis.openapi import documented
from quire.server.call import Call, Caller, caller_of
from quire.server.service import Service, service_of
from quire.server.sse import EventStream
from quire.server.streams import CancelOnDisconnect, take_all


def router() -> APIRouter:
    """The routes of this module."""
    routes = APIRouter(tags=["responses"])

    @routes.post("/v1/responses", **documented(ResponsesRequest, ResponseObject, streams=True))
    async def create_response(request: Request) -> Response:
        """Answer a conversation, whole or as a stream of server-sent events; nothing is stored."""
        service = service_of(request)
        body = await read_body(request, ResponsesRequest)
        service.models.resolve(body.model)  # before a long conversation is gone through
        call = await in_thread_if_large(request, partial(responses_call, body))
        caller = caller_of(request)
        if not body.stream:
            async with CancelOnDisconnect(request.receive):
                return json_answer(await answer_response(service, body, call, caller))
        writer = await _writer(service, body)
        deltas = service.stream(call, caller)
        return EventStream(deltas, writer, keep_alive=service.arguments.keep_alive)

    return routes


async def answer_response(
    service: Service,
    body: ResponsesRequest,
    call: Call,
    caller: Caller,
    ids: AnswerIds = NEW_IDS,
) -> dict[str, Any]:
    """The whole response; raises what `Service.stream` does.

    Args:
        call: what `responses_call` makes of the body.
    """
    writer = await _writer(service, body, ids)
    await take_all(service.stream(call, caller), writer.events)
    return writer.response


async def _writer(
    service: Service, body: ResponsesRequest, ids: AnswerIds = NEW_IDS
) -> ResponseWriter:
    texts = await service.token_texts() if wants_logprobs(body) else None

    def describe(logprobs: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
        assert texts is not None
        return json.loads(texts.listed(logprobs))

    return ResponseWriter(
        echo(body, body.model or service.models.name),
        describe=describe if texts else None,
        namespaces={name: space for name, (space, _) in functions(body).items() if space},
        ids=ids,
    )
