"""A refusal that is sent before any route is found, in the form of the API that was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from starlette.types import Scope, Send

from quire.server.errors import Problem

ErrorForm: TypeAlias = Callable[[str, Problem], Mapping[str, Any]]
"""The body that tells of a problem at a path."""


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
