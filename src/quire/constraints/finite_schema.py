"""Schemas without what can never be finite.

A model that follows `{"properties": {"a": {"$ref": "#"}}, "required": ["a"]}` writes until it reaches
its token limit. So each subschema that nothing finite matches is cut out; what cannot be without it
is not finite either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from quire.constraints.schema_refs import MAX_STEPS, SchemaError

Schema: TypeAlias = dict[str, Any] | bool

_KINDS = ("null", "boolean", "number", "string", "array", "object")


def without_endless(made: dict[str, Any], definitions: Mapping[str, Schema]) -> dict[str, Any]:
    """A schema of which each part can be finite, with the definitions that it needs.

    Raises:
        SchemaError: nothing finite matches it.
    """
    cutter = _Cutter(definitions)
    whole = cutter.cut(made)
    if whole is None:
        raise SchemaError("nothing finite matches it")
    kept = {name: cutter.cut(definitions[name]) for name in cutter.finite}
    if used := _used(whole, kept):
        whole["$defs"] = {name: kept[name] for name in sorted(used)}
    return whole


class _Cutter:
    """Cuts what refers to definitions that are not known to be finite."""

    def __init__(self, definitions: Mapping[str, Schema]) -> None:
        self.finite: set[str] = set()
        self._steps = 0
        # What was defined last is most often what the others refer to.
        waiting = list(definitions)[::-1]
        while found := [name for name in waiting if self._is_finite(name, definitions[name])]:
            waiting = [name for name in waiting if name not in set(found)]

    def _is_finite(self, name: str, definition: Schema) -> bool:
        if self.cut(definition) is None:
            return False
        self.finite.add(name)
        return True

    def cut(self, node: Schema) -> dict[str, Any] | None:
        """A schema without its endless parts; None where nothing is left."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise SchemaError("it is too large")
        if isinstance(node, bool):
            return {} if node else None
        name = name_of(node)
        if name is not None and name not in self.finite:
            return None
        made = dict(node)
        if "allOf" in made:
            parts = [self.cut(one) for one in made["allOf"]]
            if None in parts:
                return None
            made["allOf"] = parts
        if "anyOf" in made:
            made["anyOf"] = [one for one in map(self.cut, made["anyOf"]) if one is not None]
            if not made["anyOf"]:
                return None
        return made if self._cut_items(made) and self._cut_properties(made) else None

    def _cut_items(self, made: dict[str, Any]) -> bool:
        """Cut the items; False where nothing is left."""
        first = [self.cut(one) for one in made.get("prefixItems", ())]
        most = first.index(None) if None in first else None
        items = made.get("items", True)
        if items is not True and items is not False:
            items = self.cut(items)
            made["items"] = False if items is None else items
        if items in (None, False) and most is None:
            most = len(first)
        if first:
            made["prefixItems"] = [one for one in first[:most] if one is not None]
            if most is not None:
                made["items"] = False
        return most is None or made.get("minItems", 0) <= most or _leave_out(made, "array")

    def _cut_properties(self, made: dict[str, Any]) -> bool:
        """Cut the properties; False where nothing is left."""
        for keyword in ("properties", "patternProperties"):
            if keyword in made:
                made[keyword] = {
                    key: False if (cut := self.cut(one)) is None else cut
                    for key, one in made[keyword].items()
                }
        if isinstance(others := made.get("additionalProperties"), dict):
            cut = self.cut(cast("dict[str, Any]", others))
            made["additionalProperties"] = False if cut is None else cut
        own = made.get("properties", {})
        others = made.get("additionalProperties", True)
        impossible = [
            key
            for key in made.get("required", ())
            if own.get(key, others if not made.get("patternProperties") else True) is False
        ]
        if others is False and own:
            made["properties"] = {key: one for key, one in own.items() if one is not False}
        return not impossible or _leave_out(made, "object")


def name_of(node: Mapping[str, Any]) -> str | None:
    """The definition that a schema refers to."""
    reference = node.get("$ref")
    return reference.removeprefix("#/$defs/") if isinstance(reference, str) else None


def _leave_out(made: dict[str, Any], kind: str) -> bool:
    """Allow no value of one kind; False where there is no other."""
    if "const" in made or "enum" in made:
        return True
    kinds = made.get("type", _KINDS)
    made["type"] = [one for one in ([kinds] if isinstance(kinds, str) else kinds) if one != kind]
    return bool(made["type"])


def _used(whole: Schema, kept: Mapping[str, Schema | None]) -> set[str]:
    """The definitions that a schema reaches."""
    used: set[str] = set()
    stack: list[Any] = [whole]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            name = name_of(cast("dict[str, Any]", node))
            if name is not None and name in kept and name not in used:
                used.add(name)
                stack.append(kept[name])
            stack += node.values()
        elif isinstance(node, list):
            stack += node
    return used
