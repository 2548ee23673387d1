"""What stands around all routes, the outermost first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.middleware.cors import CORSMiddleware

from quire.server.admission import Admission, EarlyRefusal
from quire.server.app import Middleware, problem_body
from quire.server.arguments import ServerArguments
from quire.server.middleware.keys import KeyRing, Keys
from quire.server.middleware.limits import Limits
from quire.server.observability.log import EventLog
from quire.server.observability.request_log import RequestLog

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
    middleware: list[Middleware] = [partial(RequestLog, log=log)]
    if traced:
        from quire.server.observability.tracing import Tracing

        middleware.append(Tracing)
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
    return [
        *middleware,
        partial(Keys, ring=ring, form=problem_body),
        partial(EarlyRefusal, gate=gate, form=problem_body),
        partial(Limits, arguments=arguments, form=problem_body),
    ]
