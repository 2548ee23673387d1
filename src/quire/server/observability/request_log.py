"""The record of one HTTP request, for the log and for a trace.

The outermost ASGI middleware begins the record, others fill it in, and at the request's end it
becomes one line of the log.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire.server.call import ANONYMOUS, CALLER
from quire.server.observability.log import EventLog, Level

_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request; `details` describe its generation."""

    request_id: str
    began: float = field(default_factory=time.monotonic)
    status: int = 0
    details: dict[str, Any] = field(default_factory=dict[str, Any])


CURRENT: ContextVar[RequestRecord | None] = ContextVar("quire_record", default=None)


class RequestLogMiddleware:
    """ASGI middleware: gives each request an id and a record, and logs the record at its end.

    The id is the client's `x-request-id`, or a new one, and is sent back. Probes are not logged,
    since the lifecycle's own events say the same.
    """

    def __init__(self, app: ASGIApp, log: EventLog | None) -> None:
        self._app, self._log = app, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = RequestRecord(_request_id(scope))
        token = CURRENT.set(record)
        header = (b"x-request-id", record.request_id.encode())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            CURRENT.reset(token)
            self._write(scope, record)

    def _write(self, scope: Scope, record: RequestRecord) -> None:
        path: str = scope["path"]
        if self._log is None or (path in _QUIET and record.status in (200, 503)):
            return
        failed = record.status >= 500 and record.status != 503
        level: Level = "error" if failed else "info"
        self._log.event(
            "request",
            level,
            id=record.request_id,
            method=scope["method"],
            path=path,
            status=record.status or 499,
            seconds=time.monotonic() - record.began,
            client=scope["client"][0] if scope.get("client") else None,
            caller=scope.get(CALLER, ANONYMOUS).name,
            **record.details,
        )


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return value.decode()
    return secrets.token_hex(12)
