"""The server's log: one line per event, as JSON or as text, written by a thread of its own.

Neither prompts nor answers are logged. An exception is logged with its type and where it was raised,
and with its text only if it is one of quire's own errors about the engine. Lines that cannot be
written are dropped and counted, so that no request waits for a disk.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from quire.errors import ConfigError, EngineError, ModelError

Level = Literal["debug", "info", "warning", "error"]

_BATCHING = 0.02  # seconds in which lines are collected for one write
_BATCH = 1000
_QUEUED = 10_000  # lines that wait for the disk
_MAX_CHARACTERS = 2000  # of one value
_MAX_ITEMS = 30  # of a list, and frames of a traceback


class EventLog:
    """Takes events from any thread and writes each as one line."""

    def __init__(self, output: BinaryIO | None = None, *, as_json: bool = True) -> None:
        """`output` takes bytes; None is `sys.stderr`, looked up at each write."""
        self._output, self._as_json = output, as_json
        self._dropped = 0
        self._closing = threading.Event()
        self._lines: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._thread = threading.Thread(target=self._write_all, name="quire-log", daemon=True)
        self._thread.start()

    @classmethod
    def opened(cls, path: str | None, form: Literal["auto", "json", "text"]) -> EventLog:
        """The log at a path, or on the standard error, in the form that the arguments name.

        Raises:
            ConfigError: the file cannot be opened.
        """
        if path is None:
            as_json = form == "json" or (form == "auto" and not sys.stderr.isatty())
            return cls(as_json=as_json)
        named = Path(os.path.expanduser(path))
        try:
            file = named.open("ab", buffering=0)
        except OSError as error:
            raise ConfigError(f"The log {path} cannot be opened: {error.strerror}.") from None
        return cls(file, as_json=form != "text")

    @property
    def dropped(self) -> int:
        """How many events could not be written."""
        return self._dropped

    def event(self, name: str, level: Level = "info", **fields: Any) -> None:
        """Log an event. Fields that are None are left out."""
        present = {key: value for key, value in fields.items() if value is not None}
        line = json_line if self._as_json else text_line
        try:
            self._lines.put_nowait(line(datetime.now(UTC), level, name, present))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write the queued lines, for a second at most, and end the thread."""
        self._closing.set()
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(1)

    def _write_all(self) -> None:
        ended = False
        while not ended:
            batch = [self._lines.get()]
            self._closing.wait(_BATCHING)
            with suppress(queue.Empty):
                while len(batch) < _BATCH:
                    batch.append(self._lines.get_nowait())
            ended = None in batch
            lines = [line for line in batch if line is not None]
            try:
                self._write(b"".join(lines))
            except (OSError, ValueError):  # a full disk, a broken pipe, a closed file
                self._dropped += len(lines)
        if self._output is not None:
            self._output.close()

    def _write(self, line: bytes) -> None:
        if self._output is not None:
            left = memoryview(line)
            while left:
                left = left[self._output.write(left) or 0 :]
        else:
            sys.stderr.write(line.decode())
            sys.stderr.flush()


def json_line(moment: datetime, level: Level, name: str, fields: Mapping[str, Any]) -> bytes:
    """One event as JSON in ASCII; every control character is escaped."""
    head = {"time": moment.isoformat(timespec="milliseconds"), "level": level, "event": name}
    text = json.dumps({**head, **{k: _plain(v) for k, v in fields.items()}}, allow_nan=False)
    return text.replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def text_line(moment: datetime, level: Level, name: str, fields: Mapping[str, Any]) -> bytes:
    """One event as text for people."""
    values = {key: _plain(value) for key, value in fields.items()}
    message = values.pop("message", None)
    pairs = " ".join(f"{key}={_word(value)}" for key, value in values.items())
    parts = [moment.astimezone().strftime("%H:%M:%S"), "" if level == "info" else level.upper()]
    parts += [name if message is None else _escaped(str(message)), pairs]
    return (" ".join(part for part in parts if part) + "\n").encode("utf-8", "replace")


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return round(value, 4) if value == value and abs(value) != float("inf") else str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value[:_MAX_ITEMS]]
    text = str(value)
    return text if len(text) <= _MAX_CHARACTERS else text[:_MAX_CHARACTERS] + "..."


def _word(value: Any) -> str:
    text = _escaped(value) if isinstance(value, str) else json.dumps(value)
    return f'"{text}"' if not text or " " in text else text


def _escaped(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def fault(error: BaseException) -> dict[str, Any]:
    """An exception's log fields; other errors' texts are left out, since they may quote a client."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_ITEMS:]
    where = [f"{os.path.basename(f.filename)}:{f.lineno} {f.name}" for f in frames]
    own = isinstance(error, (EngineError, ModelError, ConfigError))
    text = {"error_text": str(error)} if own else {}
    return {"error": type(error).__name__, **text, "where": where}


class LogHandler(logging.Handler):
    """Turns records of Python's logging, quire's and uvicorn's, into events."""

    def __init__(self, log: EventLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        details = {} if error is None else fault(error)
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        if record.levelno < logging.WARNING:
            level = "info"
        self._log.event("log", level, message=record.getMessage(), source=record.name, **details)


@contextmanager
def take_over(log: EventLog) -> Generator[None]:
    """Send quire's and uvicorn's logging to the event log during the block."""
    before: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []
    for name, level in (("quire", logging.INFO), ("uvicorn.error", logging.ERROR)):
        logger = logging.getLogger(name)
        before.append((logger, logger.handlers, logger.level, logger.propagate))
        logger.handlers, logger.propagate = [LogHandler(log)], False
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, handlers, level, propagate in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
