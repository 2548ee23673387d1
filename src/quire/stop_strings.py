"""Stop strings in a stream of text, of an engine or of an answer."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Finds stop strings in a stream of text and holds back what could become one.

    Invariant: the text returned by all `add` calls and `flush` is the whole text, or, where a stop
    string was found, the text before it, and the string itself with `keep`. The first to be complete
    counts, and of several that end together the longest, so the result does not depend on how tokens
    cut the text. Each character is looked at once for each stop string, however long these are.
    """

    def __init__(self, strings: Sequence[str], *, keep: bool = False) -> None:
        self._keep = keep
        self._automata = [_Automaton(string) for string in dict.fromkeys(strings)]
        self._matched = [0] * len(self._automata)  # how much of each string the text ends with
        self._held = ""
        self.match: str | None = None
        """The stop string that was found; nothing may be added after it."""

    @property
    def keeps(self) -> bool:
        """Whether the text ends with the string that was found."""
        return self._keep

    @property
    def held(self) -> int:
        """The number of characters that are held back."""
        return len(self._held)

    def add(self, text: str, *, armed: bool = True) -> str:
        """Take more text and return what may be shown. Nothing is found while not `armed`."""
        if not self._automata:
            return text
        end = self._scan(text, armed)
        buffer = self._held + text
        if self.match is not None:
            cut = len(self._held) + end - (0 if self._keep else len(self.match))
            self._held = ""
            return buffer[:cut]
        cut = len(buffer) - max(self._matched)
        self._held = buffer[cut:]
        return buffer[:cut]

    def flush(self) -> str:
        """Return the text held back; the stream has ended without a stop string."""
        held, self._held = self._held, ""
        self._matched = [0] * len(self._automata)
        return held

    def _scan(self, text: str, armed: bool) -> int:
        """Read the text and return the length read when a stop string was found, or all of it."""
        first_end = len(text)
        for index, automaton in enumerate(self._automata):
            matched = self._matched[index]
            if not matched and automaton.first not in text:
                continue
            full = len(automaton.pattern)
            for position in range(len(text)):
                matched = automaton.advance(matched, text[position])
                if matched < full:
                    continue
                if armed:
                    first_end = self._prefer(automaton.pattern, position + 1, first_end)
                    break
                matched = automaton.border  # its end may be the beginning of one that counts
            self._matched[index] = matched
        return first_end

    def _prefer(self, pattern: str, end: int, first_end: int) -> int:
        better = self.match is None or (-end, len(pattern)) > (-first_end, len(self.match))
        if better:
            self.match = pattern
            return end
        return first_end


class _Automaton:
    """Knuth, Morris and Pratt's automaton of one string: each character is read once."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.first = pattern[0]
        self._borders = _borders(pattern)
        self.border = self._borders[-1]

    def advance(self, matched: int, character: str) -> int:
        """Return how much of the pattern the text ends with after one more character.

        `matched`, how much it ended with before, is less than the whole pattern.
        """
        pattern, borders = self.pattern, self._borders
        while matched and pattern[matched] != character:
            matched = borders[matched]
        return matched + 1 if pattern[matched] == character else 0


def _borders(pattern: str) -> list[int]:
    """Return, for each prefix length, the longest proper prefix that is also its suffix."""
    borders = [0, 0]
    length = 0
    for character in pattern[1:]:
        while length and pattern[length] != character:
            length = borders[length]
        if pattern[length] == character:
            length += 1
        borders.append(length)
    return borders
