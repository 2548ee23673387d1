"""Fields of other servers that ask for what this one does not do: only values that ask for nothing pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, WithJsonSchema, create_model

from quire.server.apis.body import Body, only


class Refused(NamedTuple):
    """Why a field is refused, and its values, besides null, that ask for nothing."""

    because: str
    nothing: tuple[Any, ...] = ()


def refused_fields(name: str, fields: Mapping[str, Refused]) -> type[Body]:
    """A body's base class with fields that are refused unless they ask for nothing.

    Clients that write out every field they know send null, or the default of another server.
    """
    return create_model(
        name, __base__=Body, **{field: _field(refused) for field, refused in fields.items()}
    )


def _field(refused: Refused) -> Any:
    schema = {"enum": [None, *refused.nothing]}
    checked = Annotated[
        Any, only(*refused.nothing, because=refused.because), WithJsonSchema(schema)
    ]
    return checked, Field(None, description=refused.because)
