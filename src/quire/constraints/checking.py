"""Grammars tried out in a process of their own, which can be ended.

llguidance has limits, but none for the time that a grammar takes to be read: a schema of twenty
patterns in one `allOf` takes seconds, one of forty takes years, and a thread that is in it cannot be
stopped. What comes through here is read again in this process, in about the same time.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

from quire.errors import SamplingError

_PROCESSES = 2
_KEPT = 512  # grammars that are known to come to an end
_FILE = Path(__file__).with_name("checking_process.py")


class GrammarChecker:
    """Tries grammars out. Thread-safe; its processes are started when they are needed."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._room = threading.Semaphore(_PROCESSES)
        self._lock = threading.Lock()
        self._known: OrderedDict[bytes, None] = OrderedDict()
        self._closed = False

    def check(self, grammar: str, seconds: float) -> None:
        """Return if llguidance comes to an end with this grammar in so many seconds.

        Whether it is right is not told: that may take the model's tokenizer, and is found out where
        it is compiled.

        Raises:
            SamplingError: it takes longer, or too much memory.
        """
        key = sha256(grammar.encode("utf-8", "surrogatepass")).digest()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return
        deadline = time.monotonic() + seconds
        if not self._room.acquire(timeout=seconds):
            raise _late(seconds)
        try:
            ended = self._ask(grammar, deadline - time.monotonic())
            if not ended:  # the process was gone before it was asked, or it died of this
                ended = self._ask(grammar, deadline - time.monotonic())
        finally:
            self._room.release()
        if not ended:
            raise SamplingError("response_format cannot be compiled: it takes too much memory.")
        with self._lock:
            self._known[key] = None
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            idle, self._idle, self._closed = self._idle, [], True
        for process in idle:
            _end(process)

    def _ask(self, grammar: str, seconds: float) -> bool:
        """Whether the process lives afterwards; raises SamplingError where it takes too long."""
        process = self._process()
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        try:
            line = json.dumps({"grammar": grammar, "seconds": seconds})
            process.stdin.write(line.encode() + b"\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], max(0.0, seconds))[0]:
                raise _late(seconds)
            answer = process.stdout.readline()
        except BrokenPipeError:
            pass
        finally:
            if answer:
                self._keep(process)
            else:
                _end(process)
        return bool(answer)

    def _process(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        return subprocess.Popen(
            [sys.executable, str(_FILE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _keep(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not sent
                continue
    process.wait()


def _late(seconds: float) -> SamplingError:
    return SamplingError(
        f"response_format was not compiled within {max(seconds, 0.1):.2g} s: make it smaller."
    )
