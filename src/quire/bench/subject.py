"""A configuration in a process of its own: its start is a real one, and its memory is its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Protocol, Self

from quire import errors
from quire.bench.figures import LoadTimes, Memory, Quality, Start
from quire.bench.text import Passage
from quire.errors import EngineStartError, QuireError

_GRACE = 30.0
"""Seconds that a process has to close its engine."""
_LOG_LINES = 3


@dataclass(frozen=True)
class Configuration:
    """What is measured: a name for the table, the arguments, and the options of every request."""

    name: str
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


class Subject(Protocol):
    """Something that can be measured."""

    engine: str
    start: Start

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> LoadTimes:
        """One turn of one load."""
        ...

    def quality(self, passages: Sequence[Passage]) -> Quality:
        """The log-probabilities of the passages' tokens."""
        ...

    def memory(self) -> Memory:
        """What it has taken so far."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class ProcessSubject:
    """A Subject in a process of its own.

    Raises, when made and by each method:
        QuireError: what the process reports: the same class with the same text.
        EngineStartError: the process ended by itself.
    """

    def __init__(self, configuration: Configuration) -> None:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "quire.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        try:
            start = {
                "arguments": dict(configuration.arguments),
                "options": dict(configuration.options),
            }
            self._send(start)
            self.engine: str = self._read()["engine"]
            loaded = time.perf_counter() - began
            # A request of one token; what it costs beside the start is milliseconds.
            self.load(1, 8, 1)
            self.start = Start(loaded, time.perf_counter() - began)
        except BaseException:
            self.close()
            raise

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> LoadTimes:
        """See Subject."""
        found = self._ask(
            "load", streams=streams, prompt_tokens=prompt_tokens, new_tokens=new_tokens
        )
        return LoadTimes.read(found)

    def quality(self, passages: Sequence[Passage]) -> Quality:
        """See Subject."""
        found = self._ask("quality", passages=[asdict(passage) for passage in passages])
        return Quality(tuple(found["logprobs"]))

    def memory(self) -> Memory:
        """See Subject."""
        return Memory(**self._ask("memory"))

    def close(self) -> None:
        """End the process; once it is gone this does nothing."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, kind: str, **values: Any) -> dict[str, Any]:
        self._send({"kind": kind, **values})
        return self._read()

    def _send(self, content: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(content, default=str) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `_read` says what became of it

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise EngineStartError(
                f"The process that was measured ended with code {code}{self._last_words()}"
            )
        content = json.loads(line)
        if "error" in content:
            raise _error(content["error"], content["text"])
        return content

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log.read().splitlines() if line.strip()]
        return ": " + " / ".join(lines[-_LOG_LINES:]) if lines else "."


def _error(name: str, text: str) -> QuireError:
    """The error of this name in quire's tree."""
    found = getattr(errors, name, None)
    if isinstance(found, type) and issubclass(found, QuireError):
        return found(text)
    return QuireError(text)
