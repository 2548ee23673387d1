"""ASGI middleware: a request that would be refused is refused before its body is read."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from quire.server.errors import ServerError, problem_of
from quire.server.refusal import ErrorForm, openai_form, refuse
from quire.server.service import Gate

_QUICK = ("/v1/adapters", "/v1/messages/count_tokens")


class Early:
    """Asks the gate at once for what makes an engine work: all that is posted below /v1."""

    def __init__(self, app: ASGIApp, gate: Gate, *, form: ErrorForm = openai_form) -> None:
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
