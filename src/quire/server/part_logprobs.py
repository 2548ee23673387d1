"""The log-probabilities of an answer's tokens, told apart by the part that each token is of."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, TypeAlias

from quire.messages import ToolCall
from quire.outputs import Delta, TextPart, TokenLogprob
from quire.server.token_texts import TokenTexts

PartKind: TypeAlias = Literal["text", "thought"]


@dataclass(frozen=True, slots=True)
class PartLogprob(TokenLogprob):
    """The log-probability of a token of a text or a thought."""

    kind: PartKind = "text"


async def with_part_logprobs(
    deltas: AsyncGenerator[Delta, None], texts: TokenTexts
) -> AsyncGenerator[Delta, None]:
    """The deltas with `PartLogprob`s alone: without those of markers, calls and the end of a turn.

    A text that was held back comes with a later delta than its first tokens, and so do their
    log-probabilities. This has to be done before deltas are merged for a slow reader.
    """
    readers: dict[int, PartLogprobs] = {}
    async with aclosing(deltas):
        async for delta in deltas:
            reader = readers.setdefault(delta.index, PartLogprobs(texts))
            yield replace(delta, logprobs=tuple(reader.read(delta)) or None)


class PartLogprobs:
    """Reads one completion: finds the tokens that spell each text and each thought."""

    def __init__(self, texts: TokenTexts) -> None:
        self._texts = texts
        self._waiting: list[TokenLogprob] = []  # tokens of no part so far

    def read(self, delta: Delta) -> list[PartLogprob]:
        """The log-probabilities of the parts that this delta has."""
        new = delta.logprobs or ()
        self._waiting += new
        read: list[PartLogprob] = []
        parts = delta.all_parts()
        for left, part in zip(range(len(parts) - 1, -1, -1), parts, strict=True):
            if not isinstance(part, ToolCall):
                kind = "text" if isinstance(part, TextPart) else "thought"
                read += self._take(part.text.encode(), kind, len(new), is_last=not left)
        if delta.finish_reason is not None or (parts and isinstance(parts[-1], ToolCall)):
            self._waiting.clear()
        return read

    def _take(self, text: bytes, kind: PartKind, new: int, *, is_last: bool) -> list[PartLogprob]:
        """Take the tokens that spell the text, and drop those before them.

        Where no tokens do, as with a tokenizer whose text is not the sum of its tokens', the delta's
        own are taken.
        """
        spelt = [self._texts.bytes_of(token.token_id) for token in self._waiting]
        found = _find(text, spelt, last=is_last)
        start, end = (max(len(spelt) - new, 0), len(spelt)) if found is None else found
        taken = self._waiting[start:end]
        del self._waiting[:end]
        return [
            PartLogprob(token.token_id, token.logprob, token.top, token.rank, kind)
            for token in taken
        ]


def _find(text: bytes, tokens: list[bytes], *, last: bool) -> tuple[int, int] | None:
    """The range of the tokens that spell a text, which may lack white space at its start.

    Of several, the last is chosen where nothing follows the text: those before it are of a marker,
    and held back with it. A call that follows in the same delta may well repeat the text.
    """
    joined = b"".join(tokens)
    ends = list(accumulate(map(len, tokens)))
    indices = range(len(tokens))
    for stripped in (False, True):
        for index in reversed(indices) if last else indices:
            token = tokens[index].lstrip() if stripped else tokens[index]
            offset = ends[index] - len(token)
            if token and joined.startswith(text, offset):
                return index, 1 + bisect_left(ends, offset + len(text))
    return None
