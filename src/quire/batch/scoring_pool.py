"""Scores of many answers, by several processes at once and in the order of the answers."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeAlias

from quire.batch.metrics import score_rows
from quire.errors import ConfigError

logger = logging.getLogger("quire")

Rows: TypeAlias = Sequence[Mapping[str, Any]]
RowScores: TypeAlias = dict[str, float] | str
"""A row's scores by their names; or what is wrong with it."""


def score_chunks(chunks: Iterable[Rows], workers: int) -> Iterator[list[RowScores]]:
    """The scores of each chunk, in order; with one worker in this process.

    So many chunks are read ahead as keep all workers busy, and no more.

    Raises:
        ConfigError: see `score_row`.
    """
    if workers == 1:
        yield from map(score_rows, chunks)
        return
    waiting: deque[Future[list[RowScores]]] = deque()
    # On leaving, the processes end first: what a thread waits for then ends, too.
    with ThreadPoolExecutor(workers, "quire-scoring") as threads, _Processes() as processes:
        for chunk in chunks:
            waiting.append(threads.submit(processes.score, chunk))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Processes:
    """Processes that score, one for each thread that asks. Thread-safe.

    They are plain programs on pipes, and none of `multiprocessing`, which would run the user's own
    program again in each of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all below
        self._all: list[subprocess.Popen[bytes]] = []
        self._idle: list[subprocess.Popen[bytes]] = []
        self._closed = False

    def score(self, rows: Rows) -> list[RowScores]:
        """The scores of a chunk; where no process can make them, this one does.

        Raises:
            ConfigError: see `score_row`.
        """
        process = self._take()
        line = _ask(process, rows) if process is not None else b""
        if process is not None and line.endswith(b"\n"):
            with self._lock:
                self._idle.append(process)
            reply = json.loads(line)
            if "error" in reply:
                raise ConfigError(reply["error"])
            return reply["scores"]
        if self._closed:
            return []
        logger.warning("A process that scores answers ended, or did not start; this one does it.")
        return score_rows(rows)

    def _take(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._closed:
                return None
            if self._idle:
                return self._idle.pop()
            try:
                process = _start()
            except OSError:
                return None
            self._all.append(process)
            return process

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closed = True
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError, ValueError):
                    if pipe is not None:
                        pipe.close()


def _start() -> subprocess.Popen[bytes]:
    # It finds what this process finds, in whatever way that came on the path.
    paths = os.pathsep.join(path for path in sys.path if path)
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "quire.batch.scoring_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": paths},
    )


def _ask(process: subprocess.Popen[bytes], rows: Rows) -> bytes:
    """The line that a process answers with; not a whole one where it died."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(rows).encode() + b"\n")
        process.stdin.flush()
        return process.stdout.readline()
    except (
        OSError,
        ValueError,
        RecursionError,
    ):  # a broken pipe, or one that was closed; deep JSON
        return b""
