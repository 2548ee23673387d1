"""What the four groups of arguments have in common: checked values, and errors in our own words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Self, TypeAlias, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from quire.errors import ConfigError, UnknownArgumentError, nearest, sentence


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip()) or None
    return value


Whole: TypeAlias = Annotated[int, BeforeValidator(_refuse_boolean)]
Number: TypeAlias = Annotated[float, BeforeValidator(_refuse_boolean)]
Names: TypeAlias = Annotated[tuple[str, ...] | None, BeforeValidator(_split_commas)]
"""Several names: a list, or one string with commas between them."""


class Arguments(BaseModel):
    """A group of arguments: a value that does not change; `replace` makes another.

    `model_fields_set` names those that were given explicitly; None for a setting that needs a value
    means "not given".
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _in_our_words(error, type(self)) from None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {
            key: value
            for key, value in values.items()
            if value is not None or cls._is_optional(key)
        }

    @classmethod
    def _is_optional(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        return field is None or type(None) in get_args(field.annotation)

    def explicit(self) -> dict[str, Any]:
        """Return the values that were given explicitly."""
        return {
            key: getattr(self, key)
            for key in type(self).model_fields
            if key in self.model_fields_set
        }

    def replace(self, **changes: Any) -> Self:
        """Return a checked copy with `changes`; those given explicitly before stay so."""
        return type(self)(**{**self.explicit(), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return all values; secrets are masked."""
        return {key: _masked(key, getattr(self, key)) for key in type(self).model_fields}


def kinds(annotation: Any) -> Iterator[Any]:
    """The types that a field takes: the members of a union but None, without what annotates them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from kinds(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from kinds(part)
    elif annotation is not NoneType:
        yield annotation


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value is never shown."""
    return SecretStr in kinds(field.annotation)


def _masked(key: str, value: Any) -> Any:
    return f"<{key.upper()}>" if isinstance(value, SecretStr) else value


def _in_our_words(error: ValidationError, group: type[Arguments]) -> ConfigError:
    details = error.errors(include_url=False)
    unknown = any(detail["type"] == "extra_forbidden" for detail in details)
    text = "; ".join(dict.fromkeys(_describe(dict(detail), group) for detail in details))
    return (UnknownArgumentError if unknown else ConfigError)(sentence(text))


def _describe(detail: Mapping[str, Any], group: type[Arguments]) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else ""
    kind, context = str(detail["type"]), detail.get("ctx", {})
    if kind == "missing":
        return f"{key} is required"
    if kind == "extra_forbidden":
        return f"Unknown argument {key!r}{nearest(key, group.model_fields)}"
    if kind == "value_error":
        text = str(context["error"])
        return f"{key}: {text}" if key else text
    field = group.model_fields.get(key)
    secret = field is not None and is_secret(field)
    shown = "" if secret else f", not {detail['input']!r}"
    return f"{key} must be {_wanted(kind, context)}{shown}"


_BOUNDS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "greater_than_equal": lambda context: f"at least {context['ge']}",
    "greater_than": lambda context: f"above {context['gt']}",
    "less_than_equal": lambda context: f"at most {context['le']}",
    "less_than": lambda context: f"below {context['lt']}",
    "literal_error": lambda context: f"one of {context['expected']}",
}
_TYPES: Mapping[str, str] = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "tuple": "a list of names, or one string with commas between them",
    "dict": "a dictionary",
}


def _wanted(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _BOUNDS:
        return _BOUNDS[kind](context)
    return next(_matching(kind), "another value")


def _matching(kind: str) -> Iterator[str]:
    return (text for prefix, text in _TYPES.items() if kind.startswith(prefix))
