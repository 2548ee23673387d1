"""What ends an answer in its text: a client's stop strings, and what ends a message of the model's.

Engines see one text, in which a thought may hold a stop string as well as the answer. So where a
model thinks, the strings are looked for here, in the texts of the answer alone. In the same way a
token may end a thought, or a text before calls, and elsewhere the turn.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace

from quire.outputs import AnswerPart, Delta, TextPart, Usage
from quire.stop_strings import StopStrings


def held_back(text: str, markers: Collection[str]) -> int:
    """Return how many characters at the end of `text` could be the beginning of a marker."""
    longest = max((len(marker) for marker in markers), default=1)
    for length in range(min(longest - 1, len(text)), 0, -1):
        tail = text[-length:]
        if any(marker.startswith(tail) for marker in markers):
            return length
    return 0


class TurnEnds:
    """Cuts an answer, without its thought, where the turn ends.

    Invariant: what `add` and `flush` return is the answer up to the first of `ends` that nothing of
    `goes_on` follows, however the text was cut.

    Args:
        ends: texts that end a message.
        goes_on: texts of which one follows them where calls follow in the same turn.
    """

    def __init__(self, ends: Sequence[str], goes_on: Sequence[str] = ()) -> None:
        self._ends, self._goes_on = tuple(ends), tuple(text.lstrip() for text in goes_on)
        self._pattern = re.compile("|".join(map(re.escape, ends)))
        self._pending = ""
        self.ended = False
        """Whether the turn has ended; nothing of what comes then is the answer's."""
        self.dropped = 0
        """How many characters were left out: what ended the turn, and what came after it."""

    def add(self, text: str, *, armed: bool = True) -> str:
        """Return what is certain to be the answer's. Nothing ends it while not `armed`."""
        if self.ended:
            return ""
        text = self._pending + text
        shown = 0
        for match in self._pattern.finditer(text) if armed else ():
            rest = text[match.end() :].lstrip()
            if any(rest.startswith(more) for more in self._goes_on):
                continue
            shown = match.start()
            if any(more.startswith(rest) for more in self._goes_on):
                self._pending = text[shown:]
                return text[:shown]
            self._end(text[shown:])
            return text[:shown]
        shown = len(text) - held_back(text, self._ends)
        self._pending = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """Return what was held back; the stream has ended."""
        held, self._pending = self._pending, ""
        if held.startswith(self._ends):
            self._end(held)
            return ""
        return held

    def _end(self, text: str) -> None:
        self.ended, self.dropped, self._pending = True, len(text), ""


class AnswerStops:
    """Cuts one completion at the first stop string of its answer, or where its reader ends it.

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

    def read(self, delta: Delta, reasoning_tokens: int = 0) -> Delta:
        """The delta, up to a stop string; what may be the beginning of one is held back.

        `reasoning_tokens` are those that the thought has so far.
        """
        self._tokens += len(delta.token_ids)
        given = (TextPart(delta.text),) if delta.parts is None else delta.parts
        looked_at = self._stops.held + sum(len(p.text) for p in given if isinstance(p, TextPart))
        parts = self._parts(given)
        ends = delta.finish_reason is not None and self._stops.match is None
        if ends and (held := self._stops.flush()):
            parts.append(TextPart(held))
        text = self._raw + delta.text
        match = self._stops.match
        usage = delta.usage
        if usage is None and (match is not None or delta.finish_reason is not None):
            counts = self._prompt_length, self._tokens
            usage = Usage(*counts, reasoning_tokens=reasoning_tokens)
        if match is None:
            held = self._stops.held
            self._raw = text[len(text) - held :] if held else ""
            self.ended = delta.finish_reason is not None
            return replace(delta, text=text[: len(text) - held], parts=tuple(parts), usage=usage)
        self.ended = True
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
