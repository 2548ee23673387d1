"""/v1/responses."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from quire.outputs import TokenLogprob
from quire.server.apis.body import in_thread_if_large, json_answer, read_body
from quire.server.apis.openai.responses.request import (
    echo,
    functions,
    responses_call,
    wants_logprobs,
)
from quire.server.apis.openai.responses.schema import ResponseObject, ResponsesRequest
from quire.server.apis.openai.responses.writer import ResponseWriter
from quire.server.apis.openapi import documented
from quire.server.call import caller_of
from quire.server.service import Service, service_of
from quire.server.sse import EventStream
from quire.server.streams import read_whole


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
        writer = await _writer(service, body)
        deltas = service.stream(call, caller_of(request))
        if body.stream:
            return EventStream(deltas, writer, keep_alive=service.arguments.keep_alive)
        await read_whole(request, deltas, writer.events)
        return json_answer(writer.response)

    return routes


async def _writer(service: Service, body: ResponsesRequest) -> ResponseWriter:
    texts = await service.token_texts() if wants_logprobs(body) else None

    def describe(logprobs: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
        assert texts is not None
        return json.loads(texts.listed(logprobs))

    return ResponseWriter(
        echo(body, body.model or service.models.name),
        describe=describe if texts else None,
        namespaces={name: space for name, (space, _) in functions(body).items() if space},
    )
