"""The server's middleware, the outermost first, and early admission."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.admission import Admission
from quire.server.app import Middleware, problem_body
from quire.server.arguments import ServerArguments
from quire.server.errors import ErrorForm, ServerError, openai_form, problem_of, refuse
from quire.server.middleware.keys import KeyRing, KeysMiddleware
from quire.server.middleware.limits import LimitsMiddleware
from quire.server.observability.log import EventLog
from quire.server.observability.request_log import RequestLogMiddleware

_ALLOWED_HEADERS = (
    *("authorization", "content-type", "user-agent"),
    *("x-api-key", "x-request-id", "traceparent"),
)
_CLIENT_HEADER = re.compile(r"(?:x-stainless|anthropic|openai)-[a-z0-9-]{1,64}")
"""The headers that OpenAI's and Anthropic's clients for browsers send beside those."""
_REQUESTED = "access-control-request-headers"


def middleware_stack(
    arguments: ServerArguments,
    ring: KeyRing | None,
    admission: Admission,
    log: EventLog | None,
    *,
    traced: bool = False,
) -> Sequence[Middleware]:
    """Log, traces, CORS, keys, early admission, limits; each is pure ASGI."""
    middleware: list[Middleware] = [partial(RequestLogMiddleware, log=log)]
    if traced:
        from quire.server.observability.tracing import TracingMiddleware

        middleware.append(TracingMiddleware)
    if arguments.cors_origins:
        middleware.append(
            partial(
                ClientCorsMiddleware,
                allow_origins=list(arguments.cors_origins),
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=list(_ALLOWED_HEADERS),
                expose_headers=["x-request-id", "retry-after"],
                max_age=600,
            )
        )
    if ring is not None:
        middleware.append(partial(KeysMiddleware, ring=ring, form=problem_body))
    return [
        *middleware,
        partial(AdmissionMiddleware, admission=admission, form=problem_body),
        partial(LimitsMiddleware, arguments=arguments, form=problem_body),
    ]


class ClientCorsMiddleware(CORSMiddleware):
    """CORS with the headers of OpenAI's and Anthropic's clients, which Starlette has no pattern for."""

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a preflight."""
        names = {name.strip().lower() for name in request_headers.get(_REQUESTED, "").split(",")}
        clients = {name for name in names if _CLIENT_HEADER.fullmatch(name)}
        if not clients:
            return super().preflight_response(request_headers)
        others = {name: value for name, value in request_headers.items() if name != _REQUESTED}
        if names > clients:
            others[_REQUESTED] = ", ".join(names - clients)
        response = super().preflight_response(Headers(others))
        allowed = response.headers["access-control-allow-headers"]
        response.headers["access-control-allow-headers"] = ", ".join([allowed, *sorted(clients)])
        return response


_WITHOUT_ADMISSION = ("/v1/adapters", "/v1/messages/count_tokens", "/v1/files", "/v1/batches")


class AdmissionMiddleware:
    """Refuses requests for the engine before their bodies are read, if the queue is full."""

    def __init__(
        self, app: ASGIApp, admission: Admission, *, form: ErrorForm = openai_form
    ) -> None:
        self._app, self._admission, self._form = app, admission, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _is_queued(scope["path"]):
            try:
                self._admission.check()
            except ServerError as error:
                await refuse(scope, send, problem_of(error), self._form)
                return
        await self._app(scope, receive, send)


def _is_queued(path: str) -> bool:
    return path.startswith("/v1/") and not path.startswith(_WITHOUT_ADMISSION)
