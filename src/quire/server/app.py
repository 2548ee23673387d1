"""The application: routers, errors in one form, and nothing between a token and its socket."""

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
"""Every API's routes, and the chat page's; a module of routes has a `router` and stands here."""

ERROR_FORMS: dict[str, ErrorForm] = {anthropic.PATH: error_body}
"""The error bodies of APIs that are not OpenAI's, by the beginning of their paths."""

Middleware: TypeAlias = Callable[[ASGIApp], ASGIApp]


def make_app(
    service: Service,
    *,
    routers: Sequence[APIRouter] = (),
    middleware: Sequence[Middleware] = (),
    lifespan: Any = None,
) -> FastAPI:
    """The application over a service.

    Args:
        service: what answers; it may get its engine later.
        routers: routes beside those of `ROUTERS`.
        middleware: ASGI middleware around all routes, the outermost first.
        lifespan: what runs around the server's life, as Starlette takes it.
    """
    app = FastAPI(title="quire", version=__version__, lifespan=lifespan, redirect_slashes=False)
    app.state.service = service
    for routes in (*(make() for make in ROUTERS), *routers, _state_routes()):
        app.include_router(routes)
    for guard in reversed(middleware):
        app.add_middleware(guard)  # type: ignore[arg-type]
    _handle_errors(app)
    _complete_page(app)
    return app


def _state_routes() -> APIRouter:
    routes = APIRouter(tags=["state"])

    @routes.get("/health", response_model=State)
    async def health() -> Response:
        """Whether the server lives."""
        return json_answer({"status": "alive"})

    @routes.get("/ready", response_model=State)
    async def ready(request: Request) -> Response:
        """Whether requests can be served."""
        service = service_of(request)
        service.gate.check_open()
        await service.engine.health()
        return json_answer({"status": "ready"})

    return routes


def _handle_errors(app: FastAPI) -> None:
    async def refuse(request: Request, error: Exception) -> Response:
        problem = _problem(error)
        if problem.status == 500 and not isinstance(error, QuireError):
            logger.error("A fault at %s.", request.url.path, exc_info=error)
        return json_answer(problem_body(request.url.path, problem), problem.status, problem.headers)

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)

    for kind in (QuireError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, refuse)
    app.add_exception_handler(ClientDisconnected, gone)


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
    """What tells of a problem at a path, in the form of the path's API."""
    for start, form in ERROR_FORMS.items():
        if path.startswith(start):
            return form(problem)
    return problem.body


def _complete_page(app: FastAPI) -> None:
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = complete_page(make())
        return app.openapi_schema

    app.openapi = openapi
