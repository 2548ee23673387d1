"""Values that were written with no sign of their type, as the XML-like formats write them.

A string is written as it is and all else as JSON, so `21` may be either. The tool's schema decides;
without one, what is a JSON number, truth value, null, list or object is read as that, and all else
is a string, a text in double quotes too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quire.messages import ToolCall
from quire.tools.writing import dump, load, mapping, schema_of, sequence, unwrap

_TYPES: dict[type, tuple[str, ...]] = {
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    type(None): ("null",),
    list: ("array",),
    dict: ("object",),
}


class Schemas:
    """The known tools' parameters, by the tool's name."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        self._properties = {
            str(unwrap(tool).get("name")): mapping(schema_of(tool).get("properties"))
            for tool in tools
        }

    def __contains__(self, name: str) -> bool:
        return name in self._properties

    def __bool__(self) -> bool:
        return bool(self._properties)

    def call(self, name: str, arguments: Mapping[str, str]) -> ToolCall:
        """The call whose arguments were written like this."""
        known = self._properties.get(name, {})
        typed = {key: value_of(text, mapping(known.get(key))) for key, text in arguments.items()}
        return ToolCall(name, dump(typed))


def value_of(text: str, schema: Mapping[str, Any]) -> Any:
    """The value that `text` is, under the schema of its parameter (empty: unknown)."""
    allowed = _allowed_types(schema)
    if allowed == {"boolean"} and text.strip() in ("True", "False"):
        return text.strip() == "True"
    try:
        value = load(text)
    except ValueError:
        return text
    if isinstance(value, str) or (
        "string" in allowed and not allowed.intersection(_TYPES[type(value)])
    ):
        return text
    return value


def _allowed_types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema names; empty where it names none."""
    kind = schema.get("type")
    allowed = {kind} if isinstance(kind, str) else {str(name) for name in sequence(kind)}
    for key in ("anyOf", "oneOf", "allOf"):
        for choice in sequence(schema.get(key)):
            allowed |= _allowed_types(mapping(choice))
    if not allowed:
        choices = [schema["const"]] if "const" in schema else sequence(schema.get("enum"))
        for choice in choices:
            allowed.add("string" if isinstance(choice, str) else _TYPES.get(type(choice), ("",))[0])
    return allowed
