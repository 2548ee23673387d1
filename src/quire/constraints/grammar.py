"""A constraint as a grammar of llguidance, and a check that reading the grammar comes to an end.

llguidance has no time limit for reading a grammar: a schema with twenty patterns in one `allOf` takes
seconds, one with forty takes years, and a thread inside it cannot be stopped. So every grammar is first
read in a process, which can be killed. Only then is it read in this one, in about the same time.
"""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from quire.errors import EngineBusyError, SamplingError
from quire.response_format import Constraint

_PROCESSES = 2
_REMEMBERED = 512  # grammars that were checked before
_MAX_MESSAGE = 300  # characters
_DYING = 5.0  # seconds in which a process that has closed its output ends
_LOOK = 0.05  # seconds between two looks at whether anybody still waits
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What it took to read a grammar in a process; about the same in another one."""

    bytes: int
    """Memory that it takes while it is kept."""
    seconds: float
    """Of a processor."""
    text: str = ""
    """The grammar, where it was made of a source there."""


class GrammarChecker:
    """Reads grammars in processes, which are started on demand and reused. Thread-safe."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()  # guards everything below, and _idle
        self._checked: OrderedDict[bytes, Reading] = OrderedDict()  # by digest, least recent first
        self._closed = False

    def read(
        self, constraint: Constraint, seconds: float, given_up: threading.Event | None = None
    ) -> tuple[str, Reading]:
        """A constraint as a grammar for llguidance, and what it took to read it; see `check`.

        A grammar in EBNF is made one of Lark's in the process, too: of some that takes minutes.

        Raises:
            SamplingError: it cannot be read, or reading it takes too long, or too much memory.
            EngineBusyError: the processes are ended by somebody else.
        """
        if constraint.kind != "grammar":
            text = grammar_text(constraint)
            return text, self.check(text, seconds, given_up)
        reading = self._read({"source": constraint.value}, seconds, given_up)
        return reading.text, reading

    def check(
        self, grammar: str, seconds: float, given_up: threading.Event | None = None
    ) -> Reading:
        """Return once llguidance has read this grammar, and wait for it at most `seconds`.

        It does not say whether the grammar is right. That may depend on the model's tokenizer, and
        shows when the grammar is compiled.

        Args:
            given_up: is set when nobody waits for it any more, and ends the reading.

        Raises:
            SamplingError: it takes longer, or too much memory.
            EngineBusyError: the processes are ended by somebody else.
        """
        return self._read({"grammar": grammar}, seconds, given_up)

    def _read(
        self, what: dict[str, str], seconds: float, given_up: threading.Event | None
    ) -> Reading:
        request = json.dumps(what)
        key = sha256(request.encode()).digest()
        with self._lock:
            if key in self._checked:
                self._checked.move_to_end(key)
                return self._checked[key]
        deadline = time.monotonic() + seconds
        given_up = given_up or threading.Event()
        reading = None
        idle = self._take_idle()
        if idle is not None:  # it may be dead already, which says nothing about the grammar
            reading = self._read_in(idle, what, deadline, given_up)
        if reading is None:
            reading = self._read_in(_start_process(), what, deadline, given_up)
        if reading is None:
            raise EngineBusyError("The process that reads grammars was ended. Try again.")
        with self._lock:
            self._checked[key] = reading
            if len(self._checked) > _REMEMBERED:
                self._checked.popitem(last=False)
        return reading

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for process in idle:
            _kill(process)

    def _read_in(
        self,
        process: subprocess.Popen[bytes],
        what: dict[str, str],
        deadline: float,
        given_up: threading.Event,
    ) -> Reading | None:
        """What the process says; None where it was ended from outside.

        Raises:
            SamplingError: the time is over, or the process dies of the grammar.
        """
        answer = b""
        try:
            answer = _ask(process, what, deadline, given_up)
        except BrokenPipeError:  # it was dead before it was asked
            return None
        finally:
            if answer:
                self._give_back(process)
            else:
                _kill(process)
        if answer:
            return _reading(json.loads(answer))
        if process.returncode in _ENDED_BY_OTHERS:
            return None
        raise SamplingError("response_format cannot be compiled: it takes too much memory.")

    def _take_idle(self) -> subprocess.Popen[bytes] | None:
        """A process that lives, as far as can be seen."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                process = self._idle.pop()
            if process.poll() is None:
                return process
            _kill(process)

    def _give_back(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _PROCESSES:
                self._idle.append(process)
                return
        _kill(process)


_ENDED_BY_OTHERS = frozenset({-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP})
"""What a process returns that somebody ends; one that runs out of memory aborts."""


def _start_process() -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            [sys.executable, str(_PROCESS_FILE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError as error:
        raise EngineBusyError(f"No process can be started to read a grammar: {error}.") from error


def _reading(answer: dict[str, Any]) -> Reading:
    if "error" in answer:
        raise SamplingError(f"response_format cannot be read: {answer['error'][:_MAX_MESSAGE]}")
    return Reading(**answer)


def _ask(
    process: subprocess.Popen[bytes],
    what: dict[str, str],
    deadline: float,
    given_up: threading.Event,
) -> bytes:
    """The process's answer; empty where it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    seconds = deadline - time.monotonic()
    line = json.dumps({**what, "seconds": max(seconds, _LOOK)})
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()
    # Not select.select(), which fails on file descriptors from 1024 on: a server has them.
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while not selector.select(_LOOK):
            if given_up.is_set():
                raise EngineBusyError("The request was given up.")
            if time.monotonic() > deadline:
                raise _too_slow(seconds)
    answer = process.stdout.readline()
    if not answer:  # it is about to end; killed before it has, it would not say of what
        with suppress(subprocess.TimeoutExpired):
            process.wait(_DYING)
    return answer


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
