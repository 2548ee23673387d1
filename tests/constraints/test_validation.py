"""Values and schemas, beside jsonschema's own verdict."""

from __future__ import annotations

import itertools
from typing import Any

import jsonschema
import pytest

from quire.constraints.validation import mismatch

SCHEMAS: list[Any] = [
    True,
    False,
    {"type": "integer"},
    {"type": ["string", "null"]},
    {"enum": [1, "a", None]},
    {"const": {"a": 1}},
    {"minimum": 2, "exclusiveMaximum": 5},
    {"maximum": 2, "exclusiveMinimum": 0, "multipleOf": 0.5},
    {"minLength": 2, "maxLength": 3},
    {"minItems": 1, "maxItems": 2, "uniqueItems": True},
    {"minProperties": 1, "maxProperties": 1},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    {"properties": {"a": {}}, "additionalProperties": False},
    {"properties": {"a": {}}, "additionalProperties": {"type": "string"}},
    {"propertyNames": {"maxLength": 1}},
    {"prefixItems": [{"type": "integer"}], "items": {"type": "string"}},
    {"items": {"type": "integer"}},
    {"contains": {"type": "string"}},
    {"not": {"type": "string"}},
    {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    {"oneOf": [{"type": "integer"}, {"minimum": 2}]},
    {"allOf": [{"type": "integer"}, {"minimum": 2}]},
    {"if": {"type": "integer"}, "then": {"minimum": 2}, "else": {"type": "string"}},
    {"dependentRequired": {"a": ["b"]}},
    {"dependentSchemas": {"a": {"required": ["b"]}}},
    {"$defs": {"L": {"type": "array", "items": {"$ref": "#/$defs/L"}}}, "$ref": "#/$defs/L"},
]
VALUES: list[Any] = [
    None, True, False, 0, 1, 1.0, 2, 2.5, 5, -1, "", "a", "ab", "abcd", [], [1], [1, 1], ["a"],
    [1, "a"], [1, 2, 3], [[], [[]]], {}, {"a": 1}, {"a": "x"}, {"b": 1}, {"a": 1, "b": "x"},
    {"a": 1, "bb": 2},
]  # fmt: skip


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
def test_it_agrees_with_jsonschema(schema: Any) -> None:
    validator = jsonschema.Draft202012Validator(schema)
    for value in VALUES:
        assert (mismatch(value, schema) is None) == validator.is_valid(value), value


def test_the_reason_tells_where() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}}
    assert mismatch({"a": [1, "x"]}, schema) == "it.a[1] must be of the type integer"
    assert "'b'" in str(mismatch({}, {"required": ["b"]}))


@pytest.mark.parametrize("schema", [{"$ref": "#"}, {"type": 3}, {"enum": 3}, {"anyOf": 3}, []])
def test_a_wrong_schema_is_no_fault_of_the_value(schema: Any) -> None:
    for value in VALUES:
        assert mismatch(value, schema) is None


def test_it_comes_to_an_end() -> None:
    """Each level of the value doubles what is looked at."""
    both = {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}]}
    schema = {"$defs": {"A": {"type": "array", "items": both, "minItems": 1}}, "$ref": "#/$defs/A"}
    value: list[Any] = []
    for _ in itertools.repeat(None, 40):
        value = [value]
    assert mismatch(value, schema) is None
