"""Token ids to text, one at a time, never half a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from tokenizers import Tokenizer as Backend
from tokenizers.decoders import DecodeStream

from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"  # what bytes that are no character yet decode to
_MOST_PENDING = 32  # tokens; a character has at most 4 bytes, so these hold broken ones


class Detokenizer(Protocol):
    """What the engine needs: text for the tokens of one completion."""

    def add(self, token: int) -> str:
        """Take one more token and return the text that is certain now, often none."""
        ...

    def flush(self) -> str:
        """Return the text that was still held back."""
        ...

    def read(self, tokens: Sequence[int]) -> str:
        """Return the text of a whole completion. Not to be mixed with `add`."""
        ...


MakeDetokenizer = Callable[[SamplingParams], Detokenizer]
"""Makes one for each completion."""


def detokenizer_factory(tokenizer: Tokenizer) -> MakeDetokenizer:
    """Return what makes detokenizers for the completions of one model."""
    return partial(StreamDetokenizer, tokenizer.backend, _find_anchor(tokenizer.backend))


class StreamDetokenizer:
    """Decodes with tokenizers' DecodeStream, and without it where it cannot go on.

    Invariant: the strings returned are the decoded completion. The one exception: where a decoder
    takes back text that it gave earlier (byte fallback does, for a run of bytes that proves to be
    no UTF-8), what was shown stays, and the rest is decoded by itself. DecodeStream fails there
    with "Invalid prefix encountered".
    """

    __slots__ = ("_anchor", "_backend", "_pending", "_skip", "_started", "_stream")

    def __init__(self, backend: Backend, anchor: int | None, params: SamplingParams) -> None:
        """`anchor`: a token that decodes to a plain letter, if there is one."""
        self._backend = backend
        self._anchor = anchor
        self._skip = params.skip_special_tokens
        stream = DecodeStream(skip_special_tokens=self._skip)
        self._stream: DecodeStream | None = stream
        self._pending: list[int] = []  # tokens whose text has not been returned
        # Whether any text is before what comes: returned here, or at the end of the prompt.
        self._started = params.continues and anchor is not None
        if params.continues and anchor is not None:
            stream.step(backend, anchor)

    def add(self, token: int) -> str:
        """Take one more token; see `Detokenizer`."""
        self._pending.append(token)
        if self._stream is not None and len(self._pending) <= _MOST_PENDING:
            try:
                text = self._stream.step(self._backend, token)
            except Exception:  # the library raises a bare Exception
                self._stream = None
            else:
                if not text:
                    return ""
                self._pending.clear()
                self._started = True
                return text
        # DecodeStream would hold back broken bytes for ever. Once it is left, it cannot go on.
        self._stream = None
        text = self._decode(self._pending)
        if not text.endswith(_UNFINISHED):
            return self._show(text)
        return self._show_most(text) if len(self._pending) > _MOST_PENDING else ""

    def flush(self) -> str:
        """Return the text that was still held back."""
        return self._show(self._decode(self._pending)) if self._pending else ""

    def read(self, tokens: Sequence[int]) -> str:
        """Return the text of a whole completion."""
        return self._decode(tokens)

    def _show(self, text: str, pending: Sequence[int] = ()) -> str:
        self._pending = list(pending)
        self._started = True
        return text

    def _show_most(self, text: str) -> str:
        """Show all but the last few tokens, where a character may have begun.

        It bounds the work for a token: bytes that never become characters would otherwise be
        decoded again and again. The cut is made where it breaks no character.
        """
        head, tail = text, list[int]()
        for kept in (3, 4, 5, 6):
            tail = self._pending[-kept:]
            head = self._decode(self._pending[:-kept])
            if head + self._decode_after_others(tail) == text:
                break
        return self._show(head, tail)

    def _decode(self, ids: Sequence[int]) -> str:
        return self._decode_after_others(ids) if self._started else self._decode_alone(ids)

    def _decode_after_others(self, ids: Sequence[int]) -> str:
        """Decode ids that go on after others.

        A token known to be a letter goes before them: many decoders treat the first token apart,
        and byte fallback joins a run of bytes, which the letter ends.
        """
        if self._anchor is None:
            return self._decode_alone(ids)
        head = self._decode_alone([self._anchor])
        return self._decode_alone([self._anchor, *ids])[len(head) :]

    def _decode_alone(self, ids: Sequence[int]) -> str:
        return self._backend.decode(ids, skip_special_tokens=self._skip)


class NoDetokenizer:
    """The detokenizer of a request that generates nothing."""

    def add(self, token: int) -> str:
        """Return no text."""
        return ""

    def flush(self) -> str:
        """Return no text."""
        return ""

    def read(self, tokens: Sequence[int]) -> str:
        """Return no text."""
        return ""


def _find_anchor(backend: Backend) -> int | None:
    """Return a token that decodes to a plain letter."""
    for letter in "aex":
        for token in reversed(backend.encode(letter, add_special_tokens=False).ids):
            if backend.decode([token], skip_special_tokens=False) == letter:
                return token
    return None
