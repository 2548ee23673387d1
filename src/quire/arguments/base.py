"""What all groups of arguments share: types of values, files of them, and errors in quire's own words."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Self, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo

from quire.errors import ConfigError, UnknownArgumentError, nearest, sentence

SUFFIXES = (".yaml", ".yml", ".json")


def parse_scalar(text: str) -> Any:
    """Read `text` as a YAML value; text that is no YAML stays as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML or JSON file that holds keys and values.

    Raises:
        ConfigError: no such file, not readable, or not keys and values.
    """
    path = Path(os.path.expanduser(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"No such file: {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}.") from None
    return _checked_mapping(_parse(path, text), path)


def _parse(path: Path, text: str) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=_without_twins)
        return _parse_yaml(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split()).replace(' in "<unicode string>",', " at")
        raise ConfigError(f"{path} cannot be read: {reason}.") from None


def _parse_yaml(text: str) -> Any:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node = loader.get_single_node()
        if isinstance(node, yaml.MappingNode):
            _without_twins((str(key.value), value) for key, value in node.value)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _without_twins(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Pairs as a dictionary. A key that stands twice is refused: parsers drop its first value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice")
        found[key] = value
    return found


def _checked_mapping(content: Any, path: Path) -> dict[str, Any]:
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"{path} must hold keys and values, such as `template: qwen3`.")
    return content


# --- types of values -----------------------------------------------------------------------------


def _refuse_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a number is needed, not true or false")
    return value


def _split_commas(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip()) or None
    if isinstance(value, Path):
        return (str(value),)
    return tuple(map(_as_text, value)) if isinstance(value, (list, tuple)) else value


_UNITS = {
    "": 1,
    **{unit: 1000**power for power, unit in enumerate("kmgt", start=1)},
    **{f"{unit}i": 1024**power for power, unit in enumerate("kmgt", start=1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b?", re.IGNORECASE)


def _read_bytes(value: Any) -> Any:
    """A size: a number of bytes, or text such as `2GiB`, `512 MB`."""
    if isinstance(value, bool):
        raise ValueError("a number of bytes is needed, not true or false")
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise ValueError(f"a size is needed, such as 2GiB or 512MB, not {value!r}")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def _read_dictionary(value: Any) -> Any:
    """A dictionary: as it is, as JSON text, or the path of a JSON or YAML file."""
    if not isinstance(value, (str, Path)):
        return value
    text = str(value).strip()
    if not text:
        return None
    if not text.startswith("{"):
        return read_mapping(Path(text))
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"no valid JSON: {error}") from None


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


Integer: TypeAlias = Annotated[int, BeforeValidator(_refuse_boolean)]
PositiveInteger: TypeAlias = Annotated[Integer, Field(ge=1)]
NonNegativeInteger: TypeAlias = Annotated[Integer, Field(ge=0)]
Float: TypeAlias = Annotated[float, BeforeValidator(_refuse_boolean)]
ByteSize: TypeAlias = Annotated[int, BeforeValidator(_read_bytes), Field(ge=1)]
"""Bytes: a number, or text such as `2GiB`."""
NameList: TypeAlias = Annotated[tuple[str, ...] | None, BeforeValidator(_split_commas)]
"""Several names: a list, or one string with commas between them."""
PathStr: TypeAlias = Annotated[str, BeforeValidator(_as_text)]
Dictionary: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_read_dictionary)]


# --- groups --------------------------------------------------------------------------------------


class Arguments(BaseModel):
    """A group of arguments. It is immutable; `replace` makes another.

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
            raise _own_words(error, type(self)) from None

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


def value_types(annotation: Any) -> Iterator[Any]:
    """The types that a field takes: the members of a union but None, without their annotations."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from value_types(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for part in get_args(annotation):
            yield from value_types(part)
    elif annotation is not NoneType:
        yield annotation


def is_secret(field: FieldInfo) -> bool:
    """Whether a field's value is never shown."""
    return SecretStr in value_types(field.annotation)


def _masked(key: str, value: Any) -> Any:
    return f"<{key.upper()}>" if isinstance(value, SecretStr) else value


def _own_words(error: ValidationError, group: type[Arguments]) -> ConfigError:
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
    "int": "an integer",
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
