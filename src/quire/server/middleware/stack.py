"""What stands around all routes, the outermost first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.admission import Admission
from quire.server.app import Middleware, problem_body
from quire.server.arguments import ServerArguments
from quire.server.errors import ErrorForm, ServerError, openai_form, problem_of, refuse
from quire.server.middleware.keys import KeyRing, KeysMiddleware
from quire.server.middleware.limits import LimitsMiddleware
from quire.server.observability.log import EventLog
from quire.server.observability.request_log import RequestLogMiddleware

_ALLOWED_HEADERS = ("authorization", "content-type", "x-api-key", "x-request-id", "traceparent")


def middleware_stack(
    arguments: ServerArguments,
    ring: KeyRing | None,
    gate: Admission,
    log: EventLog | None,
    *,
    traced: bool = False,
) -> Sequence[Middleware]:
    """The log, CORS, keys, the gate's early word, limits; each is pure ASGI."""
    middleware: list[Middleware] = [partial(RequestLogMiddleware, log=log)]
    if traced:
        from quire.server.observability.tracing import TracingMiddleware

        middleware.append(TracingMiddleware)
    if arguments.cors_origins:
        middleware.append(
            partial(
                CORSMiddleware,
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
        partial(AdmissionMiddleware, gate=gate, form=problem_body),
        partial(LimitsMiddleware, arguments=arguments, form=problem_body),
    ]


_QUICK = ("/v1/adapters", "/v1/messages/count_tokens")


class AdmissionMiddleware:
    """Asks the gate at once for what makes an engine work: all that is posted below /v1."""

    def __init__(self, app: ASGIApp, gate: Admission, *, form: ErrorForm = openai_form) -> None:
        self._app, self._gate, self._form = app, gate, form

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and _works(scope["path"]):
            try:
                self._gate.check()
            except ServerError as error:
                await refuse(scope, send, problem_of(error), self._form)
                return
        await self._app(scope, receive, send)


def _works(path: str) -> bool:
    return path.startswith("/v1/") and not path.startswith(_QUICK)
