"""The process of `GrammarChecker`: reads grammars, one line of JSON each, and says what each takes.

It runs as a file of its own and imports nothing of quire, so that it starts at once.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

_MEMORY = 3 * 2**29  # bytes
_STATUS = Path("/proc/self/statm")


def main() -> None:
    """Answer until the standard input ends."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    tokens = LLTokenizer("byte")
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills this process in time. If the parent is gone, the alarm does: it has no
        # handler, so it ends the process even inside llguidance.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1.0)
        answer = read(request.get("grammar"), request.get("source"), tokens)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(answer), flush=True)


def read(lark: str | None, source: str | None, tokens: LLTokenizer) -> dict[str, object]:
    """The bytes that a grammar takes while it is kept, and a processor's seconds for reading it.

    Of a `source` in EBNF or Lark's form also the grammar, or why there is none. A `fault` is what is
    wrong with the grammar for any tokenizer.
    """
    _give_back_memory()
    before, began = _resident_bytes(), time.process_time()
    if lark is None:
        try:
            lark = any_to_lark(source or "")
        except Exception as error:  # the EBNF reader raises bare ones
            return {"error": str(error), "seconds": time.process_time() - began}
    fault = ""
    grammar = LLMatcher.grammar_from_lark(lark)
    with suppress(BaseException):  # llguidance's panics are not Exceptions
        # Without a tokenizer first: a grammar that names special tokens is wrong for the one here.
        fault = LLMatcher.validate_grammar(grammar, None)
    with suppress(BaseException):
        kept = LLMatcher(tokens, grammar, log_level=0)
        kept.compute_bitmask()
    seconds = time.process_time() - began
    taken = max(0, _resident_bytes() - before)
    text = lark if source is not None else ""
    return {"bytes": taken, "seconds": seconds, "text": text, "fault": fault}


def _resident_bytes() -> int:
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(_STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0  # not Linux: what grammars take is not known


def _give_back_memory() -> None:
    """Have freed memory not counted as there, so that a grammar that fills it again is seen."""
    with suppress(OSError, AttributeError):  # not the GNU library
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main()
