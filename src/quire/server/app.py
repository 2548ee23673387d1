"""The FastAPI application: all routers, and the handlers that turn errors into bodies."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

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
    app = FastAPI(title="quire", version=__version__, lifespan=lifespan, redirect_slashes=False)
    app.state.service = service
    for routes in (*(make() for make in ROUTERS), *routers, _state_routes()):
        app.include_router(routes)
    for layer in reversed(middleware):
        app.add_middleware(layer)  # type: ignore[arg-type]
    _handle_errors(app)
    _complete_page(app)
    return app


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
        return json_answer(problem_body(request.url.path, problem), problem.status, problem.headers)

    async def disconnected(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nginx's status for it, seen by middleware alone

    for kind in (QuireError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(ClientDisconnected, disconnected)


def _problem(error: Exception) -> Problem:
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
        return Problem(error.status_code, str(error.detail), code=code)
    if isinstance(error, RequestValidationError):
        fault = error.errors()[0]
        where = ".".join(str(item) for item in fault["loc"][1:])
        return Problem(400, f"{where or 'The body'}: {fault['msg']}.", param=where or None)
    return problem_of(error)


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
