"""A message's text as spans.

The words around a thought in an assistant's text are control tokens, for it wrote them so; and what
a media family wrote in a medium's place is.
"""

from __future__ import annotations

import re

from quire.messages import Control, Media, Message
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


def message_spans(message: Message) -> Spans:
    """All of a message's text: literal, but for what a media family wrote."""
    return merge_spans(
        tuple(
            Span(part.text, literal=not isinstance(part, Control))
            for part in message.parts
            if not isinstance(part, Media)
        )
    )
