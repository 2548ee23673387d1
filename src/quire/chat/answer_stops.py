"""A client's stop strings in an answer that comes after a thought.

Engines see one text, in which a thought may hold a stop string as well as the answer. So where a
model thinks, the strings are looked for here, in the texts of the answer alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quire.outputs import AnswerPart, Delta, TextPart, Usage
from quire.stop_strings import StopStrings


class AnswerStops:
    """Cuts one completion at the first stop string of its answer.

    Invariant: of the deltas that are returned, the last has a finish reason, and no other one; after
    it `ended` is true, and the completion needs no more tokens.
    """

    def __init__(
        self, strings: Sequence[str], prompt_length: int, *, keep: bool, min_tokens: int = 0
    ) -> None:
        self._stops = StopStrings(strings, keep=keep)
        self._prompt_length, self._min_tokens = prompt_length, min_tokens
        self._tokens = 0
        self._raw = ""  # text of earlier deltas that is held back
        self.ended = False

    def read(self, delta: Delta) -> Delta:
        """The delta, up to a stop string; what may be the beginning of one is held back."""
        self._tokens += len(delta.token_ids)
        given = (TextPart(delta.text),) if delta.parts is None else delta.parts
        looked_at = self._stops.held + sum(len(p.text) for p in given if isinstance(p, TextPart))
        parts = self._parts(given)
        ends = delta.finish_reason is not None and self._stops.match is None
        if ends and (held := self._stops.flush()):
            parts.append(TextPart(held))
        text = self._raw + delta.text
        match = self._stops.match
        if match is None:
            held = self._stops.held
            self._raw = text[len(text) - held :] if held else ""
            self.ended = delta.finish_reason is not None
            return replace(delta, text=text[: len(text) - held], parts=tuple(parts))
        self.ended = True
        usage = delta.usage or Usage(self._prompt_length, self._tokens)
        at = text.find(match, max(len(text) - looked_at, 0))
        text = text[: max(at, 0) + (len(match) if self._stops.keeps else 0)]
        return replace(
            delta,
            text=text,
            parts=tuple(parts),
            finish_reason="stop",
            stop_reason=match,
            usage=usage,
        )

    def _parts(self, given: Sequence[AnswerPart]) -> list[AnswerPart]:
        armed = self._tokens >= self._min_tokens
        found: list[AnswerPart] = []
        for part in given:
            if self._stops.match is not None:
                break
            if not isinstance(part, TextPart):
                if held := self._stops.flush():  # a string does not reach across a call
                    found.append(TextPart(held))
                found.append(part)
            elif text := self._stops.add(part.text, armed=armed):
                found.append(TextPart(text))
        return found
