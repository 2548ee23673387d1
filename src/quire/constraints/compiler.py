"""From a request's constraint to matchers, away from the thread in which the engine steps."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from quire.constraints.checking import GrammarChecker
from quire.constraints.grammar_text import grammar_text
from quire.constraints.matcher import Enders, Matcher, told
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

_FOR_COMPILING = 0.5  # of these, at least
_KEPT = 32  # compiled grammars
_THREADS = 2


class _Compiled(NamedTuple):
    grammar: LLMatcher  # at its beginning; only ever copied
    first: bytes  # its first mask


class ConstraintCompiler:
    """Compiles constraints for one model; llguidance is imported for the first of them.

    Compiled grammars are kept, so that a schema asked for again costs a copy. Thread-safe.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        """`vocab_size` counts the model's logits, of which there may be more than tokens."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._made: dict[bool, Vocabulary] = {}  # by whether a grammar may name special tokens
        self._making = threading.Lock()
        self._kept: OrderedDict[str, _Compiled] = OrderedDict()
        self._lock = threading.Lock()  # guards _kept and the copying of what is in it
        self._checker = GrammarChecker()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="quire-grammar")

    async def matchers(self, params: SamplingParams) -> list[Matcher]:
        """Return a matcher for each completion of a request; none where nothing is constrained.

        Raises:
            SamplingError: the constraint cannot be compiled, or not in `TIME_LIMIT` seconds.
            UnsupportedOptionError: llguidance cannot read the model's tokenizer.
        EngineClosedError: after `close`.
        """
        if params.response_format is None:
            return []
        # Made once, and in no request's time.
        await self._elsewhere(partial(self._vocabulary, params.response_format))
        try:
            return await asyncio.wait_for(
                self._elsewhere(partial(self.compile, params)), TIME_LIMIT
            )
        except TimeoutError:
            raise SamplingError(
                f"response_format was not compiled within {TIME_LIMIT:g} s: make it smaller."
            ) from None

    def compile(self, params: SamplingParams) -> list[Matcher]:
        """As `matchers`, here and now, with no time limit."""
        if params.response_format is None:
            return []
        vocabulary = self._vocabulary(params.response_format)
        compiled = self._find(params.response_format, vocabulary)
        enders = Enders(params, self._vocab_size)
        with self._lock:
            copies = [compiled.grammar.deep_copy() for _ in range(params.n)]
        return [Matcher(copy, vocabulary, enders, compiled.first) for copy in copies]

    def close(self) -> None:
        """Take no more constraints."""
        self._pool.shutdown(wait=False)
        self._checker.close()

    def _elsewhere(self, work: Callable[[], T]) -> asyncio.Future[T]:
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, work)
        except RuntimeError:
            raise EngineClosedError("The engine was closed.") from None

    def _vocabulary(self, constraint: Constraint) -> Vocabulary:
        named = constraint.kind == "grammar" and self._names_special_token(constraint)
        with self._making:
            if named not in self._made:
                self._made[named] = Vocabulary(
                    self._tokenizer, self._vocab_size, special_names=named
                )
            return self._made[named]

    def _names_special_token(self, constraint: Constraint) -> bool:
        return any(text in str(constraint.value) for text in self._tokenizer.special_texts)

    def _find(self, constraint: Constraint, vocabulary: Vocabulary) -> _Compiled:
        text = grammar_text(constraint)
        with self._lock:
            found = self._kept.get(text)
            if found is not None:
                self._kept.move_to_end(text)
                return found
        self._checker.check(text, TIME_LIMIT - _FOR_COMPILING)
        found = _compile(text, vocabulary)
        with self._lock:
            self._kept[text] = found
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found


def _compile(text: str, vocabulary: Vocabulary) -> _Compiled:
    from llguidance import LLMatcher

    grammar = LLMatcher(vocabulary.tokens, text, log_level=0, limits=_limits())
    first = b"" if grammar.is_error() else grammar.compute_bitmask()
    if grammar.is_error():
        raise SamplingError(f"response_format cannot be compiled: {told(grammar.get_error())}")
    bits = np.unpackbits(np.frombuffer(first, dtype=np.uint8), bitorder="little")
    bits[vocabulary.end] = 0
    if not bits.any():
        raise SamplingError("response_format cannot be compiled: it allows the empty text alone.")
    return _Compiled(grammar, first)


def _limits() -> LLParserLimits:
    """Below llguidance's own for a mask, which holds up every request of a step."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        verbose_errors=False,
        step_max_items=10_000,
        max_lexer_states=50_000,
    )
