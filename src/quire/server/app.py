"""The FastAPI application: all routers, and the handlers that turn errors into bodies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from quire import __version__
from quire.errors import QuireError
from quire.server import page
from quire.server.apis import adapters, tokens
from quire.server.apis.anthropic import router as anthropic
from quire.server.apis.anthropic.writer import error_body
from quire.server.apis.body import json_answer
from quire.server.apis.openai import chat, completions, embeddings, models, scores
from quire.server.apis.openai.responses import router as responses
from quire.server.apis.openai.schema import State
from quire.server.apis.openapi import complete_page
from quire.server.errors import Problem, problem_of
from quire.server.service import Service, service_of
from quire.server.streams import ClientDisconnected

logger = logging.getLogger("quire")

ErrorForm: TypeAlias = Callable[[Problem], Mapping[str, Any]]

ROUTERS: tuple[Callable[[], APIRouter], ...] = (
    chat.router,
    completions.router,
    models.router,
    responses.router,
    anthropic.router,
    embeddings.router,
    scores.router,
    tokens.router,
    adapters.router,
    page.router,
)
"""The routers of all APIs and of the chat page."""

ERROR_FORMS: dict[str, ErrorForm] = {anthropic.PATH: error_body}
"""Error bodies of APIs other than OpenAI's, by path prefix."""

Middleware: TypeAlias = Callable[[ASGIApp], ASGIApp]


def make_app(
    service: Service,
    *,
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
    lifespan: Any = None,
) -> FastAPI:
    """Make the application that serves a service.

    Args:
        service: answers the requests; its engine may be attached later.
        routers: routers in addition to `ROUTERS`.
        middleware: ASGI middleware around all routes, the outermost first.
        lifespan: Starlette's lifespan handler.
    """
    app = FastAPI(
        title="quire",
        version=__version__,
        lifespan=lifespan,
        redirect_slashes=False,
        # FastAPI's pages would run scripts of a CDN on the chat page's origin, beside its keys.
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    for routes in (*(make() for make in ROUTERS), *routers, _state_routes()):
        app.include_router(routes)
    for layer in (HeadMiddleware, *reversed(middleware)):
        app.add_middleware(layer)  # type: ignore[arg-type]
    _handle_errors(app)
    _complete_page(app)
    return app


class HeadMiddleware:
    """ASGI middleware: answers HEAD as GET, without the body; FastAPI's routes do not of themselves."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if "body" in message else message)

        await self._app({**scope, "method": "GET"}, receive, send_head)


def _state_routes() -> APIRouter:
    routes = APIRouter(tags=["state"])

    @routes.get("/health", response_model=State)
    async def health() -> Response:
        """Whether the server is alive."""
        return json_answer({"status": "alive"})

    @routes.get("/ready", response_model=State)
    async def ready(request: Request) -> Response:
        """Whether requests can be served."""
        service = service_of(request)
        service.admission.check_open()
        await service.engine.health()
        return json_answer({"status": "ready"})

    return routes


def _handle_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        problem = _problem(error)
        if problem.status == 500 and not isinstance(error, QuireError):
            logger.error("Internal error at %s.", request.url.path, exc_info=error)
        headers = problem.headers
        if problem.status == 405:
            # Of a route's own refusal, which is for all methods, the list is empty.
            headers["allow"] = _allowed(request) if isinstance(error, HTTPException) else ""
        return json_answer(problem_body(request.url.path, problem), problem.status, headers)

    async def disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's status for it, seen by middleware alone

    for kind in (QuireError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(ClientDisconnected, disconnected)


_ROUTING_ERRORS = {
    404: ("not_found", "There is nothing at this path: /openapi.json lists those that there are."),
    405: ("method_not_allowed", "This path has other methods: the header Allow lists them."),
}


def _problem(error: Exception) -> Problem:
    if isinstance(error, HTTPException):
        code, text = _ROUTING_ERRORS.get(error.status_code, (None, ""))
        own = error.detail != HTTPStatus(error.status_code).phrase  # a route's, not the router's
        return Problem(error.status_code, error.detail if own else text or error.detail, code=code)
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        where = ".".join(str(item) for item in fault["loc"][1:])
        return Problem(400, f"{where or 'The body'}: {fault['msg']}.", param=where or None)
    return problem_of(error)


def _allowed(request: Request) -> str:
    """The methods of all routes with the request's path."""
    routes = [one for one in request.app.routes if one.matches(request.scope)[0] != Match.NONE]
    methods = {method for one in routes for method in getattr(one, "methods", None) or ()}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


def problem_body(path: str, problem: Problem) -> Mapping[str, Any]:
    """The error body of a problem, in the form of the path's API."""
    for prefix, form in ERROR_FORMS.items():
        if path.startswith(prefix):
            return form(problem)
    return problem.body


def _complete_page(app: FastAPI) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete_page(make())
        return app.openapi_schema

    app.openapi = openapi
