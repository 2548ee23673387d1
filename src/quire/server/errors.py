"""Errors as HTTP statuses and as OpenAI's error body."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

from starlette.types import Scope, Send

from quire.errors import (
    AdapterError,
    ConfigError,
    EngineBusyError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    EngineStartError,
    ModelError,
    OutOfMemoryError,
    PromptTooLongError,
    QuireError,
    RequestError,
    RequestTimeoutError,
    UnknownAdapterError,
)


class ServerError(QuireError):
    """An error of the server itself, with its HTTP status.

    `param` is the wrong field of the request, `retry_after` the seconds to wait. `details` are for
    programs; Anthropic's form has them.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.param, self.retry_after, self.details = param, retry_after, details
        self.code = code or type(self).code


class BadRequest(ServerError):
    """The request's body is wrong."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(ServerError):
    """No API key, or an unknown one."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(ServerError):
    """The key does not allow this."""

    status = 403
    type = "permission_error"


class ModelNotServed(ServerError):
    """No model and no adapter of this name is served."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class NotAllowed(ServerError):
    """The served model cannot do this."""

    status = 405
    type = "invalid_request_error"
    code = "not_supported"


class NotFound(ServerError):
    """The caller has no file or batch of this id."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class Conflict(ServerError):
    """The file or batch is in a state in which this cannot be done."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class TooManyStored(ServerError):
    """The caller has as many files or batches as a key may have."""

    status = 429
    type = "rate_limit_error"
    code = "quota_exceeded"


class StorageFailed(ServerError):
    """The server's disk is full, or fails."""

    status = 507
    type = "server_error"
    code = "storage_failed"


class TooLarge(ServerError):
    """The body is larger than the server takes."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class Overloaded(ServerError):
    """The queue is full; `retry_after` says when to try again."""

    status = 429
    type = "rate_limit_error"
    code = "overloaded"


class NotReady(ServerError):
    """The server is loading, draining, or without an engine."""

    status = 503
    type = "server_error"
    code = "not_ready"


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as clients see it, in no API's form yet."""

    status: int
    message: str
    type: str = "invalid_request_error"
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    details: Mapping[str, Any] | None = None

    @property
    def body(self) -> dict[str, Any]:
        """OpenAI's form."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        if self.retry_after is None:
            return {}
        return {"retry-after": str(max(1, math.ceil(self.retry_after)))}


_SERVER = "server_error"
_REQUEST = "invalid_request_error"
# The first matching class counts: (class, status, type, code, seconds to wait).
_KINDS: tuple[tuple[type[BaseException], int, str, str | None, float | None], ...] = (
    (UnknownAdapterError, 404, _REQUEST, "model_not_found", None),
    (PromptTooLongError, 400, _REQUEST, "context_length_exceeded", None),
    (RequestError, 400, _REQUEST, None, None),
    (AdapterError, 400, _REQUEST, "adapter_refused", None),
    (OutOfMemoryError, 400, _REQUEST, "context_length_exceeded", None),
    (RequestTimeoutError, 408, "timeout_error", "timeout", None),
    (EngineDeadError, 503, _SERVER, "engine_dead", 5.0),
    (EngineClosedError, 503, _SERVER, "engine_closed", 5.0),
    (EngineStartError, 503, _SERVER, "engine_failed", 5.0),
    (EngineBusyError, 503, _SERVER, "engine_busy", 2.0),
    (EngineError, 500, _SERVER, "engine_error", None),
    (ConfigError, 400, _REQUEST, None, None),
    (ModelError, 500, _SERVER, "model_error", None),
)


# These errors name paths, processes and causes, which belong in the server's log alone.
_HIDDEN = {
    "engine_dead": "The engine has died and is started again where it can be: try again soon.",
    "engine_failed": "The engine did not start: try again later.",
    "model_error": "The server's model cannot be used.",
}


_LONGEST = 2000
"""Characters of an error's text and of its `param`: a client's own words in them have any length."""


def problem_of(error: BaseException) -> Problem:
    """An error as a client sees it; an internal error is not described."""
    if isinstance(error, ServerError):
        param = None if error.param is None else error.param[:_LONGEST]
        return Problem(
            error.status,
            _cut(str(error)),
            error.type,
            param,
            error.code,
            error.retry_after,
            error.details,
        )
    for kind, status, type_, code, retry_after in _KINDS:
        if isinstance(error, kind):
            param = "model" if code == "model_not_found" else None
            text = _HIDDEN.get(code or "", _cut(str(error)))
            return Problem(status, text, type_, param, code, retry_after)
    return Problem(500, "The server failed at this request.", _SERVER, None, "internal_error")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


# --- sent by middleware, before any route ----------------------------------------------------------


ErrorForm: TypeAlias = Callable[[str, Problem], Mapping[str, Any]]
"""Makes the error body for a path."""


def openai_form(path: str, problem: Problem) -> Mapping[str, Any]:
    """OpenAI's form, whatever the path."""
    return problem.body


async def refuse(scope: Scope, send: Send, problem: Problem, form: ErrorForm) -> None:
    """Answer a request with a problem."""
    body = json.dumps(form(scope["path"], problem)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **problem.headers,
    }
    if problem.status == 401:
        headers["www-authenticate"] = "Bearer"
    await send(
        {
            "type": "http.response.start",
            "status": problem.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})
