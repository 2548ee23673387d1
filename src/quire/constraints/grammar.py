"""A constraint as a grammar of llguidance, and a check that reading the grammar comes to an end.

llguidance has no time limit for reading a grammar: a schema with twenty patterns in one `allOf` takes
seconds, one with forty takes years, and a thread inside it cannot be stopped. So every grammar is first
read in a process, which can be killed. Only then is it read in this one, in about the same time.
"""

from __future__ import annotations

import json
import logging
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from quire.constraints.answer_form import AnswerForm, OfferedTool
from quire.constraints.answer_grammar import answer_grammar, constraint_grammar
from quire.constraints.call_grammar import arguments_schema
from quire.constraints.lark import HEAD, json_block, unforced
from quire.constraints.schema_refs import SchemaError
from quire.errors import EngineBusyError, SamplingError
from quire.response_format import Constraint

logger = logging.getLogger("quire")

_PROCESSES = 2
_REMEMBERED = 512  # grammars that were checked before
_MAX_MESSAGE = 300  # characters
_DYING = 5.0  # seconds in which a process that has closed its output ends
_LOOK = 0.05  # seconds between two looks at whether anybody still waits
_PROCESS_FILE = Path(__file__).with_name("checker_process.py")


def grammar_text(constraint: Constraint) -> str:
    """Write a constraint as a grammar in llguidance's form of Lark.

    Most faults in it are found later, when the grammar is compiled.

    Raises:
        SamplingError: a grammar that is neither Lark nor EBNF, a schema that cannot be enforced, or
            text that is not Unicode.
    """
    try:
        return constraint_grammar(constraint)
    except Exception as error:  # the EBNF reader raises bare ones
        raise SamplingError(f"response_format cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class Reading:
    """What it took to read a grammar in a process; about the same in another one."""

    bytes: int
    """Memory that it takes while it is kept."""
    seconds: float
    """Of a processor."""
    text: str = ""
    """The grammar, where it was made of a source there."""
    fault: str = ""
    """What is wrong with it for any tokenizer; faults of special tokens are not among these."""


class GrammarChecker:
    """Reads grammars in processes, which are started on demand and reused. Thread-safe."""

    def __init__(self, controls: Collection[str] = ()) -> None:
        """`controls`: the texts of a model's added tokens; see `vocabulary.control_texts`."""
        self._control_texts = frozenset(controls)
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()  # guards everything below, and _idle
        self._checked: OrderedDict[bytes, Reading] = OrderedDict()  # by digest, least recent first
        self._closed = False

    @cached_property
    def _written_controls(self) -> frozenset[str]:
        """The control texts as they may stand in a grammar."""
        escaped = frozenset(
            json.dumps(text, ensure_ascii=is_ascii)[1:-1]
            for text in self._control_texts
            for is_ascii in (True, False)
        )
        return escaped | self._control_texts

    def read(
        self, constraint: Constraint, seconds: float, given_up: threading.Event | None = None
    ) -> tuple[str, Reading]:
        """A constraint as a grammar for llguidance, and what it took to read it; see `check`.

        A grammar in EBNF is made one of Lark's in the process, too: of some that takes minutes.
        A tool whose arguments cannot be enforced may have any.

        Raises:
            SamplingError: it cannot be read, or reading it takes too long, or too much memory.
            EngineBusyError: the processes are ended by somebody else.
        """
        deadline = time.monotonic() + seconds
        if constraint.kind == "answer":
            return self._read_answer(constraint.value, deadline, given_up)
        if constraint.kind == "grammar":
            constraint = self._in_lark(constraint, deadline, given_up)
        text = self._headed(grammar_text(constraint))
        return text, self.check(text, deadline - time.monotonic(), given_up)

    def _headed(self, grammar: str) -> str:
        """A grammar with the first line that it needs: not forced where a text reads like a token."""
        return (
            unforced(grammar) if any(one in grammar for one in self._written_controls) else grammar
        )

    def _read_answer(
        self, answer: AnswerForm, deadline: float, given_up: threading.Event | None
    ) -> tuple[str, Reading]:
        if answer.text is not None and answer.text.kind == "grammar":
            answer = replace(answer, text=self._in_lark(answer.text, deadline, given_up))
        free: list[str] = []
        for tool in answer.calls.tools if answer.calls is not None else ():
            reason = self._not_enforceable(tool, deadline, given_up)
            if reason:
                logger.warning("tools: %s is called freely, since %s.", tool.name, reason)
                free.append(tool.name)
        # Tokens are not those of the process's tokenizer, so that it reads texts for them.
        plain = replace(answer, tokens={}, vocab_size=1, stops=())
        try:
            text, as_text = answer_grammar(answer, free), answer_grammar(plain, free)
        except Exception as error:  # the EBNF reader raises bare ones
            raise SamplingError(f"response_format cannot be read: {error}") from None
        return self._headed(text), self.check(as_text, deadline - time.monotonic(), given_up)

    def _not_enforceable(
        self, tool: OfferedTool, deadline: float, given_up: threading.Event | None
    ) -> str:
        """Why a tool's arguments cannot be enforced; empty where they can."""
        try:
            text = HEAD + f"start: {json_block(arguments_schema(tool))}\n"
        except SchemaError as error:
            return str(error)
        try:
            return first_line(self.check(text, deadline - time.monotonic(), given_up).fault)
        except SamplingError as error:
            raise SamplingError(f"tools: {tool.name}: {error}") from None

    def _in_lark(
        self, constraint: Constraint, deadline: float, given_up: threading.Event | None
    ) -> Constraint:
        source = {"source": constraint.value}
        reading = self._read(source, deadline - time.monotonic(), given_up)
        return Constraint("grammar", reading.text)

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
        try:
            "".join(what.values()).encode()
        except UnicodeEncodeError as error:
            raise SamplingError(f"response_format cannot be read: {error}") from None
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


_ENDING_SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT", "SIGHUP")  # Windows has not all of them
_ENDED_BY_OTHERS = frozenset(
    -getattr(signal, name) for name in _ENDING_SIGNALS if hasattr(signal, name)
)
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


def first_line(message: str) -> str:
    """The first line of one of llguidance's messages, without the place in the grammar."""
    line = message.strip().splitlines()[0] if message.strip() else ""
    return re.sub(r"^at \d+\(\d+\): |^failed to compile JSON schema: ", "", line)[:_MAX_MESSAGE]


def _too_slow(seconds: float) -> SamplingError:
    return SamplingError(
        f"response_format was not compiled within {max(seconds, 0.1):.2g} s: make it smaller."
    )
