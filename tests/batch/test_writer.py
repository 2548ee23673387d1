"""The writer of a job, where its disk fails."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from quire.batch.files import LinesFile
from quire.batch.journal import Journal, Record
from quire.batch.lock import JobLock
from quire.batch.writer import Writer
from quire.errors import BatchError

PATIENCE = 60.0  # seconds that a loaded machine may take


def test_a_disk_that_fails_with_the_last_record_ends_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread takes the records and the end together, so that no end comes after the failure."""
    journal, lock = Journal(tmp_path), JobLock(tmp_path)
    answers, errors = LinesFile(tmp_path / "answers"), LinesFile(tmp_path / "errors")
    add, adding, go_on = Journal.add, threading.Event(), threading.Event()

    def add_slowly(self: Journal, *args: object) -> None:
        adding.set()
        assert go_on.wait(PATIENCE)
        add(self, *args)  # type: ignore[arg-type]

    def failing(self: LinesFile, line: str) -> None:
        if "last" in line:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "add", add_slowly)
    monkeypatch.setattr(LinesFile, "write", failing)
    writer = Writer(journal, answers, errors, lock)
    put = writer._items.put

    def put_and_go_on(item: object) -> None:
        put(item)  # type: ignore[arg-type]
        if item is None:
            go_on.set()

    monkeypatch.setattr(writer._items, "put", put_and_go_on)
    writer.put(Record(0, "first"))
    assert adding.wait(PATIENCE)
    writer.put(Record(1, "last"))
    told: list[str] = []
    closing = threading.Thread(target=_close, args=(writer, told), daemon=True)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert len(told) == 1
    assert "No space left on device" in told[0]
    with pytest.raises(BatchError, match="No space left"):
        writer.close()
    answers.close()
    errors.close()
    lock.close()
    journal.close()


def _close(writer: Writer, told: list[str]) -> None:
    try:
        writer.close()
    except BatchError as error:
        told.append(str(error))
