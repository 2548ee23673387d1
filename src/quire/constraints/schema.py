"""JSON schemas as people write them, made schemas that llguidance enforces.

What is made allows no answer that the schema forbids, and sometimes fewer than it allows:

- An object with `properties` and no word on other keys has no others: models otherwise run on with
  keys that they invent.
- `oneOf` is `anyOf` of alternatives that exclude each other, or are made to: see `exclusive`.
- Of a key that is in `properties` and matches a pattern of `patternProperties`, the pattern is left out.
- What can never be finite is left out: a model would write it until it reaches its token limit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, cast

from quire.constraints.exclusive import Exclusive
from quire.constraints.finite_schema import Schema, without_endless
from quire.constraints.schema_refs import MAX_STEPS, REFERENCES, References, SchemaError

OPTIONS = {"item_separator": ", ?", "key_separator": ": ?", "whitespace_flexible": False}
"""Models write JSON as `json.dumps` does, or without any space. Where white space is free, small ones
write it without end; where there is none at all, they spoil their texts: `{"city": ": "}`."""

_COPIED = (
    "const", "enum", "type", "minItems", "maxItems", "minProperties", "maxProperties",
    "minLength", "maxLength", "pattern", "minimum", "maximum", "exclusiveMinimum",
    "exclusiveMaximum", "multipleOf",
)  # fmt: skip
_IMPOSSIBLE = (
    "not", "if", "dependentRequired", "dependentSchemas", "dependencies", "contains",
    "unevaluatedItems",
)  # fmt: skip
_CHOICES = ("anyOf", "oneOf")
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
"""The formats that llguidance knows; others are annotations, as JSON Schema has it."""
_OF_OBJECTS = (
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "required",
)
_OF_ARRAYS = ("items", "prefixItems", "uniqueItems", "minItems", "maxItems")
_MAX_ORDERS = 5
"""Most values whose orders are written out for `uniqueItems`: there are 326 of five."""


def enforceable(
    schema: Mapping[str, Any] | bool, *, is_object: bool = False, is_exact: bool = True
) -> dict[str, Any]:
    """A schema that llguidance enforces, which allows nothing that `schema` forbids.

    Args:
        is_object: an object is wanted, whether or not the schema says so: a tool's parameters.
        is_exact: whether a `oneOf` whose alternatives may match the same is refused; otherwise
            that is allowed, for who looks at the values afterwards.

    Raises:
        SchemaError: it has what cannot be enforced, or nothing finite matches it.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    made, definitions = _Reader(schema, is_exact=is_exact).read_all()
    return without_endless(_as_object(made) if is_object else made, definitions)


def _as_object(made: dict[str, Any]) -> dict[str, Any]:
    kinds = made.get("type", "object")
    if kinds == "object" or "object" in kinds:
        return {**made, "type": "object"}
    raise SchemaError("a tool's parameters must be an object")


class _Reader:
    """Reads one schema, and its subschemas that references lead to, each once."""

    def __init__(self, root: Mapping[str, Any], *, is_exact: bool) -> None:
        self._root, self._is_exact = root, is_exact
        self._references = References(root)
        self._exclusive = Exclusive(root, self._references)
        self._names: dict[tuple[int, bool], str] = {}
        self._unread: list[tuple[str, Any, bool]] = []
        self._steps = 0

    def read_all(self) -> tuple[dict[str, Any], dict[str, Schema]]:
        """The schema, and the definitions that it refers to by `#/$defs/...`."""
        made = self.read(self._root)
        definitions: dict[str, Schema] = {}
        while self._unread:
            name, target, closes = self._unread.pop()
            definitions[name] = self.read(target, closes=closes)
        return cast("dict[str, Any]", made), definitions

    def read(self, node: Any, *, closes: bool = True) -> Schema:
        """A subschema. `closes`: whether nothing else says which keys an object may have."""
        self._count()
        if isinstance(node, bool):
            return {} if node else False
        if not isinstance(node, Mapping):
            raise SchemaError(f"{json.dumps(node)[:60]} is no schema")
        node = cast("Mapping[str, Any]", node)
        for keyword in _IMPOSSIBLE:
            if keyword in node:
                raise SchemaError(f"{keyword} cannot be enforced")
        made = {keyword: node[keyword] for keyword in _COPIED if keyword in node}
        if required := _required(node):
            made["required"] = required
        self._add_type(made, node)
        if node.get("format") in _FORMATS:
            made["format"] = node["format"]
        _add_bounds(made, node)
        self._add_items(made, node)
        if node.get("uniqueItems") is True:
            self._add_unique(made, node)
        combined = self._add_combined(made, node, closes=closes)
        self._add_properties(made, node, closes=closes, combined=combined)
        return made

    def _add_type(self, made: dict[str, Any], node: Mapping[str, Any]) -> None:
        """Give a type to what only its keywords tell: everybody means objects by `properties`."""
        if "type" in node or "const" in node or "enum" in node:
            return
        if "properties" in node:
            made["type"] = "object"
        elif ("items" in node or "prefixItems" in node) and not _any_in(_OF_OBJECTS, node):
            made["type"] = "array"
        elif "pattern" in node and not _any_in(_OF_OBJECTS + _OF_ARRAYS, node):
            made["type"] = "string"

    # --- arrays ----------------------------------------------------------------------------------

    def _add_items(self, made: dict[str, Any], node: Mapping[str, Any]) -> None:
        items, first = node.get("items"), node.get("prefixItems")
        if isinstance(items, list):  # until draft 2019-09
            items, first = node.get("additionalItems"), items
        if isinstance(first, list):
            made["prefixItems"] = [self.read(one) for one in cast("list[Any]", first)]
        if items is not None:
            made["items"] = self.read(items)

    def _add_unique(self, made: dict[str, Any], node: Mapping[str, Any]) -> None:
        """Write out the orders of a few values; llguidance does not compare items."""
        least, most = node.get("minItems", 0), node.get("maxItems")
        if most in (0, 1):
            return
        values = self._values(node.get("items"))
        if values is None or len(values) > _MAX_ORDERS or "prefixItems" in made:
            raise SchemaError(
                "uniqueItems can be enforced only where items is an enum of at most "
                f"{_MAX_ORDERS} values"
            )
        longest = min(len(values), most if isinstance(most, int) else len(values))
        for keyword in ("items", "minItems", "maxItems", "type"):
            made.pop(keyword, None)
        sizes = range(least, longest + 1)
        made["enum"] = [list(order) for size in sizes for order in permutations(values, size)]

    def _values(self, node: Any) -> list[Any] | None:
        """The few values of a schema; None where it is no enumeration."""
        node = self._followed(node)
        if not isinstance(node, Mapping):
            return None
        if "const" in node:
            return [node["const"]]
        if node.get("type") == "boolean":
            return [True, False]
        values = node.get("enum")
        if not isinstance(values, list):
            return None
        return list({json.dumps(value, sort_keys=True): value for value in values}.values())

    def _followed(self, node: Any) -> Any:
        """What a node that is only a reference leads to."""
        seen: set[int] = set()
        while isinstance(node, Mapping) and isinstance(node.get("$ref"), str):
            if id(node) in seen:
                return None
            seen.add(id(node))
            node = self._references.target(cast("Mapping[str, Any]", node), "$ref")
        return node

    # --- combinations ----------------------------------------------------------------------------

    def _add_combined(
        self, made: dict[str, Any], node: Mapping[str, Any], *, closes: bool
    ) -> set[str]:
        """Add references and combinations; return the keys of which the whole is to have no others.

        One part that has properties is closed by itself. Where there are more, or where the node has
        properties as well, each is left open, since an object has the keys of all of them.
        """
        groups = [group for _, group in self._groups(node)]
        keys = [set[str]().union(*map(self._keys, group)) for group in groups]
        alone = "properties" not in node and sum(map(bool, keys)) <= 1
        for keyword, group in self._groups(node):
            if keyword in REFERENCES:
                read: list[Schema] = [{"$ref": self._name(group[0], closes=closes and alone)}]
            else:
                if keyword == "oneOf":
                    group = self._apart(group, closes=closes and alone)
                read = [self.read(part, closes=closes and alone) for part in group]
            if keyword not in _CHOICES:
                made.setdefault("allOf", []).extend(read)
            elif "anyOf" in made:
                made.setdefault("allOf", []).append({"anyOf": read})
            else:
                made["anyOf"] = read
        if len(made.get("allOf", ())) == 1 and list(made["allOf"][0]) == ["$ref"]:
            made |= made.pop("allOf")[0]
        return set() if alone else set[str]().union(*keys)

    def _apart(self, group: list[Any], *, closes: bool) -> list[Any]:
        """The alternatives of a `oneOf`, made to exclude each other."""
        try:
            return self._exclusive.alternatives(group, closes=closes)
        except SchemaError:
            if self._is_exact:
                raise
            return group

    def _groups(self, node: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
        """What a node is combined of: parts that all hold, one by one, and lists of choices."""
        for keyword in REFERENCES:
            if keyword in node:
                yield keyword, [self._references.target(node, keyword)]
        for keyword in ("allOf", *_CHOICES):
            parts = node.get(keyword)
            if parts is None:
                continue
            if not isinstance(parts, list) or not parts:
                raise SchemaError(f"{keyword} must be a list that is not empty")
            parts = cast("list[Any]", parts)
            yield from (
                [(keyword, parts)] if keyword in _CHOICES else [(keyword, [one]) for one in parts]
            )

    def _keys(self, node: Any) -> set[str]:
        """The keys that a schema, or what it is combined of, names."""
        keys: set[str] = set()
        seen: set[int] = set()
        stack = [node]
        while stack:
            one = stack.pop()
            if not isinstance(one, Mapping) or id(one) in seen:
                continue
            self._count()
            seen.add(id(one))
            one = cast("Mapping[str, Any]", one)
            if isinstance(properties := one.get("properties"), Mapping):
                keys.update(cast("Mapping[str, Any]", properties))
            keys.update(_required(one))
            for _, group in self._groups(one):
                stack += group
        return keys

    def _name(self, target: Any, *, closes: bool) -> str:
        """The address of a definition, which is read later: chains of references may be long."""
        key = id(target), closes
        name = self._names.get(key)
        if name is None:
            name = self._names[key] = f"s{len(self._names)}"
            self._unread.append((name, target, closes))
        return f"#/$defs/{name}"

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError("it is too large")

    # --- objects ---------------------------------------------------------------------------------

    def _add_properties(
        self, made: dict[str, Any], node: Mapping[str, Any], *, closes: bool, combined: set[str]
    ) -> None:
        own: dict[str, Schema] = {}
        if isinstance(properties := node.get("properties"), Mapping):
            own = {
                key: self.read(one) for key, one in cast("Mapping[str, Any]", properties).items()
            }
        elif "properties" in node:
            raise SchemaError("properties must be an object")
        patterns = self._patterns(node, own)
        others = node.get("additionalProperties", node.get("unevaluatedProperties"))
        if "propertyNames" in node:
            patterns, others = self._named_keys(own, patterns, others, node["propertyNames"])
        if others is None and closes and not patterns and (own or combined):
            further = {*combined, *_required(node)} - own.keys()
            own = {**own, **{key: {} for key in sorted(further)}}
            others = False
        if own or "properties" in node:
            made["properties"] = own
        if patterns:
            made["patternProperties"] = patterns
        if others is not None:
            made["additionalProperties"] = self.read(others)

    def _patterns(self, node: Mapping[str, Any], own: dict[str, Schema]) -> dict[str, Schema]:
        """The pattern properties that no key of `own` matches; the others restrict that key.

        llguidance reads a key that could be of both as the pattern's, and finds no way on.
        """
        kept: dict[str, Schema] = {}
        given = node.get("patternProperties")
        if given is None:
            return kept
        if not isinstance(given, Mapping):
            raise SchemaError("patternProperties must be an object")
        for pattern, one in cast("Mapping[str, Any]", given).items():
            read = self.read(one)
            matched = [key for key in own if _matches(pattern, key)]
            for key in matched:
                own[key] = _both(own[key], read)
            if not matched:
                kept[pattern] = read
        return kept

    def _named_keys(
        self, own: dict[str, Schema], patterns: dict[str, Schema], others: Any, names: Any
    ) -> tuple[dict[str, Schema], Any]:
        """Restrict an object's keys to those that a schema of names allows."""
        names = self._followed(names)
        if names is True or names == {}:
            return patterns, others
        if names is False:
            own.clear()
            return {}, False
        value: Any = True if others is None else others
        if (values := self._values(names)) is not None:
            allowed = [name for name in values if isinstance(name, str)]
            for key in own.keys() - set(allowed):
                del own[key]
            if value is not False and not patterns:
                own |= {name: self.read(value) for name in allowed if name not in own}
            return {}, False
        pattern = _name_pattern(names)
        for key in [key for key in own if not _matches(pattern, key)]:
            del own[key]
        if patterns:
            raise SchemaError("propertyNames beside patternProperties cannot be enforced")
        if own or value is False:
            return {}, False
        return {pattern: self.read(value)}, False


def _required(node: Mapping[str, Any]) -> list[str]:
    required = node.get("required", ())
    if not isinstance(required, (list, tuple)):
        return []  # a property's flag, in draft 3
    return [key for key in cast("list[Any]", required) if isinstance(key, str)]


def _any_in(keywords: tuple[str, ...], node: Mapping[str, Any]) -> bool:
    return any(keyword in node for keyword in keywords)


def _add_bounds(made: dict[str, Any], node: Mapping[str, Any]) -> None:
    """Write draft 4's `exclusiveMinimum: true` as later drafts do."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(node.get(exclusive), bool):
            del made[exclusive]
            if node[exclusive] and bound in made:
                made[exclusive] = made.pop(bound)


def _matches(pattern: str, key: str) -> bool:
    try:
        return re.search(pattern, key) is not None
    except (re.error, RecursionError):
        raise SchemaError(f"the pattern {pattern[:60]!r} cannot be read") from None


def _both(left: Schema, right: Schema) -> Schema:
    if left is False or right is False:
        return False
    return {"allOf": [left, right]} if left else right


def _name_pattern(names: Any) -> str:
    """The pattern of all names that a schema allows."""
    if not isinstance(names, Mapping):
        raise SchemaError("propertyNames must be a schema")
    rest = names.keys() - {"type", "pattern", "minLength", "maxLength", "title", "description"}
    has_length = "minLength" in names or "maxLength" in names
    if rest - {"format", "$comment"} or ("pattern" in names and has_length):
        raise SchemaError("this propertyNames cannot be enforced: give a pattern, or an enum")
    if "pattern" in names:
        return str(names["pattern"])
    return f"^.{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
