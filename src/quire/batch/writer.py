"""The one writer of a job: a thread that keeps records in the journal and appends them to the files."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from dataclasses import dataclass
from typing import Any

from quire.batch.files import LinesFile
from quire.batch.journal import Journal, KeptLine, Order, Record
from quire.batch.lock import JobLock
from quire.errors import BatchError, JobChangedError

GROUP = 1000
"""The most records of one transaction."""
MOST_WAITING = 20_000
"""Records that may wait for the writer; whoever makes more waits for it."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    file: str
    number: int
    digest: bytes


class Writer:
    """Keeps records, and appends their lines to the files, in the order of the input or as they come.

    The files follow from the journal alone: what stands in them beyond the last `sync` is cut off and
    written again where a job goes on, so that a torn line never stays.
    """

    def __init__(
        self,
        journal: Journal,
        answers: LinesFile,
        errors: LinesFile,
        lock: JobLock,
        *,
        order: Order = "input",
        first: int = 0,
        step: int = 1,
        sync_interval: float = 5.0,
    ) -> None:
        """Start the thread, and bring the files to where the journal is.

        Args:
            first, step: the indices of the job's rows: `first`, `first + step`, ...
            sync_interval: seconds between two `sync`s.
        """
        self._journal, self._answers, self._errors, self._lock = journal, answers, errors, lock
        self._order: Order = order
        self._step, self._sync_interval = step, sync_interval
        self._known = journal.chunks()
        self._first = first if order == "input" else 1
        self._next = self._first  # the index, or the serial number, of the next line of the files
        self._items: queue.Queue[Record | _Chunk | None] = queue.Queue(MOST_WAITING)
        self._failure: BaseException | None = None
        self._ended = False  # the last of all items was taken
        self._recover()
        self._thread = threading.Thread(target=self._run, name="quire batch writer", daemon=True)
        self._thread.start()

    # --- for other threads -----------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Keep a record, soon. It waits where the writer is far behind.

        Raises:
            BatchError: the writer has failed.
        """
        self.check()
        self._items.put(record)

    def see_chunk(self, file: str, number: int, digest: bytes) -> None:
        """Compare a chunk of the input with what was read of it before, or keep its digest.

        Raises:
            JobChangedError: it differs.
            BatchError: the writer has failed.
        """
        self.check()
        known = self._known.get((file, number))
        if known is None:
            self._known[file, number] = digest
            self._items.put(_Chunk(file, number, digest))
        elif known != digest:
            raise JobChangedError(
                f"{file} has changed since this batch began (in its part {number + 1} of 1 MiB): bring "
                "back what it was, choose another save_name, or begin anew with "
                "overwrite_output_dir=true."
            )

    def check(self) -> None:
        """Raise what has ended the writer, if anything has."""
        if self._failure is not None:
            raise _in_own_words(self._failure) from self._failure

    def close(self) -> None:
        """Keep all that was put, bring it to the disk, and end the thread. May be called twice.

        Raises:
            BatchError: the writer has failed.
        """
        if self._thread.is_alive():
            self._items.put(None)
            self._thread.join()
        self.check()

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ended:
                self._take()
            self._sync()
        except BaseException as error:
            self._failure = error
            while not self._ended:  # nobody waits for room in the queue for ever
                self._ended = self._items.get() is None

    def _take(self) -> None:
        """Keep what has come."""
        items: list[Record | _Chunk | None] = []
        try:
            items.append(self._items.get(timeout=self._sync_interval))
            while len(items) < GROUP:
                items.append(self._items.get_nowait())
        except queue.Empty:
            pass
        self._ended = None in items
        records = [item for item in items if isinstance(item, Record)]
        chunks = [(one.file, one.number, one.digest) for one in items if isinstance(one, _Chunk)]
        if records or chunks:
            self._journal.add(records, chunks)
        if records:
            self._append()
        if time.monotonic() - self._synced >= self._sync_interval:
            self._sync()

    def _append(self) -> None:
        """Append the lines that are next, as far as there are any."""
        for line in self._journal.lines(self._order, self._next):
            if self._order == "input" and line.position != self._next:
                break  # a row before it has not ended yet
            self._write(line)
        self._answers.flush()
        self._errors.flush()

    def _write(self, line: KeptLine) -> None:
        if line.answer is not None:
            self._answers.write(line.answer)
        if line.error is not None:
            self._errors.write(line.error)
        self._next = line.position + self._step if self._order == "input" else line.serial + 1

    def _sync(self) -> None:
        self._answers.sync()
        self._errors.sync()
        sizes = {"answers": self._answers.size, "errors": self._errors.size}
        self._journal.set_facts({"written": {**sizes, "next": self._next}})
        self._journal.sync()
        self._lock.beat()
        self._synced = time.monotonic()

    def _recover(self) -> None:
        """Cut the files back to what is surely in them, and append what the journal has beyond."""
        written: dict[str, Any] = self._journal.facts().get("written", {})
        answers, errors = written.get("answers", 0), written.get("errors", 0)
        if self._answers.size >= answers and self._errors.size >= errors:
            self._next = written.get("next", self._first)
        else:
            answers = errors = 0  # somebody has cut them: they are written again from the start
        self._answers.cut(answers)
        self._errors.cut(errors)
        self._synced = time.monotonic()
        self._append()


def _in_own_words(error: BaseException) -> BatchError:
    if isinstance(error, BatchError):
        return error
    if isinstance(error, sqlite3.Error):
        reason = str(error)
    elif isinstance(error, OSError):
        reason = error.strerror or str(error)
    else:
        reason = f"{type(error).__name__}: {error}"
    return BatchError(
        f"The answers cannot be written: {reason}. All that was written before is kept: make room, or "
        "mend the disk, and start the batch again."
    )
