"""Request bodies: strict models, and errors that name the wrong field."""

from __future__ import annotations

import asyncio
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar, cast

from fastapi import Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    ValidationError,
    with_config,
)
from pydantic_core import PydanticKnownError, SchemaValidator, core_schema, to_json

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
T = TypeVar("T")

_ON_LOOP = 128 * 1024  # bytes of a body; reading them takes a millisecond or two


async def read_body(request: Request, kind: type[AnyBody]) -> AnyBody:
    """Read and check the body.

    Raises:
        BadRequest: the body is no JSON, or does not fit the model.
    """
    content = (await request.body()).removeprefix(BOM_UTF8)
    return await in_thread_if_large(request, partial(parse_body, content, kind))


async def in_thread_if_large(request: Request, work: Callable[[], T]) -> T:
    """Do what takes time in proportion to the body; for a large one not on the event loop."""
    if len(await request.body()) <= _ON_LOOP:
        return work()
    return await asyncio.to_thread(work)


def parse_body(content: bytes, kind: type[AnyBody]) -> AnyBody:
    """A body of JSON, checked; raises as `read_body` does."""
    try:
        if len(content) <= _FEW_ERRORS:
            return kind.model_validate_json(content)
        values, _, given = _validator(kind).validate_json(content, context=[])
        return kind.model_construct(given, **values)
    except ValidationError as error:
        raise refusal(error, kind) from None


# --- errors in bounded number --------------------------------------------------------------------

_FEW_ERRORS = 8192  # bytes of a body; it can have errors for some milliseconds
_MAX_UNKNOWN = 16
_SEQUENCES = frozenset({"list", "tuple", "set", "frozenset", "dict"})
_OBJECTS = frozenset({"model-fields", "typed-dict"})
_NO_SCHEMAS = frozenset({"config", "metadata", "serialization"})


@cache
def _validator(kind: type[Body]) -> SchemaValidator:
    """A validator of a body's fields that stops early.

    pydantic's own makes an error for every wrong item and every unknown field: of a body of a
    megabyte half a million, which take seconds and most of a gigabyte, and of which one is shown.
    It gives the fields alone, since a schema with the model in it would be the model's own validator.
    """
    schema = cast("dict[str, Any]", _stopping(kind.__pydantic_core_schema__))
    model = schema["schema"] if schema["type"] == "definitions" else schema
    fields = model["schema"]
    whole = {**schema, "schema": fields} if model is not schema else fields
    return SchemaValidator(cast("core_schema.CoreSchema", whole), model["config"])


def _stopping(node: Any, extra: str | None = None) -> Any:
    """A core schema in which lists end at their first wrong item and unknown fields are counted.

    `extra` is what the model around says of unknown fields.
    """
    if isinstance(node, (list, tuple)):
        items = [_stopping(item, extra) for item in cast("Sequence[Any]", node)]
        return items if isinstance(node, list) else tuple(items)
    if not isinstance(node, dict):
        return node
    schema = cast("dict[str, Any]", node)
    kind = schema.get("type")
    if not isinstance(kind, str):  # a mapping of fields, one of which may be called "type"
        return {name: _stopping(value, extra) for name, value in schema.items()}
    extra = (schema.get("config") or {}).get("extra_fields_behavior", extra)
    stopping = {
        key: value if key in _NO_SCHEMAS else _stopping(value, extra)
        for key, value in schema.items()
    }
    if kind in _SEQUENCES:
        stopping["fail_fast"] = True
    if kind in _OBJECTS and schema.get("extra_behavior", extra) == "forbid":
        unknown = core_schema.with_info_plain_validator_function(_refuse_unknown)
        stopping |= {"extra_behavior": "allow", "extras_schema": unknown}
    return stopping


def _refuse_unknown(value: Any, info: core_schema.ValidationInfo[list[None]]) -> None:
    """Refuse an unknown field; after enough of them the rest is let pass, in a body refused anyway."""
    if len(info.context) < _MAX_UNKNOWN:
        info.context.append(None)
        raise PydanticKnownError("extra_forbidden")


def refusal(error: ValidationError, kind: type[Body]) -> BadRequest:
    """The first error of a body in quire's words; unknown fields come before all others."""
    # Without inputs: each may be the whole body.
    errors = error.errors(include_url=False, include_context=True, include_input=False)
    unknown = [one for one in errors if one["type"] == "extra_forbidden"]
    first = (unknown or errors)[0]
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
    if first["type"] == "too_short":
        least, given = context["min_length"], context["actual_length"]
        return BadRequest(f"{path} needs at least {least} item, not {given}.", param=param)
    text = first["msg"][:1].lower() + first["msg"][1:]
    if first["type"].startswith("unknown_"):  # no member of a union fits: see `tagged`
        value = error.errors(include_url=False)[errors.index(first)]["input"]
        text += _unknown_kind(value, first["type"].removeprefix("unknown_"))
    return BadRequest(sentence(f"{path or 'The body'}: {text}"), param=param)


_LONGEST_NAME = 200  # characters of a name that an error shows


def _path(loc: Sequence[int | str]) -> str:
    """`messages[0].content`, without the tags of union members."""
    path = ""
    for item in loc:
        if isinstance(item, int):
            path += f"[{item}]"
            continue
        item = item[:_LONGEST_NAME]
        if item.isidentifier() and not item[0].isupper():
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


def tagged(
    tags: Mapping[str, str], key: str, what: str, *, default: str | None = None
) -> Discriminator:
    """Chooses a union's member by the value of `key`; tags begin with a capital letter.

    `default` is the value where the key is left out.
    """

    def choose(value: Any) -> str | None:
        kind = value.get(key, default) if isinstance(value, dict) else None
        return tags.get(kind) if isinstance(kind, str) else None

    known = ", ".join(tags)
    return Discriminator(choose, f"unknown_{key}", f"{what}; known are {known}")


def by_type(tags: Mapping[type, str], name: str, what: str) -> Discriminator:
    """Chooses a union's member by the Python type of the value; see `tagged`."""
    return Discriminator(lambda value: tags.get(type(value)), name, what)
