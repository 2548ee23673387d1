"""`response_format` in all its forms, as one constraint."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import SamplingError
from quire.response_format import MAX_DEPTH, MAX_SIZE, Constraint, read_response_format

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, None, "x"]}}, "required": ["a"]}


def nested(levels: int, kind: str = "object") -> Any:
    """A schema of so many objects, or arrays, one in another; the outermost is an object."""
    found: Any = {}
    for _ in range(levels - 1):
        found = {"not": found} if kind == "object" else [found]
    return found if kind == "object" else {"anyOf": found}


def schema_form(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"schema": schema}}


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_object"}, Constraint("json_object")),
        (schema_form(SCHEMA), Constraint("json", SCHEMA)),
        ({"type": "json_schema", "schema": SCHEMA}, Constraint("json", SCHEMA)),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            Constraint("json", SCHEMA),
        ),
        (schema_form({}), Constraint("json", {})),
        ({"type": "regex", "regex": "a|b"}, Constraint("regex", "a|b")),
        ({"type": "choice", "choice": ["yes", "no"]}, Constraint("choice", ("yes", "no"))),
        ({"type": "choice", "choices": ("yes",)}, Constraint("choice", ("yes",))),
        ({"type": "grammar", "grammar": "start: A"}, Constraint("grammar", "start: A")),
        (MappingProxyType({"type": "json_object"}), Constraint("json_object")),
    ],
)
def test_every_form(form: Any, expected: Constraint | None) -> None:
    assert read_response_format(form) == expected


def test_a_constraint_comes_back_as_it_is() -> None:
    constraint = Constraint("regex", "a")
    assert read_response_format(constraint) is constraint


@pytest.mark.parametrize("form", ["json", ["json_object"], {}, {"type": 3}, {"schema": SCHEMA}, 1])
def test_what_has_no_type(form: Any) -> None:
    with pytest.raises(SamplingError, match='dictionary with a "type"'):
        read_response_format(form)


def test_an_unknown_type_names_the_nearest_and_all() -> None:
    with pytest.raises(
        SamplingError, match=r"'json_schem'; did you mean 'json_schema'\?"
    ) as caught:
        read_response_format({"type": "json_schem"})
    assert "text, json_object, json_schema, regex, choice, grammar" in str(caught.value)
    with pytest.raises(SamplingError, match=r"'structural_tag'\. There are"):
        read_response_format({"type": "structural_tag"})


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": None},
        {"type": "json_schema", "json_schema": "{}"},
        {"type": "json_schema", "json_schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"schema": "{}"}},
        {"type": "json_schema", "json_schema": {"schema": True}},
    ],
)
def test_a_schema_that_is_missing(form: Any) -> None:
    with pytest.raises(SamplingError, match="type json_schema needs"):
        read_response_format(form)


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"x", object(), 1j])
def test_a_schema_that_is_no_json(value: Any) -> None:
    with pytest.raises(SamplingError, match="is no JSON"):
        read_response_format(schema_form({"const": value}))


def test_a_schema_that_holds_itself() -> None:
    endless: dict[str, Any] = {}
    endless["not"] = endless
    with pytest.raises(SamplingError, match="nests more than"):
        read_response_format(schema_form(endless))
    twice: dict[str, Any] = {}
    twice["anyOf"] = [twice, twice]
    with pytest.raises(SamplingError, match=r"larger|nests"):
        read_response_format(schema_form(twice))


@pytest.mark.parametrize("kind", ["object", "array"])
def test_depth(kind: str) -> None:
    deepest = MAX_DEPTH if kind == "object" else MAX_DEPTH - 1
    schema = nested(deepest, kind)
    assert read_response_format(schema_form(schema)) == Constraint("json", schema)
    for levels in (deepest + 1, 5000):
        with pytest.raises(SamplingError, match=f"nests more than {MAX_DEPTH} levels"):
            read_response_format(schema_form(nested(levels, kind)))


@pytest.mark.parametrize("value", [None, "yes", [], [""], ["a", 3], {"a": "b"}, 5, ["a", None]])
def test_choices_that_are_none(value: Any) -> None:
    with pytest.raises(SamplingError, match='"choice": a list of texts'):
        read_response_format({"type": "choice", "choice": value})


@pytest.mark.parametrize("kind", ["regex", "grammar"])
@pytest.mark.parametrize("value", [None, "", 3, ["a"]])
def test_texts_that_are_none(kind: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=f'type {kind} needs "{kind}": a text'):
        read_response_format({"type": kind, kind: value})


@pytest.mark.parametrize(
    "form",
    [
        lambda size: {"type": "regex", "regex": "a" * size},
        lambda size: {"type": "grammar", "grammar": "a" * size},
        lambda size: {"type": "choice", "choice": ["a" * (size - size // 2), "b" * (size // 2)]},
        lambda size: schema_form({"const": "a" * (size - len('{"const": ""}'))}),
    ],
)
def test_sizes(form: Any) -> None:
    assert read_response_format(form(MAX_SIZE)) is not None
    with pytest.raises(SamplingError, match="larger than 262,144 characters"):
        read_response_format(form(MAX_SIZE + 1))


def test_what_the_caller_changes_later_has_no_effect() -> None:
    schema: dict[str, Any] = {"properties": {"a": {"enum": [1]}}}
    choice = ["yes"]
    first = read_response_format(schema_form(schema))
    second = read_response_format({"type": "choice", "choice": choice})
    schema["properties"]["a"]["enum"].append(2)
    schema["type"] = "object"
    choice.append("no")
    assert first == Constraint("json", {"properties": {"a": {"enum": [1]}}})
    assert second == Constraint("choice", ("yes",))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=20,
    )
)
def test_any_json_arrives_whole(value: Any) -> None:
    schema = {"const": value}
    constraint = read_response_format(schema_form(schema))
    assert constraint is not None
    assert constraint.value == schema
    assert constraint.value is not schema
