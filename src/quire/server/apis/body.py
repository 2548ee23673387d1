"""From a request's bytes to a checked body; what is wrong is told by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

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
"""Decorates a part of a body, which is a typed dictionary: read as strictly as the body."""


class Body(BaseModel):
    """A request's body. Types are taken as they are, and null is "not given"."""

    model_config = _STRICT | ConfigDict(frozen=True)

    refused: ClassVar[Mapping[str, str]] = {}
    """Fields that others know, and why this server does not take them."""


AnyBody = TypeVar("AnyBody", bound=Body)


async def read_body(request: Request, kind: type[AnyBody]) -> AnyBody:
    """Read and check the body.

    Raises:
        BadRequest: it is no JSON, or not of this form.
    """
    content = await request.body()
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise refusal(error, kind) from None


def refusal(error: ValidationError, kind: type[Body]) -> BadRequest:
    """The first fault of a body, in our words; an unknown field counts before the others."""
    faults = error.errors(include_url=False, include_context=True)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    fault: Mapping[str, Any] = (unknown or faults)[0]
    path, context = _path(fault["loc"]), fault.get("ctx", {})
    param = path or None
    if fault["type"] == "json_invalid":
        return BadRequest(f"The body is no valid JSON: {context['error']}.", code="json")
    if fault["type"] == "extra_forbidden":
        return BadRequest(_unknown(path, kind), param=param, code="unknown_parameter")
    if fault["type"] == "missing":
        return BadRequest(f"{path} is required.", param=param, code="missing_parameter")
    if fault["type"] == "value_error":
        return BadRequest(sentence(str(context["error"])), param=param)
    text = fault["msg"][:1].lower() + fault["msg"][1:]
    if fault["type"].startswith("unknown_"):  # a union's member: `unions.tagged`
        text += _unknown_kind(fault["input"], fault["type"].removeprefix("unknown_"))
    return BadRequest(sentence(f"{path or 'The body'}: {text}"), param=param)


def _path(loc: Sequence[int | str]) -> str:
    """`messages[0].content`, without the names that tell the members of a union apart."""
    path = ""
    for item in loc:
        if isinstance(item, int):
            path += f"[{item}]"
        elif item.isidentifier() and not item[0].isupper():
            path += f".{item}" if path else item
    return path


def _unknown_kind(value: object, key: str) -> str:
    """What stands at the key that was looked at."""
    found = value.get(key) if isinstance(value, Mapping) else value
    return f"; not {found[:80]!r}" if isinstance(found, str) else ""


def _unknown(path: str, kind: type[Body]) -> str:
    if path in kind.refused:
        return sentence(kind.refused[path])
    known = list(kind.model_fields) if path.isidentifier() else []
    return sentence(f"Unknown parameter {path!r}{nearest(path, known)}")


def json_answer(
    content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A whole answer."""
    return Response(to_json(content), status, dict(headers or {}), "application/json")


# --- known fields that are not honoured ------------------------------------------------------------


def only(*fine: Any, because: str) -> BeforeValidator:
    """Lets `fine` values and null pass, and refuses all others with a reason."""

    def check(value: Any) -> Any:
        if value is not None and not any(value is one or value == one for one in fine):
            raise ValueError(because)
        return value

    return BeforeValidator(check)


def kinds(*fine: str, because: str) -> BeforeValidator:
    """Refuses objects of another `type`, before anything else about them is looked at."""

    def check(value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if isinstance(kind, str) and kind not in fine:
            raise ValueError(f"The type {kind[:80]!r} is not supported: {because}")
        return value

    return BeforeValidator(check)


# --- unions ----------------------------------------------------------------------------------------


def tagged(by_kind: Mapping[str, str], key: str, what: str) -> Discriminator:
    """Chooses the member of a union by the value at `key`; tags begin with a capital letter."""

    def choose(value: Any) -> str | None:
        kind = value.get(key) if isinstance(value, dict) else None
        return by_kind.get(kind) if isinstance(kind, str) else None

    known = ", ".join(by_kind)
    return Discriminator(choose, f"unknown_{key}", f"{what}; known are {known}")


def by_type(tags: Mapping[type, str], name: str, what: str) -> Discriminator:
    """Chooses the member of a union by the Python type of the value; see `tagged`."""
    return Discriminator(lambda value: tags.get(type(value)), name, what)
