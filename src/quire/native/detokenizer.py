"""Token ids to text, one at a time, never half a character."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no character yet decode to


class Detokenizer(Protocol):
    """What the engine needs: text for the tokens of one completion."""

    def add(self, token: int) -> str:
        """Take one more token and return the text that is certain now, often none."""
        ...

    def flush(self) -> str:
        """Return the text that was still held back."""
        ...


MakeDetokenizer = Callable[[SamplingParams], Detokenizer]
"""Makes one for each completion."""


def detokenizer_factory(tokenizer: Tokenizer) -> MakeDetokenizer:
    """Return what makes detokenizers for the completions of one model."""
    anchor = _find_anchor(tokenizer.backend)

    def make(params: SamplingParams) -> StreamDetokenizer:
        return StreamDetokenizer(tokenizer.backend, anchor, params.skip_special_tokens)

    return make


class StreamDetokenizer:
    """Decodes with tokenizers' DecodeStream, and without it where it cannot go on.

    Invariant: the strings returned are the decoded completion. The one exception: where a decoder
    takes back text that it gave earlier (byte fallback does, for a run of bytes that turns out to
    be no UTF-8), what was shown stays, and the rest is decoded by itself. DecodeStream fails there
    with "Invalid prefix encountered".
    """

    __slots__ = ("_anchor", "_backend", "_pending", "_skip", "_started", "_stream")

    def __init__(self, backend: Backend, anchor: int | None, skip_special_tokens: bool) -> None:
        self._backend = backend
        self._anchor = anchor
        self._skip = skip_special_tokens
        self._stream: DecodeStream | None = DecodeStream(skip_special_tokens=skip_special_tokens)
        self._pending: list[int] = []  # tokens whose text has not been returned
        self._started = False

    def add(self, token: int) -> str:
        self._pending.append(token)
        if self._stream is not None:
            try:
                text = self._stream.step(self._backend, token)
            except Exception:  # the library raises a bare Exception
                self._stream = None
            else:
                return self._show(text) if text else ""
        text = self._decode_pending()
        return "" if text.endswith(_UNFINISHED) else self._show(text)

    def flush(self) -> str:
        return self._show(self._decode_pending()) if self._pending else ""

    def _show(self, text: str) -> str:
        self._pending.clear()
        self._started = True
        return text

    def _decode_pending(self) -> str:
        """Decode by itself what has not been shown.

        A token known to be a letter goes before it: many decoders treat the first token apart, and
        byte fallback joins a run of bytes, which the letter ends.
        """
        if not self._started or self._anchor is None:
            return self._decode(self._pending)
        head = self._decode([self._anchor])
        return self._decode([self._anchor, *self._pending])[len(head) :]

    def _decode(self, ids: list[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=self._skip)


def _find_anchor(backend: Backend) -> int | None:
    """Return a token that decodes to a plain letter."""
    for letter in "aex":
        for token in reversed(backend.encode(letter, add_special_tokens=False).ids):
            if backend.decode([token], skip_special_tokens=False) == letter:
                return token
    return None
