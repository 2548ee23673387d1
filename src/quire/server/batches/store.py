"""The files and batches of a server's clients, in a folder that outlives the server."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from quire.batch.lock import JobLock
from quire.errors import BatchError, ConfigError, JobRunningError

VERSION = 1

Document: TypeAlias = dict[str, Any]
"""A batch as OpenAI's API shows it."""

ENDED = ("failed", "completed", "expired", "cancelled")
"""The states in which nothing more happens to a batch."""

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE files (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    name TEXT NOT NULL, purpose TEXT NOT NULL, bytes INTEGER NOT NULL, created_at INTEGER NOT NULL,
    expires_at INTEGER
);
CREATE TABLE batches (
    serial INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL,
    ended INTEGER NOT NULL, output_lifetime INTEGER, document TEXT NOT NULL
);
CREATE INDEX files_of ON files (owner, serial);
CREATE INDEX batches_of ON batches (owner, serial);
"""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a client."""

    id: str
    owner: str
    name: str
    purpose: str
    bytes: int
    created_at: int
    expires_at: int | None = None

    @property
    def is_expired(self) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and self.expires_at <= time.time()


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """One batch of a client."""

    id: str
    owner: str
    document: Document
    output_lifetime: int | None = None
    """Seconds after which its files of answers are removed."""

    @property
    def status(self) -> str:
        """Its state, in OpenAI's words."""
        return str(self.document["status"])


class BatchStore:
    """The state of all files and batches: a SQLite database, and the files beside it.

    Any thread may call it; calls wait for one another, and for the disk. One process has the folder.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, or make it.

        Raises:
            ConfigError: it cannot be used, or another server uses it.
        """
        self.folder = folder
        self._lock = threading.RLock()
        try:
            for path in (folder, self.files_folder, self.jobs_folder):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._holder = JobLock(folder)
            self._database = self._opened(folder / "state.sqlite")
        except JobRunningError:
            raise ConfigError(f"batches_dir: another server uses {folder}.") from None
        except BatchError as error:
            raise ConfigError(f"batches_dir: {error}") from None
        except OSError as error:
            raise ConfigError(f"batches_dir: {folder} cannot be used: {error.strerror}.") from None
        except sqlite3.Error as error:
            raise ConfigError(f"batches_dir: the state in {folder} is damaged: {error}.") from None
        for path in self.files_folder.glob("*.part"):
            path.unlink()  # an upload that a server's end has cut off

    @property
    def files_folder(self) -> Path:
        """Where the content of files is."""
        return self.folder / "files"

    @property
    def jobs_folder(self) -> Path:
        """Where batches that run have their journals."""
        return self.folder / "jobs"

    def _opened(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            database.executescript(_SCHEMA)
            database.execute("INSERT INTO facts VALUES ('version', ?)", (str(VERSION),))
        (version,) = database.execute("SELECT value FROM facts WHERE name = 'version'").fetchone()
        if version != str(VERSION):
            raise ConfigError(
                f"batches_dir: {path.parent} was written by another version of quire (its state has "
                f"version {version}, and this quire reads {VERSION})."
            )
        return database

    def close(self) -> None:
        """Close the database, and let other servers use the folder. May be called twice."""
        with self._lock:
            self._database.close()
            self._holder.close()

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, values).fetchall()

    # --- files -----------------------------------------------------------------------------------

    def content(self, file_id: str) -> Path:
        """Where a file's content is."""
        return self.files_folder / f"{file_id}.jsonl"

    def add_file(self, file: StoredFile) -> None:
        """Keep a file, whose content is there. One of the same id is replaced."""
        self._rows(
            "INSERT OR REPLACE INTO files (id, owner, name, purpose, bytes, created_at, expires_at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            file.id, file.owner, file.name, file.purpose, file.bytes, file.created_at, file.expires_at,
        )  # fmt: skip

    def file(self, file_id: str, owner: str) -> StoredFile | None:
        """A client's file; None where it has none of this id."""
        found = self._files("id = ? AND owner = ?", file_id, owner)
        return found[0] if found and not found[0].is_expired else None

    def files(self, owner: str, purpose: str | None = None) -> list[StoredFile]:
        """All files of a client, the newest first."""
        found = self._files("owner = ? AND (? IS NULL OR purpose = ?)", owner, purpose, purpose)
        return [one for one in found if not one.is_expired]

    def expired_files(self) -> list[StoredFile]:
        """The files of all clients whose time is over."""
        return self._files("expires_at <= ?", int(time.time()))

    def _files(self, where: str, *values: object) -> list[StoredFile]:
        rows = self._rows(
            "SELECT id, owner, name, purpose, bytes, created_at, expires_at FROM files "
            f"WHERE {where} ORDER BY serial DESC",
            *values,
        )
        return [StoredFile(*row) for row in rows]

    def remove_file(self, file_id: str) -> None:
        """Remove a file and its content."""
        self._rows("DELETE FROM files WHERE id = ?", file_id)
        self.content(file_id).unlink(missing_ok=True)

    def usage(self, owner: str) -> tuple[int, int]:
        """How many files a client has, and their bytes in all."""
        ((count, size),) = self._rows(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM files WHERE owner = ?", owner
        )
        return count, size

    # --- batches ---------------------------------------------------------------------------------

    def add_batch(self, batch: StoredBatch) -> None:
        """Keep a new batch."""
        self._rows(
            "INSERT INTO batches (id, owner, ended, output_lifetime, document) VALUES (?, ?, 0, ?, ?)",
            batch.id, batch.owner, batch.output_lifetime, json.dumps(batch.document),
        )  # fmt: skip

    def batch(self, batch_id: str, owner: str | None = None) -> StoredBatch | None:
        """A batch; None where there is none of this id, or it is another client's than `owner`."""
        found = self._batches("id = ? AND (? IS NULL OR owner = ?)", batch_id, owner, owner)
        return found[0] if found else None

    def batches(self, owner: str) -> list[StoredBatch]:
        """All batches of a client, the newest first."""
        return self._batches("owner = ?", owner)

    def open_batches(self) -> list[StoredBatch]:
        """The batches of all clients that have not ended, the oldest first."""
        return self._batches("ended = 0")[::-1]

    def _batches(self, where: str, *values: object) -> list[StoredBatch]:
        rows = self._rows(
            "SELECT id, owner, document, output_lifetime FROM batches "
            f"WHERE {where} ORDER BY serial DESC",
            *values,
        )
        return [StoredBatch(name, own, json.loads(text), life) for name, own, text, life in rows]

    def update_batch(
        self, batch_id: str, changes: Mapping[str, Any], *, within: Sequence[str] = ()
    ) -> StoredBatch | None:
        """Change a batch.

        Args:
            within: the states in which it is changed; without any, all but those that are its end.

        Returns:
            The batch after it; None where it was in another state.
        """
        with self._lock:
            before = self.batch(batch_id)
            if before is None or before.status in ENDED:
                return None
            if within and before.status not in within:
                return None
            document = {**before.document, **changes}
            ended = int(document["status"] in ENDED)
            self._rows(
                "UPDATE batches SET document = ?, ended = ? WHERE id = ?",
                json.dumps(document), ended, batch_id,
            )  # fmt: skip
        return StoredBatch(before.id, before.owner, document, before.output_lifetime)


def new_file_id() -> str:
    """An id that nobody can guess."""
    return f"file-{secrets.token_hex(12)}"


def new_batch_id() -> str:
    """An id that nobody can guess."""
    return f"batch_{secrets.token_hex(12)}"


def sync(path: Path) -> None:
    """Bring a file, and its name in its folder, to the disk."""
    for one in (path, path.parent):
        number = os.open(one, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
