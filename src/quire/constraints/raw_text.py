"""Texts that a notation writes without quotes, as their schemas restrict them.

What ends such a text is a text itself. So a restricted one may not hold the beginning of its end: a
model that wants to end it too early has to go on, as it has to where a quote would end it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_LONGEST = 1_000
"""The largest bound of a length that is held: bounds are written out as states."""
_GROUP = re.compile(r"\(\?(?!:)")
_ELSEWHERE = re.compile(r"\\[bBAZzGkpP1-9]|[*+?}][+]")


def restriction(schema: Mapping[str, Any], end: str) -> str | None:
    """A terminal's body for the texts of a schema that stand before `end`; None where they are free.

    Lengths are held up to a bound, and patterns with anchors at their ends alone.
    """
    parts = [part for part in (_length(schema), _pattern(schema.get("pattern"))) if part]
    if not parts:
        return None
    begins = re.escape(end.strip()[:2]).replace("/", r"\/")
    if begins:
        parts.append(rf"~/(.|\n)*{begins}(.|\n)*/")
    return " & ".join(parts)


def repeated(schema: Mapping[str, Any], least: str = "minLength", most: str = "maxLength") -> str:
    """How often something stands, as a quantifier: `*` for any number."""
    low, high = schema.get(least, 0), schema.get(most)
    low = low if isinstance(low, int) and low <= _LONGEST else 0
    if isinstance(high, int) and low <= high <= _LONGEST:
        return f"{{{low},{high}}}"
    return f"{{{low},}}" if low else "*"


def _length(schema: Mapping[str, Any]) -> str | None:
    quantifier = repeated(schema)
    return None if quantifier == "*" else rf"/(.|\n){quantifier}/"


def _pattern(pattern: Any) -> str | None:
    """An expression for whole texts, from a pattern that is looked for in them."""
    if not isinstance(pattern, str):
        return None
    begins, inner = pattern.startswith("^"), pattern.removeprefix("^")
    ends = inner.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", inner)
    inner = inner[:-1] if ends else inner
    if _GROUP.search(inner) or _ELSEWHERE.search(inner) or not _is_whole(inner, begins or ends):
        return None
    inner = inner.replace("/", r"\/").replace("\\\\/", r"\/").replace("\n", r"\n")
    anything = r"(.|\n)*"
    return f"/{'' if begins else anything}({inner}){'' if ends else anything}/"


def _is_whole(inner: str, is_anchored: bool) -> bool:
    """Whether an expression has no anchor inside, and no alternatives that an anchor would divide."""
    plain = re.sub(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", "x", inner, flags=re.DOTALL)
    depth = 0
    for char in plain:
        depth += (char == "(") - (char == ")")
        if char in "^$" or (char == "|" and depth == 0 and is_anchored):
            return False
    return True
