"""Where one completion stands in its grammar."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quire.constraints.vocabulary import Vocabulary
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bias = NDArray[np.float32]
"""(V,) What is added to the logits: 0 for each token that may come next, minus infinity for others.

Adding takes the same few microseconds for any pattern of tokens; a choice by booleans does not.
"""

_BYTES = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 0.0, -np.inf).astype(np.float32)
"""(256, 8) The bias of eight tokens, for each byte of a mask."""


class Matcher:
    """Follows the tokens of one completion and says which may come next.

    After each `accept` comes one `prepare`, in any thread, and then `bias`, which waits for it.
    Nothing here raises for what a grammar does: `error` says why no token is left.
    """

    __slots__ = (
        "_bias",
        "_enders",
        "_first",
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
        self._first = first  # shared; a bias of its own is made when it is asked for
        self._bias: Bias | None = None
        self.error: str | None = None
        self.is_complete = False
        """Whether the grammar accepts what is there, and nothing can follow."""

    def accept(self, token: int) -> None:
        """Follow one more token, one that `bias` let through."""
        self._bias = None
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
                self._bias = _bias(mask, self._vocabulary, self._enders)
        if failed:
            self._bias = np.full(self._vocabulary.size, -np.inf, dtype=np.float32)

    def bias(self) -> Bias:
        """What to add to the logits, so that nothing else comes next; waits until it is known."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        if self._bias is None:
            self._bias = _bias(self._first, self._vocabulary, self._enders)
        return self._bias


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


def _bias(mask: bytes, vocabulary: Vocabulary, enders: Enders) -> Bias:
    octets = np.frombuffer(mask, dtype=np.uint8)
    bias = np.full(vocabulary.size, -np.inf, dtype=np.float32)
    count = min(vocabulary.num_tokens, vocabulary.size)
    bias[:count] = _BYTES[octets[: -(-count // 8)]].reshape(-1)[:count]
    if octets[vocabulary.end // 8] >> (vocabulary.end % 8) & 1:
        bias[enders.anywhere] = 0.0
    else:
        bias[enders.eos] = -np.inf
    return bias


def told(message: str) -> str:
    """One line of an error of llguidance's."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # A regular expression that cannot be read is shown in three lines, and the cause comes last.
    causes = [line for line in lines if line.startswith("error: ")]
    text = ": ".join([*lines[:1], *(cause.removeprefix("error: ") for cause in causes[:1])])
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " ..."


_MAX_MESSAGE = 300
