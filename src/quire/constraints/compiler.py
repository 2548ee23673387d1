"""From a request's constraint to matchers, outside of the thread in which the engine steps."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from quire.constraints.grammar import GrammarChecker, grammar_text
from quire.constraints.matcher import Matcher, StopTokens, error_line
from quire.constraints.vocabulary import Vocabulary
from quire.errors import EngineClosedError, SamplingError
from quire.response_format import Constraint
from quire.sampling import SamplingParams
from quire.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLParserLimits

T = TypeVar("T")

TIME_LIMIT = 5.0
"""Seconds in which a constraint is to be compiled; llguidance's own limits end most much earlier."""

_COMPILE_SECONDS = 0.5  # of TIME_LIMIT, kept for compiling after the check
_CACHED = 32  # compiled grammars
_THREADS = 2


class _Compiled(NamedTuple):
    grammar: LLMatcher  # at its beginning; it is only copied
    first_mask: bytes


class ConstraintCompiler:
    """Compiles constraints for one model. llguidance is imported for the first of them.

    Compiled grammars are cached, so that a schema asked for again costs a copy. Thread-safe.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` counts the model's logits, of which there may be more than tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabularies: dict[bool, Vocabulary] = {}  # by whether special tokens have names
        self._vocabulary_lock = threading.Lock()
        self._cache: OrderedDict[str, _Compiled] = OrderedDict()  # least recent first
        self._cache_lock = threading.Lock()  # also held while a cached grammar is copied
        self._checker = GrammarChecker()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="quire-grammar")

    async def matchers(self, params: SamplingParams) -> list[Matcher]:
        """Return a matcher for each completion of a request; none where it has no constraint.

        Raises:
            SamplingError: the constraint cannot be compiled, or not in `TIME_LIMIT` seconds.
            UnsupportedOptionError: llguidance cannot read the model's tokenizer.
            EngineClosedError: after `close`.
        """
        if params.response_format is None:
            return []
        # The vocabulary is made once, and does not count against any request's time limit.
        await self._in_thread(partial(self._vocabulary, params.response_format))
        try:
            return await asyncio.wait_for(
                self._in_thread(partial(self.compile, params)), TIME_LIMIT
            )
        except TimeoutError:
            raise SamplingError(
                f"response_format was not compiled within {TIME_LIMIT:g} s: make it smaller."
            ) from None

    def compile(self, params: SamplingParams) -> list[Matcher]:
        """Do the same as `matchers` in this thread, with no time limit for compiling.

        Raises:
            SamplingError: the constraint cannot be compiled, or reading it does not end.
            UnsupportedOptionError: llguidance cannot read the model's tokenizer.
        """
        if params.response_format is None:
            return []
        vocabulary = self._vocabulary(params.response_format)
        compiled = self._compiled(params.response_format, vocabulary)
        stop_tokens = StopTokens(params, self._vocab_size)
        with self._cache_lock:
            copies = [compiled.grammar.deep_copy() for _ in range(params.n)]
        return [Matcher(copy, vocabulary, stop_tokens, compiled.first_mask) for copy in copies]

    def close(self) -> None:
        """Take no more constraints."""
        self._pool.shutdown(wait=False)
        self._checker.close()

    def _in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError:
            raise EngineClosedError("The engine was closed.") from None

    def _vocabulary(self, constraint: Constraint) -> Vocabulary:
        special_names = constraint.kind == "grammar" and any(
            text in str(constraint.value) for text in self._tokenizer.special_texts
        )
        with self._vocabulary_lock:
            if special_names not in self._vocabularies:
                self._vocabularies[special_names] = Vocabulary(
                    self._tokenizer, self._vocab_size, special_names=special_names
                )
            return self._vocabularies[special_names]

    def _compiled(self, constraint: Constraint, vocabulary: Vocabulary) -> _Compiled:
        text = grammar_text(constraint)
        with self._cache_lock:
            compiled = self._cache.get(text)
            if compiled is not None:
                self._cache.move_to_end(text)
                return compiled
        self._checker.check(text, TIME_LIMIT - _COMPILE_SECONDS)
        compiled = _compile(text, vocabulary)
        with self._cache_lock:
            self._cache[text] = compiled
            if len(self._cache) > _CACHED:
                self._cache.popitem(last=False)
        return compiled


def _compile(text: str, vocabulary: Vocabulary) -> _Compiled:
    from llguidance import LLMatcher

    grammar = LLMatcher(vocabulary.tokens, text, log_level=0, limits=_limits())
    first_mask = b"" if grammar.is_error() else grammar.compute_bitmask()
    if grammar.is_error():
        raise SamplingError(
            f"response_format cannot be compiled: {error_line(grammar.get_error())}"
        )
    bits = np.unpackbits(np.frombuffer(first_mask, dtype=np.uint8), bitorder="little")
    bits[vocabulary.end] = 0
    if not bits.any():
        raise SamplingError("response_format cannot be compiled: it allows the empty text alone.")
    return _Compiled(grammar, first_mask)


def _limits() -> LLParserLimits:
    """Lower limits than llguidance's own, since a slow mask delays every request of the step."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        verbose_errors=False,
        step_max_items=10_000,
        max_lexer_states=50_000,
    )
