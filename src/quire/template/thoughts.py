"""Thoughts in an assistant's text: the words around them are control tokens, for it wrote them so."""

from __future__ import annotations

import re

from quire.prompt import Span, Spans
from quire.template.format import merge_spans


def mark_thought(text: str, thought_words: tuple[str, str]) -> Spans:
    """The words around a thought at the start are the format's own; the rest is literal."""
    before, after = (re.escape(word.strip()) for word in thought_words)
    found = re.match(rf"\s*({before})(.*?)({after})", text, re.DOTALL) if before else None
    if found is None:
        return (Span(text, literal=True),)
    return merge_spans(
        (
            Span(text[: found.end(1)]),
            Span(found[2], literal=True),
            Span(found[3]),
            Span(text[found.end() :], literal=True),
        )
    )
