"""Random JSON schemas that can be satisfied, of the keywords that llguidance takes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]

NAMES = st.sampled_from(["name", "age", "a b", "é", 'quo"te', "deep\\er", "_1", "$x"])
VALUES = st.sampled_from([None, True, 0, -7, 2.5, "x", "猫", "", [1, "a"], {"k": None}])


def _of_type(kind: str, **keywords: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    """A type, and each of the keywords or not."""
    return st.fixed_dictionaries({"type": st.just(kind)}, optional=keywords)


def _leaves() -> st.SearchStrategy[Schema]:
    low, high = st.integers(-300, 5), st.integers(40, 7000)
    choices = st.lists(VALUES, min_size=1, max_size=4)
    return st.one_of(
        _of_type("null"),
        _of_type("boolean"),
        _of_type("integer", minimum=low, maximum=high, multipleOf=st.sampled_from([2, 7])),
        _of_type("integer", exclusiveMinimum=st.integers(-9, 9), exclusiveMaximum=st.just(15)),
        _of_type("number", minimum=low, maximum=high),
        _of_type("number", exclusiveMinimum=st.just(-0.5), maximum=st.sampled_from([0.25, 1e3])),
        _of_type("string", minLength=st.integers(0, 3), maxLength=st.integers(3, 9)),
        _of_type("string", pattern=st.sampled_from(["^[a-z]{2,5}$", "^(cat|mat)+$", "[0-9]"])),
        _of_type("string", format=st.sampled_from(["uuid", "ipv4"])),
        st.lists(
            st.sampled_from(["null", "boolean", "integer", "string"]), min_size=1, unique=True
        ).map(lambda kinds: {"type": kinds}),
        choices.map(lambda values: {"enum": values}),
        VALUES.map(lambda value: {"const": value}),
    )


def _objects(child: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    @st.composite
    def draw_one(draw: st.DrawFn) -> Schema:
        properties = draw(st.dictionaries(NAMES, child, max_size=4))
        known = [name for name in properties if draw(st.booleans())]
        schema: Schema = {"type": "object", "properties": properties, "required": known}
        if draw(st.booleans()):
            schema["additionalProperties"] = draw(st.just(False) | child)
        return schema

    return draw_one()


def _arrays(child: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    plain = _of_type("array", items=child, minItems=st.integers(0, 2), maxItems=st.integers(2, 4))
    tuples = st.lists(child, min_size=1, max_size=3).map(
        lambda items: {"type": "array", "prefixItems": items, "items": False}
    )
    return plain | tuples


def _refs(child: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    """A list that may hold itself."""
    return child.map(
        lambda value: {
            "$ref": "#/$defs/list",
            "$defs": {
                "list": {
                    "type": "object",
                    "properties": {"value": value, "next": {"$ref": "#/$defs/list"}},
                    "required": ["value"],
                    "additionalProperties": False,
                }
            },
        }
    )


def schemas(depth: int = 2) -> st.SearchStrategy[Schema]:
    """Schemas that nest up to `depth` levels above the leaves."""
    nested = _leaves()
    for _ in range(depth):
        alternatives = st.lists(nested, min_size=1, max_size=3).map(lambda some: {"anyOf": some})
        nested = st.one_of(_objects(nested), _arrays(nested), alternatives, nested)
    return nested | _refs(_leaves())
