"""The text of one completion on its way out: detokenised, and cut before a stop string."""

from __future__ import annotations

from quire.engines.native.detokenizer import Detokenizer
from quire.engines.native.stopping import StopStrings
from quire.sampling import SamplingParams


class CompletionText:
    """Turns a completion's tokens into the text that may be shown.

    Invariant: the strings returned by all `add` calls and `flush` are the completion's text or,
    where a stop string was found, the text before it. Where only the whole answer is wanted, and
    nothing is searched for, tokens are read at the end, all at once.
    """

    __slots__ = ("_detokenizer", "_stops", "_unread")

    def __init__(self, detokenizer: Detokenizer, params: SamplingParams) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(params.stop) if params.stop else None
        self._unread: list[int] | None = None if params.streamed or params.stop else []

    @property
    def found(self) -> str | None:
        """The stop string that ends the completion, if one has come."""
        return None if self._stops is None else self._stops.found

    def add(self, token: int, *, armed: bool) -> str:
        """Take one more token. A stop string counts only while `armed` (from `min_tokens` on)."""
        if self._unread is not None:
            self._unread.append(token)
            return ""
        text = self._detokenizer.add(token)
        return text if self._stops is None else self._stops.add(text, armed=armed)

    def flush(self) -> str:
        """Return what was held back; the completion has ended."""
        if self._unread is not None:
            return self._detokenizer.read(self._unread)
        text = self._detokenizer.flush()
        if self._stops is None or self._stops.found is not None:
            return text if self._stops is None else ""
        return self._stops.add(text) + self._stops.flush()
