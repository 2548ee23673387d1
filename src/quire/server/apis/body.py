"""Request bodies: strict models, and errors that name the wrong field."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    ValidationError,
    with_config,
)
from pydantic_core import to_json

from quire.errors import nearest, sentence
from quire.server.errors import BadRequest

_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
strict = with_config(_STRICT)
"""Decorates the typed dictionary of a body's part, which is then checked as strictly as the body."""


class Body(BaseModel):
    """A request's body. Types are not coerced, and null means "not given"."""

    model_config = _STRICT | ConfigDict(frozen=True)


# The parser's two errors for one: it says the first where no second escape follows.
_LONE_SURROGATE = re.compile("unexpected end of hex escape|lone leading surrogate in hex escape")

AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(request: Request, kind: type[AnyBody]) -> AnyBody:
    """Read and check the body.

    Raises:
        BadRequest: the body is no JSON, or does not fit the model.
    """
    content = (await request.body()).removeprefix(BOM_UTF8)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise refusal(error, kind) from None


def refusal(error: ValidationError, kind: type[Body]) -> BadRequest:
    """The first error of a body in quire's words; unknown fields come before all others."""
    errors = error.errors(include_url=False, include_context=True)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"]
    first: Mapping[str, Any] = (unknown or errors)[0]
    path, context = _path(first["loc"]), first.get("ctx", {})
    param = path or None
    if first["type"] == "json_invalid":
        reason = _LONE_SURROGATE.sub("half of a surrogate pair in a hex escape", context["error"])
        return BadRequest(f"The body is no valid JSON: {reason}.", code="json")
    if first["type"] == "extra_forbidden":
        return BadRequest(_unknown(path, kind), param=param, code="unknown_parameter")
    if first["type"] == "missing":
        return BadRequest(f"{path} is required.", param=param, code="missing_parameter")
    if first["type"] == "value_error":
        return BadRequest(sentence(str(context["error"])), param=param)
    text = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"].startswith("unknown_"):  # no member of a union fits: see `tagged`
        text += _unknown_kind(first["input"], first["type"].removeprefix("unknown_"))
    return BadRequest(sentence(f"{path or 'The body'}: {text}"), param=param)


def _path(loc: Sequence[int | str]) -> str:
    """`messages[0].content`, without the tags of union members."""
    path = ""
    for item in loc:
        if isinstance(item, int):
            path += f"[{item}]"
        elif item.isidentifier() and not item[0].isupper():
            path += f".{item}" if path else item
    return path


def _unknown_kind(value: object, key: str) -> str:
    """The value of the discriminating key, for an error text."""
    kind = value.get(key) if isinstance(value, Mapping) else value
    return f"; not {kind[:80]!r}" if isinstance(kind, str) else ""


def _unknown(path: str, kind: type[Body]) -> str:
    known = list(kind.model_fields) if path.isidentifier() else []
    return sentence(f"Unknown parameter {path!r}{nearest(path, known)}")


def json_answer(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A response of JSON."""
    return Response(to_json(content), status, dict(headers or {}), "application/json")


# --- known fields that are not supported -----------------------------------------------------------


def only(*allowed: Any, because: str) -> BeforeValidator:
    """Allows these values and null, and refuses all others with a reason."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or value == one for one in allowed):
            raise ValueError(because)
        return value

    return BeforeValidator(check)


def kinds(*allowed: str, because: str) -> BeforeValidator:
    """Refuses objects of another `type` before their other fields are checked."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in allowed:
            raise ValueError(f"The type {kind[:80]!r} is not supported: {because}")
        return value

    return BeforeValidator(check)


# --- unions ----------------------------------------------------------------------------------------


def tagged(tags: Mapping[str, str], key: str, what: str) -> Discriminator:
    """Chooses a union's member by the value of `key`; tags begin with a capital letter."""

    def choose(value: Any) -> str | None:
        kind = value.get(key) if isinstance(value, dict) else None
        return tags.get(kind) if isinstance(kind, str) else None

    known = ", ".join(tags)
    return Discriminator(choose, f"unknown_{key}", f"{what}; known are {known}")


def by_type(tags: Mapping[type, str], name: str, what: str) -> Discriminator:
    """Chooses a union's member by the Python type of the value; see `tagged`."""
    return Discriminator(lambda value: tags.get(type(value)), name, what)
