"""The OpenAPI page's entries for routes that read their bodies themselves."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

from pydantic import BaseModel

from quire.server.apis.body import Body

_ERRORS: dict[int, str] = {
    400: "The request is wrong; the message says what.",
    401: "No API key, or an unknown one.",
    403: "The key does not allow this.",
    404: "No such model or adapter.",
    405: "The served model cannot do this.",
    413: "The body is too large.",
    429: "Overloaded: try again after `Retry-After`.",
    500: "The engine failed at this request.",
    503: "Loading, draining, or without an engine.",
    408: "The request's time limit passed.",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


def documented(
    body: type[Body] | None,
    answer: type[BaseModel],
    *,
    streams: bool = False,
    error: type[BaseModel] = ErrorBody,
) -> dict[str, Any]:
    """The keyword arguments of a route's decorator: its body, its answer and its errors."""
    content: dict[str, Any] = {}
    if streams:
        content["text/event-stream"] = {"schema": {"description": "Server-sent events."}}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": error, "description": text} for status, text in _ERRORS.items()
    }
    responses[200] = {"model": answer, "content": content, "description": "The answer."}
    arguments: dict[str, Any] = {"response_model": None, "responses": responses}
    if body is not None:
        content = {"application/json": {"schema": deepcopy(_schema(body))}}
        arguments["openapi_extra"] = {"requestBody": {"required": True, "content": content}}
    return arguments


@cache
def _schema(body: type[BaseModel]) -> dict[str, Any]:
    """Return a body's schema, kept since it takes a while to make.

    `complete_page` moves its `$defs` to where it refers to them.
    """
    return body.model_json_schema(ref_template="#/components/schemas/{model}")


def complete_page(page: dict[str, Any]) -> dict[str, Any]:
    """Move the `$defs` of the bodies' schemas into the page's components."""
    schemas = page.setdefault("components", {}).setdefault("schemas", {})
    for path in page.get("paths", {}).values():
        for operation in path.values():
            content = operation.get("requestBody", {}).get("content", {})
            for form in content.values():
                schemas.update(form.get("schema", {}).pop("$defs", {}))
    return page
