"""Alternatives of `oneOf`, of which exactly one may match: told apart, or made to be.

Two alternatives are apart by their types, values, ranges, or by a key that one of them requires. Objects
that a key alone would tell apart (`{"required": ["a"]}` beside `{"required": ["b"]}`) are made apart:
each forbids a key that the other requires.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from quire.constraints.schema_refs import MAX_STEPS, REFERENCES, References, SchemaError
from quire.constraints.validation import Validator

_KINDS = frozenset({"null", "boolean", "integer", "fraction", "string", "array", "object"})
_BOUNDS = (
    ("minimum", "maximum", {"integer", "fraction"}),
    ("minLength", "maxLength", {"string"}),
    ("minItems", "maxItems", {"array"}),
    ("minProperties", "maxProperties", {"object"}),
)
_OBJECT = frozenset({"object"})
_MAX_DEPTH = 20

Node = Mapping[str, Any]


class Exclusive:
    """Makes the alternatives of one schema exclude each other."""

    def __init__(self, root: Node, references: References) -> None:
        self._references = references
        self._validator = Validator(root)  # which counts what it looks at over all alternatives
        self._texts: dict[int, frozenset[str]] = {}  # by the id of the list of values
        self._kept: list[list[Any]] = []  # so that an id stays that of its list
        self._steps = 0

    def alternatives(self, parts: Sequence[Any], *, closes: bool) -> list[Any]:
        """The alternatives, of which no two match the same value.

        Args:
            parts: those of the schema.
            closes: whether an object with properties and no word on others has no others.

        Raises:
            SchemaError: two of them may match the same.
        """
        if _have_own_values(parts):  # the usual way, however many there are
            return list(parts)
        made: list[Any] = []
        for index, part in enumerate(parts):
            forbidden: set[str] = set()
            for other_index, other in enumerate(parts):
                if other_index == index or self._apart(part, other):
                    continue
                keys = self._required(other) - self._required(part)
                if not self._is_object(part) or not keys:
                    first, second = sorted((index + 1, other_index + 1))
                    raise SchemaError(
                        f"oneOf cannot be enforced, since its alternatives {first} and {second} may "
                        "match the same: give them different types, constants or required keys, or "
                        "write anyOf"
                    )
                # Keys that an object has not anyway need no word.
                if not (closes and self._is_closed(part) and keys - self._described(part)):
                    forbidden.add(min(keys))
            made.append(self._without(part, forbidden) if forbidden else part)
        return made

    def _without(self, part: Node, keys: set[str]) -> dict[str, Any]:
        """An alternative whose objects have none of these keys, and others as before."""
        none: Node = {
            "properties": dict.fromkeys(sorted(keys), False),
            "additionalProperties": True,
        }
        made: dict[str, Any] = {"allOf": [part, {"type": "object", **none}]}
        return made if self._is_closed(part) else {**made, "additionalProperties": True}

    def _apart(self, one: Any, other: Any, depth: int = 0) -> bool:
        """Whether it can be seen that no value matches both."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError("it is too large")
        if one is False or other is False:
            return True
        if not isinstance(one, Mapping) or not isinstance(other, Mapping) or depth > _MAX_DEPTH:
            return False
        pair = left, right = cast("Node", one), cast("Node", other)
        return (
            self._parts_apart(left, right, depth)
            or self._parts_apart(right, left, depth)
            or self._values_apart(left, right)
            or self._values_apart(right, left)
            or self._bounds_apart(*pair)
            or self._keys_apart(*pair, depth)
        )

    def _parts_apart(self, one: Node, other: Node, depth: int) -> bool:
        """Whether something that `one` is combined of is apart from `other`."""
        all_of = [*self._all_of(one)]
        if any(self._apart(part, other, depth + 1) for part in all_of):
            return True
        for keyword in ("anyOf", "oneOf"):
            choices = one.get(keyword)
            if isinstance(choices, list) and choices:
                parts = cast("list[Any]", choices)
                if all(self._apart(part, other, depth + 1) for part in parts):
                    return True
        return False

    def _all_of(self, node: Node) -> list[Any]:
        parts = node.get("allOf")
        found = list(cast("list[Any]", parts)) if isinstance(parts, list) else []
        return found + [
            self._references.target(node, keyword) for keyword in REFERENCES if keyword in node
        ]

    def _values_apart(self, one: Node, other: Node) -> bool:
        values = _values(one)
        return values is not None and not any(
            self._validator.fits(value, other) for value in values
        )

    def _bounds_apart(self, one: Node, other: Node) -> bool:
        kinds = _kinds(one) & _kinds(other)
        if not kinds:
            return True
        for low, high, of_kinds in _BOUNDS:
            if kinds <= of_kinds:
                for left, right in ((one, other), (other, one)):
                    least: Any = left.get(low)
                    most: Any = right.get(high)
                    if _is_number(least) and _is_number(most) and least > most:
                        return True
        return False

    def _keys_apart(self, one: Node, other: Node, depth: int) -> bool:
        """Whether a key tells objects apart: one requires it, and the other has another value, or
        no such key."""
        if _kinds(one) & _kinds(other) != _OBJECT:
            return False
        for left, right in ((one, other), (other, one)):
            properties, others = _properties(left), _properties(right)
            is_closed = right.get("additionalProperties") is False
            for key in _required_of(left):
                if key not in others:
                    if is_closed and "patternProperties" not in right:
                        return True
                elif self._apart(properties.get(key, {}), others[key], depth + 1):
                    return True
        return False

    # --- what an alternative says, with what it is combined of

    def _whole(self, part: Any) -> list[Node]:
        """An alternative and all that holds beside it."""
        found: list[Node] = []
        stack = [part]
        while stack and len(found) < MAX_STEPS:
            node = stack.pop()
            if isinstance(node, Mapping) and not any(node is one for one in found):
                found.append(cast("Node", node))
                stack += self._all_of(cast("Node", node))
        return found

    def _required(self, part: Any) -> set[str]:
        return set[str]().union(*(_required_of(node) for node in self._whole(part)))

    def _described(self, part: Any) -> set[str]:
        return set[str]().union(*(_properties(node) for node in self._whole(part)))

    def _is_object(self, part: Any) -> bool:
        """Whether only objects match, or other values that match no alternative with a required key."""
        return any(_required_of(node) or _kinds(node) == _OBJECT for node in self._whole(part))

    def _is_closed(self, part: Any) -> bool:
        whole = self._whole(part)
        words = ("additionalProperties", "unevaluatedProperties", "patternProperties")
        return (
            len(whole) == 1 and "properties" in whole[0] and not any(w in whole[0] for w in words)
        )


def _have_own_values(parts: Sequence[Any]) -> bool:
    """Whether each alternative has values of its own, or objects that a key of such values tells."""
    nodes = [cast("Node", part) for part in parts if isinstance(part, Mapping)]
    if len(nodes) < len(parts):
        return False
    if _are_distinct(map(_values, nodes)):
        return True
    keys = set.intersection(*map(_required_of, nodes)) if nodes else set[str]()
    if not all(_kinds(node) == _OBJECT for node in nodes):
        return False
    return any(
        _are_distinct(
            _values(value) if isinstance(value := _properties(node).get(key), Mapping) else None
            for node in nodes
        )
        for key in keys
    )


def _are_distinct(groups: Iterable[list[Any] | None]) -> bool:
    """Whether all are lists of values, and no value is in two of them."""
    seen: set[str] = set()
    for values in groups:
        texts = None if values is None else set(map(_text_of, values))
        if texts is None or seen & texts:
            return False
        seen |= texts
    return True


def _text_of(value: Any) -> str:
    """A value as a text, which the same value has: 1 is 1.0, and keys have no order."""
    return json.dumps(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {"object": sorted((key, _plain(one)) for key, one in value.items())}
    if isinstance(value, list):
        return [_plain(one) for one in cast("list[Any]", value)]
    is_float = isinstance(value, float) and value.is_integer()
    return int(value) if is_float else value


def _kinds(node: Node) -> frozenset[str]:
    """The kinds of values that a node's own words allow, as people mean it."""
    values = _values(node)
    if values is not None:
        return frozenset(map(_kind, values))
    given = node.get("type")
    if given is None:
        return frozenset({"object"}) if "properties" in node else _KINDS
    kinds = {given} if isinstance(given, str) else set(cast("list[str]", given))
    if "number" in kinds:
        kinds |= {"integer", "fraction"}
    return frozenset(kinds) & _KINDS


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, (int, float)):
        return "integer" if float(value).is_integer() else "fraction"
    return {str: "string", list: "array"}.get(type(value), "object")


def _values(node: Node) -> list[Any] | None:
    if "const" in node:
        return [node["const"]]
    values = node.get("enum")
    return cast("list[Any]", values) if isinstance(values, list) else None


def _properties(node: Node) -> Mapping[str, Any]:
    properties = node.get("properties")
    return cast("Mapping[str, Any]", properties) if isinstance(properties, Mapping) else {}


def _required_of(node: Node) -> set[str]:
    required = node.get("required")
    if not isinstance(required, (list, tuple)):
        return set()
    return {key for key in cast("list[Any]", required) if isinstance(key, str)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
