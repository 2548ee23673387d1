"""Random JSON schemas, drawn by hypothesis-jsonschema from a schema of schemas."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis_jsonschema import from_schema

Schema = dict[str, Any]

NAMES = ["name", "age", "a b", "é", 'quo"te', "deep\\er"]


def _numbers(low: int, high: int) -> Schema:
    return {"type": "integer", "minimum": low, "maximum": high}


def _one_of_kind(kind: str, **keywords: Schema) -> Schema:
    return {
        "type": "object",
        "properties": {"type": {"const": kind}, **keywords},
        "required": ["type"],
        "additionalProperties": False,
    }


def _leaves() -> list[Schema]:
    bounds = {"minimum": _numbers(-300, 5), "maximum": _numbers(40, 7000)}
    values = [None, True, 0, -7, 2.5, "x", "猫", "", [1, "a"], {"k": None}]
    return [
        _one_of_kind("null"),
        _one_of_kind("boolean"),
        _one_of_kind("integer", **bounds, multipleOf={"enum": [2, 7]}),
        _one_of_kind("integer", exclusiveMinimum=_numbers(-9, 9), exclusiveMaximum=_numbers(12, 15)),
        _one_of_kind("number", **bounds),
        _one_of_kind("string", minLength=_numbers(0, 3), maxLength=_numbers(3, 9)),
        _one_of_kind("string", pattern={"enum": ["^[a-z]{2,5}$", "^(cat|mat)+$", "[0-9]"]}),
        _one_of_kind("string", format={"enum": ["uuid", "ipv4"]}),
        {
            "type": "object",
            "properties": {"enum": {"type": "array", "items": {"enum": values}, "minItems": 1, "maxItems": 4}},
            "required": ["enum"],
            "additionalProperties": False,
        },
        {
            "type": "object",
            "properties": {"const": {"enum": values}},
            "required": ["const"],
            "additionalProperties": False,
        },
    ]  # fmt: skip


def _inner(child: Schema) -> list[Schema]:
    properties = {
        "type": "object",
        "properties": {name: child for name in NAMES},
        "additionalProperties": False,
        "minProperties": 1,
    }
    return [
        _one_of_kind("array", items=child, minItems=_numbers(0, 2), maxItems=_numbers(2, 4)),
        _one_of_kind("object", additionalProperties=child, properties=properties),
        {
            **_one_of_kind(
                "object",
                properties=properties,
                required={"type": "array", "items": {"enum": NAMES[:3]}, "uniqueItems": True},
                additionalProperties={"const": False},
            ),
            "required": ["type", "properties", "required", "additionalProperties"],
        },
        {
            "type": "object",
            "properties": {"anyOf": {"type": "array", "items": child, "minItems": 1, "maxItems": 3}},
            "required": ["anyOf"],
            "additionalProperties": False,
        },
    ]  # fmt: skip


def schemas(depth: int = 2) -> st.SearchStrategy[Schema]:
    """Schemas that nest up to `depth` levels above the leaves."""
    leaves = st.one_of([from_schema(leaf) for leaf in _leaves()])
    found = leaves
    for _ in range(depth):
        child = found
        inner = st.one_of([_filled(shape, child) for shape in _inner(_HOLE)])
        found = inner | child
    return found


_HOLE: Schema = {"const": "<schema>"}


def _filled(shape: Schema, child: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """Draw from `shape`, and put a schema of its own into each hole."""

    @st.composite
    def draw_one(draw: st.DrawFn) -> Schema:
        def fill(value: Any) -> Any:
            if value == _HOLE["const"]:
                return draw(child)
            if isinstance(value, dict):
                return {key: fill(part) for key, part in value.items()}
            return [fill(part) for part in value] if isinstance(value, list) else value

        return fill(draw(from_schema(shape)))

    return draw_one()
