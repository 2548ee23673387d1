"""`response_format`: one constraint on the text of an answer.

Its forms, of which OpenAI has the first three:

    {"type": "text"}                                            no constraint
    {"type": "json_object"}                                     any JSON object
    {"type": "json_schema", "json_schema": {"schema": {...}}}   JSON of this schema; also {"schema": {...}}
    {"type": "regex", "regex": "..."}                           text that the expression matches whole
    {"type": "choice", "choice": ["yes", "no"]}                 one of these texts
    {"type": "grammar", "grammar": "..."}                       a grammar in EBNF or Lark's form
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from quire.errors import SamplingError, nearest, sentence

MAX_SIZE = 256 * 1024
"""Most characters of a schema, an expression, a grammar, or all choices together."""

MAX_DEPTH = 64
"""Most levels of nested objects and arrays in a schema."""

_FORMS = ("text", "json_object", "json_schema", "regex", "choice", "grammar")


@dataclass(frozen=True, slots=True)
class Constraint:
    """One constraint.

    `value` is the schema (a dictionary) for "json", a tuple of texts for "choice", a string for
    "regex" and "grammar", and None for "json_object". "answer" is a thought, calls or text, as
    `constraints.answer_form.AnswerForm` has it: preparation makes it for an engine.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar", "answer"]
    value: Any = None


def read_response_format(value: Mapping[str, Any] | Constraint | None) -> Constraint | None:
    """Read and check a request's `response_format`. Return None where it constrains nothing.

    Raises:
        SamplingError: its form is unknown, or it is too large or nested too deeply.
    """
    if value is None or isinstance(value, Constraint):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise SamplingError('response_format must be a dictionary with a "type".')
    kind: str = value["type"]
    if kind not in _FORMS:
        raise SamplingError(
            sentence(f"response_format has the unknown type {kind!r}{nearest(kind, _FORMS)}")
            + f" There are {', '.join(_FORMS)}."
        )
    if kind == "text":
        return None
    if kind == "json_object":
        return Constraint("json_object")
    if kind == "json_schema":
        return Constraint("json", _schema(value))
    if kind == "choice":
        return Constraint("choice", _choice(value.get("choice", value.get("choices"))))
    return Constraint("regex" if kind == "regex" else "grammar", _text(kind, value.get(kind)))


def _schema(value: Mapping[str, Any]) -> dict[str, Any]:
    outer = value.get("json_schema", value)
    schema = outer.get("schema") if isinstance(outer, Mapping) else None
    if not isinstance(schema, Mapping):
        raise SamplingError(
            'response_format of type json_schema needs {"json_schema": {"schema": {...}}}.'
        )
    _check_depth(schema)
    try:
        text = json.dumps(schema, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SamplingError(f"The schema of response_format is no JSON: {error}.") from None
    _check_size(len(text))
    return json.loads(text)  # a copy, so that the caller cannot change it later


def _check_depth(schema: Any) -> None:
    level: list[Any] = [schema]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, Mapping) else node)
            if isinstance(child, (Mapping, list, tuple))
        ]
        if not level:
            return
        _check_size(len(level))
    raise SamplingError(f"The schema of response_format nests more than {MAX_DEPTH} levels.")


def _choice(value: Any) -> tuple[str, ...]:
    texts = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise SamplingError(
            'response_format of type choice needs "choice": a list of texts that are not empty.'
        )
    _check_size(sum(map(len, texts)))
    return texts


def _text(kind: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise SamplingError(f'response_format of type {kind} needs "{kind}": a text.')
    _check_size(len(value))
    return value


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise SamplingError(f"response_format is larger than {MAX_SIZE:,} characters.")
