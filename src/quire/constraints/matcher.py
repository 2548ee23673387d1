"""What the grammar of one completion allows next, computed while the model computes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quire.constraints.vocabulary import Vocabulary
from quire.sampling import SamplingParams

if TYPE_CHECKING:
    from llguidance import LLMatcher

Bias = NDArray[np.float32]
"""(V,) What is added to the logits: 0 for each token that may come next, minus infinity for others.

An addition takes the same few microseconds for any mask; choosing by booleans (`logits[~mask] = -inf`)
takes longer the more tokens are banned.
"""

_BYTE_BIASES = np.where(np.arange(256)[:, None] >> np.arange(8) & 1, 0.0, -np.inf).astype(
    np.float32
)
"""(256, 8) The bias of eight tokens, for each byte of a bit mask."""

_MAX_MESSAGE = 300


class StopTokens:
    """The tokens that end a request's completions.

    Where the grammar accepts, each of them may come. Elsewhere EOS may not, whatever its text is; a
    stop token may where the grammar takes its text, and then it ends the completion as a stop string
    does.
    """

    __slots__ = ("all", "eos")

    def __init__(self, params: SamplingParams, vocab_size: int) -> None:
        eos = () if params.ignore_eos else params.eos_token_ids
        self.eos = _known_ids(eos, vocab_size)
        self.all = _known_ids((*eos, *params.stop_token_ids), vocab_size)


def _known_ids(tokens: tuple[int, ...], vocab_size: int) -> NDArray[np.int64]:
    return np.array([token for token in tokens if 0 <= token < vocab_size], dtype=np.int64)


class Matcher:
    """Follows the tokens of one completion and says which may come next.

    Each `accept` is followed by one `prepare`, in any thread, and then by `bias`, which waits for it.
    No method raises for what a grammar does: `error` says why no token is left.
    """

    __slots__ = (
        "_bias",
        "_first_mask",
        "_grammar",
        "_pending",
        "_source",
        "_stop_tokens",
        "_vocabulary",
        "error",
        "is_complete",
    )

    def __init__(
        self,
        grammar: LLMatcher,
        vocabulary: Vocabulary,
        stop_tokens: StopTokens,
        first_mask: bytes,
        source: object = None,
    ) -> None:
        """Take over a grammar at its beginning, where `first_mask` is llguidance's bit mask.

        `source` is what the grammar is a copy of: it lives for as long as the matcher does.
        """
        self._grammar = grammar
        self._source = source
        self._vocabulary = vocabulary
        self._stop_tokens = stop_tokens
        self._pending: Future[None] | None = None
        self._first_mask = first_mask  # shared; the bias is made from it when it is asked for
        self._bias: Bias | None = None
        self.error: str | None = None
        self.is_complete = False
        """Whether the grammar accepts what is there, and nothing can follow."""

    def accept(self, token: int) -> None:
        """Follow one more token, one that `bias` let through."""
        self._bias = None
        if not self._grammar.consume_token(token):
            self.error = error_line(self._grammar.get_error())
        elif self._grammar.is_stopped():
            self.is_complete = True

    def expect(self, prepared: Future[None]) -> None:
        """Note the future that runs `prepare`."""
        self._pending = prepared

    def prepare(self) -> None:
        """Compute what may come next. llguidance releases the GIL for most of it."""
        try:
            mask = self._grammar.compute_bitmask()
            if self._grammar.is_error():
                self.error = error_line(self._grammar.get_error())
        except Exception as error:
            self.error = error_line(str(error))
        else:
            if self.error is None:
                self._bias = _bias(mask, self._vocabulary, self._stop_tokens)
        if self._bias is None:
            self._bias = np.full(self._vocabulary.size, -np.inf, dtype=np.float32)

    def bias(self) -> Bias:
        """Return what to add to the logits, so that nothing else comes next. Waits for `prepare`."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None
        if self._bias is None:
            self._bias = _bias(self._first_mask, self._vocabulary, self._stop_tokens)
        return self._bias


def _bias(mask: bytes, vocabulary: Vocabulary, stop_tokens: StopTokens) -> Bias:
    octets = np.frombuffer(mask, dtype=np.uint8)
    bias = np.full(vocabulary.size, -np.inf, dtype=np.float32)
    count = min(vocabulary.num_tokens, vocabulary.size)
    bias[:count] = _BYTE_BIASES[octets[: -(-count // 8)]].reshape(-1)[:count]
    if octets[vocabulary.end // 8] >> (vocabulary.end % 8) & 1:
        bias[stop_tokens.all] = 0.0
    else:
        bias[stop_tokens.eos] = -np.inf
    return bias


class MaskMaker:
    """Prepares matchers for their next token in a thread, while the model computes.

    `start` is called just before the model runs, not as soon as a token is accepted: the model's
    kernels hold no GIL, so the thread then delays no Python code of the step.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="quire-masks")
        self.waiting: list[Matcher] = []
        """Matchers that have accepted a token and are not prepared for the next."""

    def start(self) -> None:
        """Begin to prepare those that wait; each one's `bias` waits for it."""
        matchers, self.waiting = self.waiting, []
        prepared = self._pool.submit(_prepare_all, matchers)
        for matcher in matchers:
            matcher.expect(prepared)

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown()


def _prepare_all(matchers: Iterable[Matcher]) -> None:
    for matcher in matchers:
        matcher.prepare()


def error_line(message: str) -> str:
    """Return an error message of llguidance as one short line."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # A faulty regular expression is shown in three lines, and the cause comes last.
    causes = [line for line in lines if line.startswith("error: ")]
    text = ": ".join([*lines[:1], *(cause.removeprefix("error: ") for cause in causes[:1])])
    return text if len(text) <= _MAX_MESSAGE else text[:_MAX_MESSAGE] + " ..."
