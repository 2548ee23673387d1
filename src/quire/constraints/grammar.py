"""A constraint as a grammar of llguidance, and a check that reading the grammar comes to an end.

llguidance has no time limit for reading a grammar: a schema with twenty patterns in one `allOf` takes
seconds, one with forty takes years, and a thread inside it cannot be stopped. So every grammar is first
read in a process, which can be killed. Only then is it read in this one, in about the same time.
"""

from __future__ import annotations

import json
import selectors
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path
from typing import Any

from quire.errors import SamplingError
from quire.response_format import Constraint

_PROCESSES = 2
_REMEMBERED = 512  # grammars that were checked before
_PROCESS_FILE = Path(__file__).with_name("checker_process.py")


def grammar_text(constraint: Constraint) -> str:
    """Write a constraint as a grammar for llguidance, the same that vLLM makes of it.

    Most faults in it are found later, when the grammar is compiled.

    Raises:
        SamplingError: a grammar that is neither Lark nor EBNF, or text that is not Unicode.
    """
    from llguidance import LLMatcher
    from llguidance.gbnf_to_lark import any_to_lark

    kind, value = constraint.kind, constraint.value
    try:
        if kind == "json_object":
            return _json_grammar({"type": "object"})
        if kind == "json":
            return _json_grammar(value)
        if kind == "regex":
            return LLMatcher.grammar_from_regex(value)
        lark = _choice_grammar(value) if kind == "choice" else any_to_lark(value)
        return LLMatcher.grammar_from_lark(lark)
    except Exception as error:  # the EBNF reader raises bare ones
        raise SamplingError(f"response_format cannot be read: {error}") from None


def _json_grammar(schema: dict[str, Any]) -> str:
    from llguidance import LLMatcher

    # Where JSON leaves white space free, small models write it without end, so none is allowed.
    return LLMatcher.grammar_from_json_schema(
        json.dumps(schema), defaults={"whitespace_flexible": False}
    )


def _choice_grammar(texts: tuple[str, ...]) -> str:
    # One terminal for all texts: llguidance limits the alternatives of a rule to 2,000.
    return "start: TEXT\nTEXT: " + " | ".join(json.dumps(t, ensure_ascii=False) for t in texts)


class GrammarChecker:
    """Reads grammars in processes, which are started on demand and reused. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._slots = threading.Semaphore(_PROCESSES)
        self._lock = threading.Lock()  # guards everything below, and _idle
        self._checked: OrderedDict[bytes, None] = OrderedDict()  # by digest, least recent first
        self._closed = False

    def check(self, grammar: str, seconds: float) -> None:
        """Return once llguidance has read this grammar, and wait for it at most `seconds`.

        It does not say whether the grammar is right. That may depend on the model's tokenizer, and
        shows when the grammar is compiled.

        Raises:
            SamplingError: it takes longer, or too much memory.
        """
        key = sha256(grammar.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if key in self._checked:
                self._checked.move_to_end(key)
                return
        deadline = time.monotonic() + seconds
        if not self._slots.acquire(timeout=seconds):
            raise _too_slow(seconds)
        try:
            # A second try: an idle process may have died before it was asked.
            survived = any(
                self._read_in_process(grammar, deadline - time.monotonic()) for _ in range(2)
            )
        finally:
            self._slots.release()
        if not survived:
            raise SamplingError("response_format cannot be compiled: it takes too much memory.")
        with self._lock:
            self._checked[key] = None
            if len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for process in idle:
            _kill(process)

    def _read_in_process(self, grammar: str, seconds: float) -> bool:
        """Return whether the process survives the grammar.

        Raises:
            SamplingError: it takes longer than `seconds`.
        """
        process = self._take_process()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            line = json.dumps({"grammar": grammar, "seconds": seconds})
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            # Not select.select(), which fails on file descriptors from 1024 on: a server has them.
            with selectors.DefaultSelector() as selector:
                selector.register(process.stdout, selectors.EVENT_READ)
                if not selector.select(max(0.0, seconds)):
                    raise _too_slow(seconds)
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            if answer:
                self._give_back(process)
            else:
                _kill(process)
        return bool(answer)

    def _take_process(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return subprocess.Popen(
            [sys.executable, str(_PROCESS_FILE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # closing flushes, and the process reads no more
                continue
    process.wait()


def _too_slow(seconds: float) -> SamplingError:
    return SamplingError(
        f"response_format was not compiled within {max(seconds, 0.1):.2g} s: make it smaller."
    )
