"""`oneOf`: alternatives that exclude each other, are made to, or are refused."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from quire.constraints.answer_form import OfferedTool
from quire.constraints.call_grammar import arguments_schema
from quire.constraints.schema import enforceable
from quire.constraints.schema_refs import SchemaError
from quire.response_format import Constraint
from tests.constraints.accepting import verdict

INT: dict[str, Any] = {"type": "integer"}
TEXT: dict[str, Any] = {"type": "string"}
VALUES: tuple[Any, ...] = (
    None, True, 0, 3, 7, 2.5, "", "x", "abcdef", [], [1], ["a", "b"], {}, {"a": 1}, {"b": 1},
    {"a": 1, "b": 1}, {"a": 1, "b": 1, "c": 1}, {"a": "x"}, {"k": "x", "a": 1}, {"k": "y", "b": 1},
    {"k": "y", "a": 1}, {"c": 1}, {"a": 1, "c": 1}, {"b": 1, "c": 1},
)  # fmt: skip


def an_object(*required: str, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


EITHER = [{"required": ["a"]}, {"required": ["b"]}]
EXCLUSIVE: dict[str, tuple[dict[str, Any], list[Any]]] = {
    # the schema, and values of which each is taken
    "types": ({"oneOf": [INT, TEXT, {"type": ["array", "null"]}]}, [3, "x", None, [1]]),
    "constants": ({"oneOf": [{"const": "x"}, {"const": 3}, {"enum": [None, 7]}]}, ["x", 3, 7]),
    "values and types": ({"oneOf": [{"enum": ["x", 3]}, {"type": "boolean"}]}, ["x", True]),
    "ranges": (
        {"oneOf": [{**INT, "maximum": 3}, {"type": "number", "minimum": 5}]},
        [0, 3, 7],
    ),
    "lengths": ({"oneOf": [{**TEXT, "maxLength": 3}, {**TEXT, "minLength": 5}]}, ["x", "abcdef"]),
    "numbers of items": (
        {"oneOf": [{"type": "array", "maxItems": 1}, {"type": "array", "minItems": 2}]},
        [[], [1], ["a", "b"]],
    ),
    "a key's constant": (
        {"oneOf": [an_object("k", "a", k={"const": "x"}, a=INT), an_object("k", k={"const": "y"}, b=INT)]},
        [{"k": "x", "a": 1}, {"k": "y", "b": 1}],
    ),
    "a key's type": ({"oneOf": [an_object("a", a=INT), an_object("a", a=TEXT)]}, [{"a": 1}, {"a": "x"}]),
    "required keys": ({"oneOf": [an_object("a", a=INT), an_object("b", b=INT)]}, [{"a": 1}, {"b": 1}]),
    "open objects": (
        {"oneOf": [
            {**an_object("a", a=INT), "additionalProperties": INT},
            {**an_object("b", b=INT), "additionalProperties": INT},
        ]},
        [{"a": 1}, {"b": 1}, {"a": 1, "c": 1}],
    ),
    "either of two keys": ({**an_object(a=INT, b=INT, c=INT), "oneOf": EITHER}, [{"a": 1}, {"b": 1}, {"b": 1, "c": 1}]),
    "either of two, beside others": (
        {**an_object(a=INT, b=INT), "additionalProperties": True, "oneOf": EITHER},
        [{"a": 1}, {"b": 1}, {"a": 1, "c": 1}],
    ),
    "one of three keys": (
        {**an_object(a=INT, b=INT, c=INT), "oneOf": [*EITHER, {"required": ["c"]}]},
        [{"a": 1}, {"b": 1}, {"c": 1}],
    ),
    "references": (
        {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}, INT],
         "$defs": {"A": an_object("a", a=INT), "B": an_object("b", b=INT)}},
        [{"a": 1}, {"b": 1}, 3],
    ),
    "combinations": (
        {"oneOf": [{"anyOf": [INT, {"type": "null"}]}, {"allOf": [TEXT, {"minLength": 1}]}]},
        [3, None, "x"],
    ),
    "an alternative inside": ({"oneOf": [{"oneOf": [INT, {"type": "null"}]}, TEXT]}, [3, None, "x"]),
    "no value at all": ({"oneOf": [INT, False]}, [3]),
}  # fmt: skip


@pytest.mark.parametrize(("schema", "taken"), EXCLUSIVE.values(), ids=EXCLUSIVE)
def test_exactly_one_alternative_matches(schema: dict[str, Any], taken: list[Any]) -> None:
    constraint = Constraint("json", schema)
    validator = jsonschema.Draft202012Validator(schema)
    allowed = [one for one in VALUES if verdict(constraint, json.dumps(one), plain=True) == "whole"]
    assert [one for one in allowed if not validator.is_valid(one)] == []
    assert [one for one in taken if one not in allowed] == []


OVERLAPPING: list[list[Any]] = [
    [INT, {"type": "number"}],
    [TEXT, {"enum": ["x", 3]}],
    [{**TEXT, "pattern": "^a"}, {**TEXT, "pattern": "b$"}],
    [{**INT, "minimum": 3}, {**INT, "maximum": 3}],
    [an_object(a=INT), an_object(b=INT)],
    [an_object("a", a=INT), an_object("a", a=INT, b=INT)],
    [{}, INT],
    [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A"}],
]


@pytest.mark.parametrize("parts", OVERLAPPING)
def test_what_may_match_two_is_refused(parts: list[Any]) -> None:
    schema = {"oneOf": [{"type": "null"}, *parts], "$defs": {"A": INT}}
    with pytest.raises(SchemaError, match=r"alternatives (1|2) and (2|3) may match"):
        enforceable(schema)
    tool = OfferedTool("f", {"type": "object", "properties": {"x": {"oneOf": parts}}})
    tool.parameters["$defs"] = {"A": INT}  # pyright: ignore
    assert arguments_schema(tool)  # what a tool is called with is looked at afterwards


def test_many_alternatives_that_values_tell_apart() -> None:
    parts = [an_object("k", k={"const": f"kind {i}"}, a=INT) for i in range(2_000)]
    assert len(enforceable({"oneOf": parts})["anyOf"]) == len(parts)


def test_too_much_to_tell_apart_is_refused_soon() -> None:
    """Each pair would compare a thousand values with a thousand choices."""
    choices = {"anyOf": [{"const": f"c{i}"} for i in range(1_000)]}
    parts = [{"enum": [f"{i} {j}" for j in range(1_000)]} for i in range(50)]
    with pytest.raises(SchemaError, match="too large"):
        enforceable({"oneOf": [*parts, choices]})
