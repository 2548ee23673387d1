"""The process of `checking.py`: reads grammars, given as a line of JSON each, and says when it has.

It is run as a file and imports nothing of quire's, so that it starts at once.
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
        asked = json.loads(line)
        # With no handler this ends the process wherever it is, should nobody be left to do so.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, asked["seconds"] + 1.0)
        with suppress(BaseException):  # a panic of llguidance's is no Exception
            LLMatcher.validate_grammar(asked["grammar"], None)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print("read", flush=True)


if __name__ == "__main__":
    main()
