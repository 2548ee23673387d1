"""Where one completion stands in its grammar."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quire.native.constraints.vocabulary import Vocabulary
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

Banned = NDArray[np.bool_]
"""(V,) True for each token that may not come next."""


class Matcher:
    """Follows the tokens of one completion and says which may come next.

    After each `accept` comes one `prepare`, in any thread, and then `banned`, which waits for it.
    Nothing here raises for what a grammar does: `error` says why no token is left.
    """

    __slots__ = (
        "_banned",
        "_enders",
        "_grammar",
        "_pending",
        "_vocabulary",
        "error",
        "is_complete",
    )

    def __init__(
        self, grammar: LLMatcher, vocabulary: Vocabulary, enders: Enders, first: bytes
    ) -> None:
        """Take over a grammar at its beginning, where `first` is llguidance's mask."""
        self._grammar = grammar
        self._vocabulary = vocabulary
        self._enders = enders
        self._pending: Future[None] | None = None
        self._banned = _banned(first, vocabulary, enders)
        self.error: str | None = None
        self.is_complete = False
        """Whether the grammar accepts what is there, and nothing can follow."""

    def accept(self, token: int) -> None:
        """Follow one more token, one that was not `banned`."""
        if not self._grammar.consume_token(token):
            self.error = told(self._grammar.get_error())
        elif self._grammar.is_stopped():
            self.is_complete = True

    def expect(self, prepared: Future[None]) -> None:
        """Note who runs `prepare`."""
        self._pending = prepared

    def prepare(self) -> None:
        """Find out what may come next. Most of it runs without Python's lock."""
        try:
            mask = self._grammar.compute_bitmask()
            failed = self._grammar.is_error()
        except Exception as error:
            self.error = told(str(error))
            failed = True
        else:
            if failed:
                self.error = told(self._grammar.get_error())
            else:
                self._banned = _banned(mask, self._vocabulary, self._enders)
        if failed:
            self._banned = np.ones(self._vocabulary.size, dtype=np.bool_)

    def banned(self) -> Banned:
        """The tokens that may not come next; waits until they are known."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        return self._banned


class Enders:
    """The tokens that end a request's completions.

    Where the grammar accepts, each may come. Elsewhere EOS may not, whatever its text is; a stop
    token may where the grammar takes its text, and then ends the completion as a stop string does.
    """

    __slots__ = ("anywhere", "eos")

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        eos = () if params.ignore_eos else params.eos_token_ids
        self.eos = _ids(eos, vocab_size)
        self.anywhere = _ids((*eos, *params.stop_token_ids), vocab_size)


def _ids(tokens: tuple[int, ...], vocab_size: int) -> NDArray[np.int64]:
    return np.array([token for token in tokens if 0 <= token < vocab_size], dtype=np.int64)


def _banned(mask: bytes, vocabulary: Vocabulary, enders: Enders) -> Banned:
    bits = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little").view(np.bool_)
    count = min(vocabulary.num_tokens, vocabulary.size)
    banned = np.ones(vocabulary.size, dtype=np.bool_)
    np.logical_not(bits[:count], out=banned[:count])
    if bits[vocabulary.end]:
        banned[enders.anywhere] = False
    else:
        banned[enders.eos] = True
    return banned


def told(message: str) -> str:
    """One line of an error of llguidance's."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # A regular expression that cannot be read is shown in three lines, and the cause comes last.
    causes = [line for line in lines if line.startswith("error: ")]
    text = ": ".join([*lines[:1], *(cause.removeprefix("error: ") for cause in causes[:1])])
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " ..."


_MAX_MESSAGE = 300
