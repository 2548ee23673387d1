"""Writing the grammar of parameters between tags."""

from __future__ import annotations

from typing import Any, cast

from quire.constraints.call_writer import KEY, CallWriter, python_words
from quire.constraints.lark import joined
from quire.constraints.raw_text import restriction
from quire.tools.call_form import TagArguments


class TagWriter(CallWriter):
    """Parameters between tags."""

    @property
    def _tags(self) -> TagArguments:
        return cast("TagArguments", self.form.arguments)

    def arguments(self, schema: dict[str, Any], head: str, tail: str) -> str:
        between = self._tags.between
        known = self.members(schema, self._member, between, head, tail)
        if known is not None:
            return known
        first, more = (self.rules.add(self._any(text)) for text in (head, between))
        some = joined(first, f"({more})*", self.rules.literal(tail))
        return self.rules.add(f"{some} | {self.empty(head, tail)}")

    def _member(self, text: str, key: str, schema: dict[str, Any]) -> str:
        """One parameter after a text: a string, which is raw, or another value, which is JSON."""
        tags, schema = self._tags, self.followed(schema)
        text += tags.before + key
        texts, others = _split(schema)
        if not tags.raw_strings:
            texts, others = [], schema
        end = tags.after.replace("\0", key)
        string_text = text + (tags.middle if tags.string_middle is None else tags.string_middle)
        choices: list[str] = []
        if texts is None:
            # A text that is not restricted is also each other value that nothing tells from texts.
            is_told = others is None or tags.string_middle is not None
            within = restriction(schema, end) if is_told else None
            until = self.rules.text_until(end, within)
            choices.append(f"{self.rules.literal(string_text)} {until}")
        else:
            choices += [self.rules.literal(string_text + one + end) for one in texts]
        if others is not None and (texts is not None or tags.string_middle is not None):
            text += tags.middle
            before, after = self.rules.literal(text), self.rules.literal(end)
            choices.append(f"{before} {self.json(others)} {after}")
            words = python_words(others) if tags.raw_strings else []
            choices += [self.rules.literal(text + word + end) for word in words]
        return self.rules.add(" | ".join(choices))

    def _any(self, text: str) -> str:
        """A parameter of any name."""
        tags = self._tags
        middle = tags.middle if tags.string_middle is None else tags.string_middle
        before = self.rules.literal(text + tags.before)
        until, *again = tags.after.split("\0")
        after = "".join(f" {KEY} {self.rules.literal(piece)}" for piece in again)
        until = self.rules.text_until(until)
        return f"{before} {KEY} {self.rules.literal(middle)} {until}{after}"


def _split(schema: dict[str, Any]) -> tuple[list[str] | None, dict[str, Any] | None]:
    """The texts that a value may be, None for any text; and the schema of its other values.

    A schema that is combined of others restricts its texts no further.
    """
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if values is not None:
        texts = [value for value in values if isinstance(value, str)]
        rest = [value for value in values if not isinstance(value, str)]
        return texts, {"enum": rest} if rest else None
    if "anyOf" in schema and "type" not in schema:
        return _split_choices(schema)
    if "allOf" in schema or "$ref" in schema:
        return None, schema
    kinds = schema.get("type", ["string", "number", "boolean", "null", "array", "object"])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    rest = [kind for kind in kinds if kind != "string"]
    others = {**schema, "type": rest} if rest else None
    return (None if "string" in kinds else []), others


def _split_choices(
    schema: dict[str, Any],
) -> tuple[list[str] | None, dict[str, Any] | None]:
    texts: list[str] | None = []
    others: list[dict[str, Any]] = []
    for choice in schema["anyOf"]:
        more, other = _split(choice)
        texts = None if texts is None or more is None else texts + more
        others += [] if other is None else [other]
    return texts, {"anyOf": others} if others else None
