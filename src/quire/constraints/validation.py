"""Whether a value matches a JSON schema: for what a grammar cannot enforce.

Patterns are not looked at: Python's expressions have no limit of time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from quire.constraints.schema_refs import MAX_STEPS, REFERENCES, References, SchemaError

_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "null": lambda value: value is None,
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
    "number": lambda value: _is_number(value),
    "string": lambda value: isinstance(value, str),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
}
_LIMITS: Mapping[str, Callable[[Any, Any], bool]] = {
    "minimum": lambda value, limit: not _is_number(value) or value >= limit,
    "maximum": lambda value, limit: not _is_number(value) or value <= limit,
    "exclusiveMinimum": lambda value, limit: not _is_number(value) or value > limit,
    "exclusiveMaximum": lambda value, limit: not _is_number(value) or value < limit,
    "minLength": lambda value, limit: not isinstance(value, str) or len(value) >= limit,
    "maxLength": lambda value, limit: not isinstance(value, str) or len(value) <= limit,
    "minItems": lambda value, limit: not isinstance(value, list) or len(value) >= limit,
    "maxItems": lambda value, limit: not isinstance(value, list) or len(value) <= limit,
    "minProperties": lambda value, limit: not isinstance(value, dict) or len(value) >= limit,
    "maxProperties": lambda value, limit: not isinstance(value, dict) or len(value) <= limit,
}


def mismatch(value: Any, schema: Any) -> str | None:
    """Where a value does not match a schema, and why; None where it does, or that cannot be said."""
    try:
        return next(Validator(schema).faults(value, schema, "it"), None)
    except (SchemaError, TypeError, ValueError, RecursionError):
        return None  # the schema itself is wrong


class Validator:
    """Looks at values by one schema, whose references are followed."""

    def __init__(self, root: Any) -> None:
        self._references = References(root if isinstance(root, Mapping) else {})
        self._steps = 0

    def faults(self, value: Any, schema: Any, path: str) -> Iterator[str]:
        """What is wrong with a value, the first things first."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError("it is too large")
        if schema is False:
            yield f"{path} must not be there"
        if not isinstance(schema, Mapping):
            return
        schema = cast("Mapping[str, Any]", schema)
        yield from self._own(value, schema, path)
        yield from self._combined(value, schema, path)
        if isinstance(value, dict):
            yield from self._members(cast("dict[str, Any]", value), schema, path)
        if isinstance(value, list):
            yield from self._items(cast("list[Any]", value), schema, path)

    def _own(self, value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if kinds is not None and not any(kind in _TYPES and _TYPES[kind](value) for kind in kinds):
            yield f"{path} must be of the type {' or '.join(map(str, kinds))}"
        self._steps += len(schema.get("enum", ()))
        if "enum" in schema and not any(_same(value, one) for one in schema["enum"]):
            yield f"{path} must be one of the values of its enum"
        if "const" in schema and not _same(value, schema["const"]):
            yield f"{path} must be {json.dumps(schema['const'])[:80]}"
        for keyword, keeps in _LIMITS.items():
            limit = schema.get(keyword)
            if _is_number(limit) and not keeps(value, limit):
                yield f"{path} breaks {keyword}, which is {limit}"
        divisor = schema.get("multipleOf")
        if divisor and _is_number(value) and abs(value / divisor - round(value / divisor)) > 1e-9:
            yield f"{path} must be a multiple of {divisor}"

    def _combined(self, value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
        for keyword in REFERENCES:
            if keyword in schema:
                yield from self.faults(value, self._references.target(schema, keyword), path)
        for part in schema.get("allOf", ()):
            yield from self.faults(value, part, path)
        if "anyOf" in schema and not any(self.fits(value, one) for one in schema["anyOf"]):
            yield f"{path} matches no part of its anyOf"
        if "oneOf" in schema and sum(self.fits(value, one) for one in schema["oneOf"]) != 1:
            yield f"{path} must match exactly one part of its oneOf"
        if "not" in schema and self.fits(value, schema["not"]):
            yield f"{path} matches what its not excludes"
        if "if" in schema:
            branch = "then" if self.fits(value, schema["if"]) else "else"
            yield from self.faults(value, schema.get(branch), path)

    def fits(self, value: Any, schema: Any) -> bool:
        """Whether a value matches a part of the schema, as far as can be said.

        Raises:
            SchemaError: too much was looked at, or a reference leads nowhere.
        """
        return next(self.faults(value, schema, ""), None) is None

    def _members(
        self, value: dict[str, Any], schema: Mapping[str, Any], path: str
    ) -> Iterator[str]:
        required = schema.get("required", ())
        for key in required if isinstance(required, list) else ():
            if key not in value:
                yield f"{path} lacks {key!r}"
        properties = schema.get("properties", {})
        for key, one in value.items():
            if key in properties:
                yield from self.faults(one, properties[key], f"{path}.{key}")
            elif "patternProperties" not in schema:
                yield from self.faults(one, schema.get("additionalProperties"), f"{path}.{key}")
            yield from self.faults(key, schema.get("propertyNames"), f"the key {key!r}")
        for key, more in schema.get("dependentRequired", {}).items():
            for other in more if key in value else ():
                if other not in value:
                    yield f"{path} lacks {other!r}, which {key!r} needs"
        for key, one in schema.get("dependentSchemas", {}).items():
            if key in value:
                yield from self.faults(value, one, path)

    def _items(self, value: list[Any], schema: Mapping[str, Any], path: str) -> Iterator[str]:
        first, rest = schema.get("prefixItems", ()), schema.get("items")
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems")
        for index, one in enumerate(value):
            item = first[index] if index < len(first) else rest
            yield from self.faults(one, item, f"{path}[{index}]")
        if schema.get("uniqueItems") is True:
            texts = [json.dumps(one, sort_keys=True) for one in value]
            if len(set(texts)) < len(texts):
                yield f"{path} has an item twice"
        if "contains" in schema and not any(self.fits(one, schema["contains"]) for one in value):
            yield f"{path} has no item that its contains asks for"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(left: Any, right: Any) -> bool:
    return isinstance(left, bool) == isinstance(right, bool) and left == right
