"""The process of `GrammarChecker`: reads grammars, one line of JSON each, and says when it is done.

It runs as a file of its own and imports nothing of quire, so that it starts at once.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress

from llguidance import LLMatcher

_MEMORY = 4 * 2**30  # bytes


def main() -> None:
    """Answer until the standard input ends."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills this process in time. If the parent is gone, the alarm does: it has no
        # handler, so it ends the process even inside llguidance.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1.0)
        with suppress(BaseException):  # llguidance's panics are not Exceptions
            LLMatcher.validate_grammar(request["grammar"], None)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print("read", flush=True)


if __name__ == "__main__":
    main()
