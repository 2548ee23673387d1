"""The journal of a job: what was read, what was answered, and what of it stands in the output.

It is a SQLite database in WAL mode, beside the output. SQLite was chosen over records of our own: its
log is checksummed frame by frame, so that a torn end is cut back to the last whole transaction at
whatever byte it was torn, it finds a row by its index, and it holds the rows that wait for a slow one
before them. A transaction survives a killed process at once, and a power cut after `sync`.

The database must lie on a local disk: SQLite's locks do not hold over network file systems.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from quire.errors import BatchError

VERSION = 1
NAME = "journal.sqlite"

Order: TypeAlias = Literal["input", "completion"]
State: TypeAlias = Literal["running", "finished"]

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE chunks (
    file TEXT, number INTEGER, digest BLOB NOT NULL, PRIMARY KEY (file, number)
) WITHOUT ROWID;
CREATE TABLE rows (
    position INTEGER PRIMARY KEY, failed INTEGER NOT NULL, tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL, cached INTEGER NOT NULL, cut INTEGER NOT NULL,
    ended_by_length INTEGER NOT NULL
);
CREATE TABLE lines (
    serial INTEGER PRIMARY KEY, position INTEGER NOT NULL UNIQUE, answer TEXT, error TEXT
);
INSERT INTO facts VALUES ('version', '{VERSION}'), ('state', '"running"');
COMMIT;
"""


@dataclass(frozen=True, slots=True)
class Record:
    """What came of one row: its lines in the files, and its figures."""

    index: int
    answer: str | None
    """The line of the answers' file; None where it has none for this row."""
    error: str | None = None
    """The line of the errors' file, of a row that failed."""
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    """Tokens of the prompt that came from the prefix cache."""
    cut: bool = False
    """Whether the prompt was cut to `cutoff_len`."""
    ended_by_length: bool = False
    """Whether an answer ended at its limit of tokens."""
    message: str = ""
    """Why a row failed, for people; it is not kept."""

    @property
    def failed(self) -> bool:
        """Whether the row has no answer."""
        return self.error is not None


class KeptLine(NamedTuple):
    """A row's lines as they are kept until the job is finished."""

    serial: int
    """The place in the order in which rows were kept, from 1."""
    position: int
    """The row's index."""
    answer: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over the rows of a journal."""

    rows: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cached: int = 0
    cut: int = 0
    ended_by_length: int = 0

    @property
    def answered(self) -> int:
        """Rows with an answer."""
        return self.rows - self.failed


class Journal:
    """The journal of one job. One thread writes it; see `quire.batch.writer`."""

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Open the journal in this folder, or make one.

        Args:
            read_only: whether it is only looked at, also while another process writes it.

        Raises:
            BatchError: it cannot be opened, or a later version of quire has made it.
        """
        self.path = folder / NAME
        try:
            mode = "ro" if read_only else "rwc"
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            if not read_only:
                self._prepare()
        except sqlite3.Error as error:
            raise BatchError(
                f"The journal {self.path} cannot be used: {error}. Where it is damaged, "
                "overwrite_output_dir=true begins the batch anew."
            ) from None

    def _prepare(self) -> None:
        run = self._database.execute
        empty = run("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if empty:
            run("PRAGMA auto_vacuum = FULL")  # lines that are dropped free their room
            self._database.executescript(_SCHEMA)
        # A commit is on its way to the disk at once, and on the disk with the next checkpoint.
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA wal_autocheckpoint = 0")
        version = self.facts().get("version")
        if version != VERSION:
            raise BatchError(
                f"The journal {self.path} has version {version}, and this quire reads {VERSION}: "
                "go on with the quire that began the batch, or give overwrite_output_dir=true."
            )

    # --- facts -----------------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """What the job is: its settings, its state, how far its files are written."""
        rows = self._database.execute("SELECT name, value FROM facts")
        return {name: json.loads(value) for name, value in rows}

    def set_facts(self, facts: Mapping[str, Any]) -> None:
        """Write facts, in the transaction that is open, or in one of their own."""
        self._database.executemany(
            "INSERT OR REPLACE INTO facts VALUES (?, ?)",
            [(name, json.dumps(value, sort_keys=True)) for name, value in facts.items()],
        )

    @property
    def is_finished(self) -> bool:
        """Whether all rows have come to their end, and stand in the files."""
        return bool(self.facts().get("state") == "finished")

    # --- writing ---------------------------------------------------------------------------------

    def add(self, records: Iterable[Record], chunks: Iterable[tuple[str, int, bytes]] = ()) -> None:
        """Keep what came of rows, and the digests of chunks that were read, all of it or nothing."""
        records = list(records)
        run = self._database
        run.execute("BEGIN IMMEDIATE")
        try:
            run.executemany("INSERT OR REPLACE INTO chunks VALUES (?, ?, ?)", chunks)
            run.executemany(
                "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)", map(_figures, records)
            )
            run.executemany(
                "INSERT OR REPLACE INTO lines (position, answer, error) VALUES (?, ?, ?)",
                [(one.index, one.answer, one.error) for one in records],
            )
            run.execute("COMMIT")
        except BaseException:
            run.execute("ROLLBACK")
            raise

    def sync(self) -> None:
        """Bring all that was committed to the disk, and empty the log into the database."""
        self._database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def forget_failed(self) -> int:
        """Forget the rows that failed, so that they are tried again; returns how many there were."""
        run = self._database.execute
        run("BEGIN IMMEDIATE")
        run("DELETE FROM lines WHERE position IN (SELECT position FROM rows WHERE failed)")
        count = run("DELETE FROM rows WHERE failed").rowcount
        run("COMMIT")
        return count

    def restore_lines(self, records: Iterable[Record]) -> None:
        """Bring back the lines of answered rows, which a finished job has dropped."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(
            "INSERT OR REPLACE INTO lines (position, answer, error) VALUES (?, ?, ?)",
            ((one.index, one.answer, one.error) for one in records),
        )
        self._database.execute("COMMIT")

    def finish(self) -> None:
        """Say that the job is finished. Its lines stand in the files, and are dropped here."""
        self._database.execute("BEGIN IMMEDIATE")
        self.set_facts({"state": "finished"})
        self._database.execute("DELETE FROM lines")
        self._database.execute("COMMIT")
        self.sync()

    def close(self) -> None:
        """Close the database. May be called twice."""
        self._database.close()

    # --- reading ---------------------------------------------------------------------------------

    def chunks(self) -> dict[tuple[str, int], bytes]:
        """The digests of all chunks of the input that were read."""
        rows = self._database.execute("SELECT file, number, digest FROM chunks")
        return {(file, number): digest for file, number, digest in rows}

    def indices(self) -> Iterator[int]:
        """The indices of all rows that are kept, in order."""
        for (index,) in self._database.execute("SELECT position FROM rows ORDER BY position"):
            yield index

    def lines(self, order: Order, first: int) -> Iterator[KeptLine]:
        """The lines of rows in an order, from an index or a serial number on.

        Args:
            order: "input" is by index, "completion" by the serial number.
        """
        column = "position" if order == "input" else "serial"
        rows = self._database.execute(
            f"SELECT serial, position, answer, error FROM lines WHERE {column} >= ? ORDER BY {column}",
            (first,),
        )
        yield from map(KeptLine._make, rows)

    def counts(self) -> Counts:
        """Sums over all rows."""
        row = self._database.execute(
            "SELECT count(*), total(failed), total(tokens_in), total(tokens_out), total(cached), "
            "total(cut), total(ended_by_length) FROM rows"
        ).fetchone()
        return Counts(*map(int, row))


def _figures(record: Record) -> tuple[int, ...]:
    return (
        record.index,
        int(record.failed),
        record.tokens_in,
        record.tokens_out,
        record.cached,
        int(record.cut),
        int(record.ended_by_length),
    )
