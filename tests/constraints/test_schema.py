"""Schemas as people write them: what is enforced of each, and what is refused with its reason."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from quire.constraints.schema import enforceable
from quire.constraints.schema_refs import SchemaError
from quire.response_format import Constraint
from tests.constraints.accepting import verdict

INT: dict[str, Any] = {"type": "integer"}
TEXT: dict[str, Any] = {"type": "string"}


def an_object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


NODE = an_object(v=INT, next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]})
NODE["required"] = ["v", "next"]
ADDRESS = {"$id": "https://example.org/tree.json", "$defs": {"A": {"$anchor": "whole", **INT}}}

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    # what it shows, the schema, texts that match, texts that do not
    ("an unknown format is an annotation", {**TEXT, "format": "phone"}, ['"x"'], ["1"]),
    ("a known one holds", {**TEXT, "format": "date"}, ['"2026-01-31"'], ['"soon"']),
    ("$schema and $id", {"$schema": "https://json-schema.org/draft/2020-12/schema",
                         "$id": "https://example.org/a", **INT}, ["7"], ['"7"']),
    ("a pointer", {"$defs": {"A": INT}, "$ref": "#/$defs/A"}, ["7"], ['"7"']),
    ("definitions", {"definitions": {"A": INT}, "$ref": "#/definitions/A"}, ["7"], ['"7"']),
    ("a pointer with escapes", {"$defs": {"a/b c": INT}, "$ref": "#/$defs/a~1b%20c"}, ["7"], ['"7"']),
    ("a pointer into a list", {"anyOf": [TEXT, {"$ref": "#/anyOf/0"}]}, ['"x"'], ["7"]),
    ("an anchor", {**ADDRESS, "$ref": "#whole"}, ["7"], ['"7"']),
    ("an anchor by its address", {**ADDRESS, "$ref": "tree.json#whole"}, ["7"], ['"7"']),
    ("an id", {"$id": "https://example.org/t.json", "$defs": {"A": {"$id": "a.json", **INT}},
               "$ref": "a.json"}, ["7"], ['"7"']),
    ("an id of draft 6", {"definitions": {"A": {"$id": "#a", **INT}}, "$ref": "#a"}, ["7"], ['"7"']),
    ("a dynamic reference", {"$defs": {"A": {"$dynamicAnchor": "a", **INT}}, "$dynamicRef": "#a"},
     ["7"], ['"7"']),
    ("recursion", {"$defs": {"Node": NODE}, "$ref": "#/$defs/Node"},
     ['{"v": 1, "next": {"v": 2, "next": null}}'], ['{"v": 1, "next": 2}']),
    ("a reference to the root", an_object(a={"$ref": "#"}, b=INT), ['{"a": {"b": 1}}'], ['{"c": 1}']),
    ("names by a pattern", {"type": "object", "additionalProperties": INT,
                            "propertyNames": {"pattern": "^[a-c]{2}$"}}, ['{"ab": 1}'], ['{"xy": 1}']),
    ("names by an enum", {"type": "object", "additionalProperties": INT,
                          "propertyNames": {"enum": ["x", "y"]}}, ['{"y": 1}'], ['{"z": 1}']),
    ("names by a reference", {"type": "object", "propertyNames": {"$ref": "#/$defs/N"},
                              "$defs": {"N": {"enum": ["x"]}}}, ['{"x": 1}'], ['{"y": 1}']),
    ("names by length", {"type": "object", "propertyNames": {"maxLength": 2}}, ['{"ab": 1}'],
     ['{"abc": 1}']),
    ("unique items of a few", {"type": "array", "uniqueItems": True, "items": {"enum": ["a", "b"]}},
     ['["b", "a"]', "[]"], ['["a", "a"]']),
    ("unique items, at least two", {"type": "array", "uniqueItems": True, "minItems": 2,
                                    "items": {"enum": [1, 2, 3]}}, ["[3, 1]"], ["[3]", "[1, 1]"]),
    ("one unique item", {"type": "array", "uniqueItems": True, "items": TEXT, "maxItems": 1},
     ['["a"]'], ['["a", "b"]']),
    ("oneOf of objects", {"oneOf": [{**an_object(a=INT), "required": ["a"]}, {**an_object(b=INT), "required": ["b"]}]}, ['{"b": 1}'],
     ['{"a": 1, "b": 1}']),
    ("oneOf by a constant", {"oneOf": [
        {**an_object(kind={"const": "x"}, a=INT), "required": ["kind", "a"]},
        {**an_object(kind={"const": "y"}, b=INT), "required": ["kind", "b"]}]},
     ['{"kind": "y", "b": 1}'], ['{"kind": "y", "a": 1}']),
    ("properties without a type", {"properties": {"a": INT}}, ['{"a": 1}'], ["7"]),
    ("items without a type", {"items": INT}, ["[1, 2]"], ['["a"]']),
    ("a closed object", an_object(a=INT), ['{"a": 1}', "{}"], ['{"b": 1}']),
    ("an open one, by its own word", {**an_object(a=INT), "additionalProperties": True},
     ['{"a": 1, "b": 2}'], ["7"]),
    ("others of a schema", {**an_object(a=INT), "additionalProperties": TEXT},
     ['{"a": 1, "b": "x"}'], ['{"b": 1}']),
    ("a required key that is not described", {**an_object(a=INT), "required": ["b"]},
     ['{"b": "any"}'], ['{"a": 1}', '{"c": 1}']),
    ("a flag of draft 3", an_object(a={**INT, "required": True}), ['{"a": 1}'], ["7"]),
    ("closed over allOf", {"allOf": [an_object(a=INT), an_object(b=INT)]}, ['{"a": 1, "b": 2}'],
     ['{"a": 1, "c": 2}']),
    ("closed over a reference", {"$ref": "#/$defs/A", "properties": {"b": INT},
                                 "$defs": {"A": an_object(a=INT)}}, ['{"a": 1, "b": 2}'],
     ['{"a": 1, "c": 2}']),
    ("anyOf of what is required", {**an_object(a=INT, b=INT),
                                   "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
     ['{"b": 1}'], ["{}", '{"c": 1}']),
    ("a pattern over a property", {**an_object(ab=INT), "patternProperties": {"^a": {"minimum": 3}}},
     ['{"ab": 4}', "{}"], ['{"ab": 2}']),
    ("a pattern beside a property", {**an_object(b=INT), "patternProperties": {"^a": TEXT}},
     ['{"b": 4, "ac": "x"}'], ['{"ac": 4}']),
    ("a tuple", {"type": "array", "items": [INT, TEXT], "additionalItems": False}, ['[1, "a"]'],
     ['[1, "a", 2]']),
    ("draft 4's exclusive bounds", {**INT, "minimum": 3, "exclusiveMinimum": True}, ["4"], ["3"]),
    ("a choice that never ends", {"anyOf": [{"$ref": "#"}, INT]}, ["7"], ['"7"']),
    ("items that never end", {"type": "array", "items": {"$ref": "#/$defs/L"},
                              "$defs": {"L": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/L"}}}},
     ["[]"], ["[["]),
    ("text like an added token", {"const": "a <think> b"}, ['"a <think> b"'], ['"a b"']),
    ("text like a special token", {"enum": ["a <|im_end|>"]}, ['"a <|im_end|>"'], ['"a b"']),
    ("anything", {}, ["7", '{"a": []}'], ["x"]),
    ("a key named like a keyword", an_object(**{"$ref": TEXT, "$id": TEXT, "not": INT}),
     ['{"$ref": "#/a", "$id": "b", "not": 1}'], ['{"not": "x"}']),
]  # fmt: skip


@pytest.mark.parametrize(
    ("shows", "schema", "right", "wrong"), CASES, ids=[one[0] for one in CASES]
)
def test_what_is_enforced(
    shows: str, schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    constraint = Constraint("json", schema)
    for text in right:
        assert verdict(constraint, text, plain=True) == "whole", text
    for text in wrong:
        assert verdict(constraint, text, plain=True) != "whole", text


DRAFTS: dict[str, Any] = {
    "an id of draft 6": jsonschema.Draft6Validator,
    "a tuple": jsonschema.Draft7Validator,
    "draft 4's exclusive bounds": jsonschema.Draft4Validator,
}


@pytest.mark.parametrize(
    ("shows", "schema", "right", "wrong"), CASES, ids=[one[0] for one in CASES]
)
def test_nothing_is_allowed_that_the_schema_forbids(
    shows: str, schema: dict[str, Any], right: list[str], wrong: list[str]
) -> None:
    if shows in ("a choice that never ends", "a flag of draft 3"):
        return  # jsonschema's own validator does not end, or knows no flag
    validator = DRAFTS.get(shows, jsonschema.Draft202012Validator)(schema)
    for text in right:
        validator.validate(json.loads(text))


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"$ref": "#"}, "nothing finite"),
        ({**an_object(a={"$ref": "#"}), "required": ["a"]}, "nothing finite"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "nothing finite"),
        ({"allOf": [INT, {"$ref": "#"}]}, "nothing finite"),
        ({"$ref": "#/$defs/none"}, "'#/\\$defs/none', which is not in the schema"),
        ({"$ref": "https://example.org/other.json"}, "not in the schema"),
        ({"not": TEXT}, "not cannot be enforced"),
        (an_object(a={"if": INT, "then": {"minimum": 3}}), "if cannot be enforced"),
        ({"type": "array", "contains": INT}, "contains"),
        ({"type": "array", "uniqueItems": True, "items": TEXT}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"not": {}}}, "propertyNames"),
        ({"properties": 3}, "properties"),
        ({"anyOf": []}, "anyOf"),
        ({"items": 3}, "3 is no schema"),
        ({"patternProperties": {"(": INT}, "properties": {"a": INT}}, "pattern"),
    ],
)
def test_what_cannot_be_enforced_is_told(schema: dict[str, Any], reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        enforceable(schema)


def test_long_chains_of_references_end_soon() -> None:
    """In the order in which they are read, against it, and from a list of all."""
    count = 5000
    chain: dict[str, Any] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(count)}
    chain[f"d{count}"] = INT
    every = [{"$ref": f"#/$defs/d{i}"} for i in reversed(range(count))]
    for schema in ({"$ref": "#/$defs/d0", "$defs": chain}, {"anyOf": every, "$defs": chain}):
        with pytest.raises(SchemaError, match="too large"):
            enforceable(schema)


def test_parameters_are_an_object() -> None:
    assert enforceable({}, is_object=True) == {"type": "object"}
    assert enforceable(True, is_object=True) == {"type": "object"}
    assert enforceable({"type": ["object", "null"]}, is_object=True)["type"] == "object"
    with pytest.raises(SchemaError, match="object"):
        enforceable(TEXT, is_object=True)
