"""A constraint in llguidance's own form, the same as vLLM makes of it."""

from __future__ import annotations

import json
from typing import Any

from quire.errors import SamplingError
from quire.response_format import Constraint


def grammar_text(constraint: Constraint) -> str:
    """Write a constraint as a grammar for llguidance, which checks most of it later.

    Raises:
        SamplingError: a grammar that is neither Lark's form nor EBNF, or text that is no Unicode.
    """
    try:
        return _written(constraint.kind, constraint.value)
    except Exception as error:  # the reader of EBNF raises bare ones
        raise SamplingError(f"response_format cannot be read: {error}") from None


def _written(kind: str, value: Any) -> str:
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    if kind == "json_object":
        return _json({"type": "object"})
    if kind == "json":
        return _json(value)
    if kind == "regex":
        return LLMatcher.grammar_from_regex(value)
    return LLMatcher.grammar_from_lark(_choice(value) if kind == "choice" else any_to_lark(value))


def _json(schema: dict[str, Any]) -> str:
    """Where white space is free, a model may write it without end: there is none."""
    from llguidance import LLMatcher

    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema), defaults={"whitespace_flexible": False}
    )


def _choice(texts: tuple[str, ...]) -> str:
    """One terminal for all texts: alternatives of a rule would be limited to 2,000."""
    return "start: TEXT\nTEXT: " + " | ".join(json.dumps(t, ensure_ascii=False) for t in texts)
