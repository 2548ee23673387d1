"""Writing the grammar of calls whose arguments are JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, cast

from quire.constraints.call_writer import CallWriter
from quire.constraints.lark import joined, string
from quire.tools.call_form import CallForm, JsonArguments, Slot

_DEEPEST = 60
"""Most white space before a member; what is deeper stands on one line."""


class JsonWriter(CallWriter):
    """Arguments as a JSON object."""

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        before, after = self.rules.literal(head), self.rules.literal(tail)
        written = self.rules.json(schema)
        indents = _indents(self.form)
        if indents is not None:
            closing, step = indents
            inner = self._object(schema, closing, step)
            written = written if inner is None else f"({written} | {inner})"
        return joined(before, written, after)

    # --- indented, as some templates write it

    def _object(self, schema: dict[str, Any], closing: str, step: str) -> str | None:
        """An object whose members stand on lines of their own; None where its keys are not known.

        `closing` is the line break before its brace, which `step` makes that before its members. An
        object without members is as in any JSON.
        """
        schema = self.followed(schema)
        properties = cast("dict[str, dict[str, Any]]", schema.get("properties", {}))
        if schema.get("additionalProperties") is not False or not properties:
            return None
        required = set(schema.get("required", ()))
        line = closing + step
        first, rest = "", string(closing + "}")
        for key, one in reversed(properties.items()):
            name = f"{json.dumps(key, ensure_ascii=False)}: "
            value = self._value(one, line, step)
            here = f"{string('{' + line + name)} {value} {rest}"
            after = f"{string(',' + line + name)} {value} {rest}"
            if key in required:
                first, rest = self.rules.add(here), self.rules.add(after)
            else:
                first = self.rules.add(f"{here} | {first}" if first else here)
                rest = self.rules.add(f"{after} | {rest}")
        return first

    def _value(self, schema: dict[str, Any], closing: str, step: str) -> str:
        compact = self.json(schema)
        if len(closing) > _DEEPEST:
            return compact
        inner = self.followed(schema)
        written = None
        if inner.get("type") == "object":
            written = self._object(inner, closing, step)
        elif inner.get("type") == "array" and isinstance(inner.get("items"), dict):
            written = self._array(inner, closing, step)
        return compact if written is None else f"({compact} | {written})"

    def _array(self, schema: dict[str, Any], closing: str, step: str) -> str | None:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if "prefixItems" in schema or most == 0:
            return None
        item = self._value(schema["items"], closing + step, step)
        further = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
        first, next_one = (string(sign + closing + step) for sign in "[,")
        return self.rules.add(
            f"{first} {item} ({next_one} {item}){further} {string(closing + ']')}"
        )

    def call(self, name: str, schema: dict[str, Any], before: str) -> str:
        """The call; as one JSON object where no marker tells it from text.

        llguidance reads a bare `{` either as JSON's or as a literal's, never as both.
        """
        as_json = self._as_json(name, schema)
        if as_json is None:
            return super().call(name, schema, before)
        before, close = self.rules.literal(before), self.rules.literal(self.form.close)
        return self.rules.add(joined(before, self.rules.json(as_json), close))

    def _as_json(self, name: str, schema: dict[str, Any]) -> dict[str, Any] | None:
        form = self.form
        if form.begin + form.open or not str(form.call[0]).startswith("{"):
            return None
        texts = {Slot.NAME: name, Slot.ARGUMENTS: '"\0arguments"', Slot.ID: "\0id", Slot.INDEX: "0"}
        written = [texts[part] if isinstance(part, Slot) else part for part in form.call]
        try:
            value = json.loads("".join(written), strict=False)
        except ValueError:
            return None
        if cast("JsonArguments", form.arguments).as_text:
            schema = {"type": "string", "pattern": r"^\{(.|\n)*\}$"}
        return {**_schema_of(value, schema), **_definitions_of(schema)}


def _indents(form: CallForm) -> tuple[str, str] | None:
    """The line break before the end of indented arguments, and what each level adds to it."""
    kind = cast("JsonArguments", form.arguments)
    line = kind.comma.lstrip(",")
    if not line.startswith("\n"):
        return None
    before = form.call[form.call.index(Slot.ARGUMENTS) - 1]
    own = re.search(r"(\n *)\"[^\n]*$", before) if isinstance(before, str) else None
    closing = own[1] if own is not None else "\n"
    return (closing, line[len(closing) :]) if line.startswith(closing) else None


def _definitions_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"$defs": schema["$defs"]} if "$defs" in schema else {}


def _schema_of(value: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The schema of a call's JSON, in which the arguments have their own."""
    if value == "\0arguments":
        return {key: one for key, one in arguments.items() if key != "$defs"}
    if value == "\0id":
        return {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,40}$"}
    if not isinstance(value, dict):
        return {"const": value}
    members = cast("dict[str, Any]", value)
    return {
        "type": "object",
        "properties": {key: _schema_of(one, arguments) for key, one in members.items()},
        "required": list(members),
        "additionalProperties": False,
    }
