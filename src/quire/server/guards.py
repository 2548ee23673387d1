"""What stands around all routes, the outermost first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from starlette.middleware.cors import CORSMiddleware

from quire.server.app import Guard, problem_body
from quire.server.arguments import ServerArguments
from quire.server.early import Early
from quire.server.keys import KeyRing, Keys
from quire.server.limits import Limits
from quire.server.log import EventLog
from quire.server.records import Records
from quire.server.service import Gate

_ALLOWED_HEADERS = ("authorization", "content-type", "x-api-key", "x-request-id", "traceparent")


def guards_of(
    arguments: ServerArguments,
    ring: KeyRing | None,
    gate: Gate,
    log: EventLog | None,
    *,
    traced: bool = False,
) -> Sequence[Guard]:
    """The log, CORS, keys, the gate's early word, limits; each is pure ASGI."""
    guards: list[Guard] = [partial(Records, log=log)]
    if traced:
        from quire.server.tracing import Tracing

        guards.append(Tracing)
    if arguments.cors_origins:
        guards.append(
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
        *guards,
        partial(Keys, ring=ring, form=problem_body),
        partial(Early, gate=gate, form=problem_body),
        partial(Limits, arguments=arguments, form=problem_body),
    ]
