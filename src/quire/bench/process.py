"""A configuration in a process of its own: its start is a real one, and its memory is its own.

Both ends of the pipe are here: `ProcessSubject` in the parent, `Worker` in the process. Lines of JSON
go both ways: the first to the process is the arguments, each further one a command. What else the
process prints goes to its standard error.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TextIO

from quire import errors
from quire.bench.figures import LoadTimes, Memory, Quality, StartTimes
from quire.bench.measure import peak_rss, run_load, run_quality
from quire.bench.text import Passage, Questions, own_page
from quire.errors import EngineStartError, QuireError

if TYPE_CHECKING:
    from quire.chat import ChatModel

_GRACE = 30.0
"""Seconds that a process has to close its engine."""
_LOG_LINES = 3
"""The last lines of its log that an error shows."""
_USUAL_CHARACTERS = 4.0
"""Characters of English text in a token, where no tokenizer is at hand."""

# --- the parent's end --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Configuration:
    """What is measured: a name for the table, the arguments, and the options of every request."""

    name: str
    arguments: Mapping[str, Any]
    options: Mapping[str, Any]


class Subject(Protocol):
    """Something that can be measured."""

    engine: str
    start: StartTimes

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
            [sys.executable, "-m", "quire.bench.process"],
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
            self.start = StartTimes(loaded, time.perf_counter() - began)
        except BaseException:
            self.close()
            raise

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> LoadTimes:
        """See Subject."""
        reply = self._ask(
            "load", streams=streams, prompt_tokens=prompt_tokens, new_tokens=new_tokens
        )
        return LoadTimes.read(reply)

    def quality(self, passages: Sequence[Passage]) -> Quality:
        """See Subject."""
        reply = self._ask("quality", passages=[asdict(passage) for passage in passages])
        return Quality(tuple(reply["logprobs"]))

    def memory(self) -> Memory:
        """See Subject."""
        return Memory(**self._ask("memory"))

    def close(self) -> None:
        """End the process; a second call does nothing."""
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
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, QuireError):
        return kind(text)
    return QuireError(text)


# --- the process's end -------------------------------------------------------------------------------


class Worker:
    """One loaded model, and what can be measured of it."""

    def __init__(self, model: ChatModel, options: Mapping[str, Any]) -> None:
        """`options` are those of every request."""
        self.model, self.options = model, options
        text = own_page()
        part = text[:4000]  # enough to know how many characters a token has
        engine = model.engine
        tokens = len(engine.tokenizer.encode_literal(part)) if engine.has_tokens else 0
        self._questions = Questions(text, len(part) / tokens if tokens else _USUAL_CHARACTERS)

    def answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Carry out one command.

        Raises:
            QuireError: the engine refused it, or failed.
        """
        kind = command["kind"]
        if kind == "load":
            return self.load(command["streams"], command["prompt_tokens"], command["new_tokens"])
        if kind == "quality":
            passages = [Passage(**passage) for passage in command["passages"]]
            return {"logprobs": run_quality(self.model, passages)}
        assert kind == "memory", kind
        return self.memory()

    def load(self, streams: int, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
        """One turn of one load, as `LoadTimes`."""
        questions = [self._questions.make(prompt_tokens) for _ in range(streams)]
        options = {**self.options, "max_new_tokens": new_tokens}
        return asdict(run_load(self.model, questions, options))

    def memory(self) -> dict[str, Any]:
        """As `Memory`."""
        own = self.model.engine.info.memory
        return {
            "peak_rss": peak_rss(),
            "weights": own.weights if own else None,
            "kv_cache": own.kv_cache if own else None,
        }


def main() -> int:
    """Load, answer commands, and end with the input. Errors of quire become replies: the parent raises them."""
    from quire.chat import ChatModel

    replies = _take_output()
    logging.getLogger("quire").setLevel(logging.WARNING)
    first = sys.stdin.readline()
    if not first:
        return 0
    start = json.loads(first)
    try:
        with ChatModel(start["arguments"]) as model:
            worker = Worker(model, start["options"])
            _reply(replies, {"engine": model.engine.name})
            for line in sys.stdin:
                _reply(replies, _answered(worker, json.loads(line)))
    except QuireError as error:
        _reply(replies, _failed(error))
        return 1
    return 0


def _answered(worker: Worker, command: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return worker.answer(command)
    except QuireError as error:
        return _failed(error)


def _failed(error: QuireError) -> dict[str, Any]:
    return {"error": type(error).__name__, "text": str(error)}


def _take_output() -> TextIO:
    """The standard output, for replies alone: what libraries print goes to the standard error now."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def _reply(replies: TextIO, content: Mapping[str, Any]) -> None:
    replies.write(json.dumps(content) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
