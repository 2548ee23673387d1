"""From a request's constraint to matchers, outside of the thread in which the engine steps."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from quire.constraints.fair_pool import grammar_pool
from quire.constraints.grammar import GrammarChecker
from quire.constraints.matcher import Matcher, StopTokens, error_line
from quire.constraints.vocabulary import Vocabulary, control_texts
from quire.errors import EngineBusyError, EngineClosedError, SamplingError
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

T = TypeVar("T")

TIME_LIMIT = 5.0
"""Seconds in which a constraint is to be compiled; llguidance's own limits end most much earlier."""

_COMPILE_SECONDS = 0.5  # of TIME_LIMIT, kept for compiling after the check
_KEPT_BYTES = 256 * 2**20
_BYTES = 2 * _KEPT_BYTES
_COPIERS = 1  # threads


@dataclass(eq=False, slots=True, weakref_slot=True)
class Compiled:
    """A compiled grammar; it lives for as long as it is kept or a matcher follows a copy of it."""

    grammar: LLMatcher  # at its beginning; it is only copied
    first_mask: bytes
    size: int  # bytes, about


class CompiledGrammars:
    """The compiled grammars of one model: those in use, and those kept for the next request.

    Both are bounded in bytes, since a schema of a line may take hundreds of megabytes. Thread-safe.
    """

    def __init__(self, most: int = _BYTES, most_kept: int = _KEPT_BYTES) -> None:
        self._most, self._most_kept = most, most_kept
        self._lock = threading.Lock()  # guards all below; also held while a grammar is copied
        self._kept: OrderedDict[bytes, Compiled] = OrderedDict()  # least recent first
        self._live: weakref.WeakSet[Compiled] = weakref.WeakSet()
        self._promised = 0  # bytes of those that are being compiled

    def find(self, key: bytes) -> Compiled | None:
        """A grammar that is kept."""
        with self._lock:
            compiled = self._kept.get(key)
            if compiled is not None:
                self._kept.move_to_end(key)
            return compiled

    def copies(self, compiled: Compiled, count: int) -> list[LLMatcher]:
        """So many copies of a grammar."""
        with self._lock:
            return [compiled.grammar.deep_copy() for _ in range(count)]

    @contextmanager
    def room(self, size: int) -> Generator[None]:
        """Room for a grammar of this size while it is compiled; others are given up for it.

        Raises:
            SamplingError: there never is so much.
            EngineBusyError: grammars in use leave too little.
        """
        if size > self._most_kept:
            raise SamplingError(
                f"response_format cannot be compiled: it takes {size / 2**20:,.0f} MiB of memory, "
                f"and {self._most_kept / 2**20:,.0f} MiB are allowed. Make it smaller."
            )
        with self._lock:
            while self._kept and self._size() + size > self._most:
                self._kept.popitem(last=False)
            if self._size() + size > self._most:
                raise EngineBusyError(
                    "response_format: the grammars in use leave no memory for it. Try again soon."
                )
            self._promised += size
        try:
            yield
        finally:
            with self._lock:
                self._promised -= size

    def keep(self, key: bytes, compiled: Compiled) -> None:
        """Keep a grammar; of all that are kept the least recent are given up."""
        with self._lock:
            self._live.add(compiled)
            self._kept[key] = compiled
            self._kept.move_to_end(key)
            size = sum(one.size for one in self._kept.values())
            while size > self._most_kept:
                size -= self._kept.popitem(last=False)[1].size

    def _size(self) -> int:
        return self._promised + sum(one.size for one in self._live)


class ConstraintCompiler:
    """Compiles constraints for one model. llguidance is imported for the first of them.

    Compiled grammars are kept, so that a schema asked for again costs a copy. Thread-safe.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` counts the model's logits, of which there may be more than tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabulary: Vocabulary | None = None
        self._vocabulary_lock = threading.Lock()
        self._grammars = CompiledGrammars()
        self._checker = GrammarChecker(control_texts(tokenizer))
        self._compiling = grammar_pool()
        self._copying = ThreadPoolExecutor(_COPIERS, thread_name_prefix="quire-grammar-copy")

    async def matchers(self, params: SamplingParams) -> list[Matcher]:
        """Return a matcher for each completion of a request; none where it has no constraint.

        A constraint that is compiled already does not wait for those that are not.

        Raises:
            SamplingError: the constraint cannot be compiled, or not in `TIME_LIMIT` seconds.
            UnsupportedOptionError: llguidance cannot read the model's tokenizer.
            EngineBusyError: too many others are being compiled.
            EngineClosedError: after `close`.
        """
        if params.response_format is None:
            return []
        constraint = params.response_format
        found = await self._in_thread(partial(self._kept, params, constraint))
        if found is not None:
            return found
        work = partial(self.compile, params)
        try:
            return await self._compiling.run(params.tenant, work, TIME_LIMIT)
        except TimeoutError:
            raise SamplingError(
                f"response_format was not compiled within {TIME_LIMIT:g} s: make it smaller."
            ) from None

    def compile(
        self, params: SamplingParams, given_up: threading.Event | None = None
    ) -> list[Matcher]:
        """Do the same as `matchers` in this thread. `given_up` ends it where that can be.

        Raises:
            SamplingError: the constraint cannot be compiled, or reading it does not end.
            UnsupportedOptionError: llguidance cannot read the model's tokenizer.
            EngineBusyError: the grammars in use leave no memory.
        """
        constraint = params.response_format
        if constraint is None:
            return []
        vocabulary = self._whole_vocabulary()
        key = _key(constraint)
        compiled = self._grammars.find(key)
        if compiled is None:
            seconds = TIME_LIMIT - _COMPILE_SECONDS
            text, reading = self._checker.read(constraint, seconds, given_up)
            with self._grammars.room(reading.bytes):
                compiled = _compile(text, vocabulary, reading.bytes)
                self._grammars.keep(key, compiled)
        return self._matchers(params, vocabulary, compiled)

    def close(self) -> None:
        """Take no more constraints."""
        self._copying.shutdown(wait=False)
        self._compiling.close()
        self._checker.close()

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._copying, work)
        except RuntimeError:
            raise EngineClosedError("The engine was closed.") from None

    def _kept(self, params: SamplingParams, constraint: Constraint) -> list[Matcher] | None:
        """The matchers of a constraint that is compiled already; None for another one.

        The vocabulary is made here, once, so that it counts against no request's time limit.
        """
        vocabulary = self._whole_vocabulary()
        compiled = self._grammars.find(_key(constraint))
        return None if compiled is None else self._matchers(params, vocabulary, compiled)

    def _matchers(
        self, params: SamplingParams, vocabulary: Vocabulary, compiled: Compiled
    ) -> list[Matcher]:
        stops = StopTokens(params, self._vocab_size)
        return [
            Matcher(copy, vocabulary, stops, compiled.first_mask, compiled)
            for copy in self._grammars.copies(compiled, params.n)
        ]

    def _whole_vocabulary(self) -> Vocabulary:
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._vocab_size)
            return self._vocabulary


def _key(constraint: Constraint) -> bytes:
    """What a constraint's grammar is kept by: making its text may take longer than this."""
    content = repr((constraint.kind, constraint.value))
    return sha256(content.encode(errors="surrogatepass")).digest()


def _compile(text: str, vocabulary: Vocabulary, size: int) -> Compiled:
    from llguidance import LLMatcher

    whole = LLMatcher.grammar_from_lark(text)
    grammar = LLMatcher(vocabulary.tokens, whole, log_level=0, limits=_limits())
    first_mask = b"" if grammar.is_error() else grammar.compute_bitmask()
    if grammar.is_error():
        raise SamplingError(
            f"response_format cannot be compiled: {error_line(grammar.get_error())}"
        )
    bits = np.unpackbits(np.frombuffer(first_mask, dtype=np.uint8), bitorder="little")
    bits[vocabulary.end] = 0
    if not bits.any():
        raise SamplingError("response_format cannot be compiled: it allows the empty text alone.")
    return Compiled(grammar, first_mask, size)


def _limits() -> LLParserLimits:
    """Lower limits than llguidance's own, since a slow mask delays every request of the step."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        verbose_errors=False,
        step_max_items=10_000,
        max_lexer_states=50_000,
    )
