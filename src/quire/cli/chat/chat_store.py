"""Conversations of the terminal, kept in one SQLite file that its owner alone may read.

Several chats may write at once: each has its own row, and each save is one transaction. Where two go on
with the same conversation, the later one to save becomes a conversation of its own, so that neither
loses a message.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quire.errors import ConfigError
from quire.machine.folders import user_folder

MOST_CHATS = 1000
MOST_BYTES = 256 * 2**20
LONGEST_CHAT = 64 * 2**20
"""Characters of one conversation, of which data URLs of pictures are the most."""

_VERSION = 1
_TABLES = """
CREATE TABLE chats (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  title TEXT NOT NULL,
  model TEXT NOT NULL,
  words TEXT NOT NULL,
  changed REAL NOT NULL,
  revision INTEGER NOT NULL,
  state TEXT NOT NULL
);
CREATE INDEX chats_by_time ON chats (changed);
CREATE TABLE messages (
  chat INTEGER NOT NULL REFERENCES chats ON DELETE CASCADE,
  place INTEGER NOT NULL,
  message TEXT NOT NULL,
  PRIMARY KEY (chat, place)
) WITHOUT ROWID;
CREATE TABLE choices (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_ROW = "number, title, model, words, changed, revision"
_LONGEST_TITLE = 80


@dataclass(frozen=True)
class KeptChat:
    """A conversation in the store. `words` are those of the command line that it was begun with."""

    number: int
    title: str
    model: str
    words: tuple[str, ...]
    changed: float
    """Seconds since 1970."""
    revision: int
    """How often it was saved: another number than the one last seen says that somebody else did."""


def data_folder() -> Path:
    """The folder for a user's own data, where this platform has it.

    Raises:
        OSError: there is none, since this user has no home.
    """
    if sys.platform == "win32" and not os.environ.get("XDG_DATA_HOME"):
        return user_folder("LOCALAPPDATA", "~/AppData/Local")
    default = "~/Library/Application Support" if sys.platform == "darwin" else "~/.local/share"
    return user_folder("XDG_DATA_HOME", default)


class ChatStore:
    """The conversations in one file, which is made when something is first written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_user(cls) -> ChatStore:
        """The store of whoever runs this.

        Raises:
            ConfigError: this user has no place for it.
        """
        try:
            return cls(data_folder() / "chats.db")
        except OSError as error:
            raise ConfigError(f"Conversations cannot be kept: {error}.") from None

    # --- writing ---------------------------------------------------------------------------------

    def save(
        self,
        known: KeptChat | None,
        content: Mapping[str, Any],
        *,
        title: str,
        model: str,
        words: Sequence[str],
    ) -> KeptChat:
        """Write a conversation as `Session.to_dict` gives it; return it with its number.

        It gets a new one where it is not `known`, and where somebody else has changed or forgotten it.

        Raises:
            ConfigError: it is too long, or the file cannot be written.
        """
        state = {key: value for key, value in content.items() if key != "messages"}
        messages = [json.dumps(message, ensure_ascii=False) for message in content["messages"]]
        if sum(map(len, messages)) > LONGEST_CHAT:
            raise ConfigError(
                f"This conversation is too long to be kept: over {LONGEST_CHAT >> 20} MiB."
            )
        chat = KeptChat(0, title[:_LONGEST_TITLE], model, tuple(words), time.time(), 1)
        with self._writing() as database:
            if known is not None and _revision(database, known.number) == known.revision:
                chat = replace(chat, number=known.number, revision=known.revision + 1)
            values = (chat.title, model, json.dumps(words), chat.changed, chat.revision)
            number = database.execute(
                "INSERT INTO chats (number, title, model, words, changed, revision, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET title = excluded.title,"
                " model = excluded.model, words = excluded.words, changed = excluded.changed,"
                " revision = excluded.revision, state = excluded.state RETURNING number",
                (chat.number or None, *values, json.dumps(state, ensure_ascii=False)),
            ).fetchone()[0]
            _write_messages(database, number, messages)
            _drop_oldest(database, spared=number)
        return replace(chat, number=number)

    def forget(self, number: int | None = None) -> int:
        """Forget one conversation, or all. Return how many there were.

        Raises:
            ConfigError: the file cannot be written.
        """
        if not self.path.exists():
            return 0
        with self._writing() as database:
            if number is None:
                return database.execute("DELETE FROM chats").rowcount
            return database.execute("DELETE FROM chats WHERE number = ?", (number,)).rowcount

    def choose(self, keeps: bool) -> None:
        """Remember whether chats in the terminal are kept."""
        with self._writing() as database:
            database.execute(
                "INSERT INTO choices VALUES ('keep', ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                ("on" if keeps else "off",),
            )

    # --- reading ---------------------------------------------------------------------------------

    def keeps(self) -> bool:
        """Whether chats in the terminal are kept, where nobody says otherwise."""
        with self._reading() as database:
            if database is None:
                return True
            row = database.execute("SELECT value FROM choices WHERE name = 'keep'").fetchone()
            return row is None or row[0] == "on"

    def list(self, wanted: str = "", limit: int = 20) -> list[KeptChat]:
        """The conversations changed last, first of them the latest; only those that hold `wanted`.

        Raises:
            ConfigError: the file cannot be read.
        """
        condition, values = "", list[Any]()
        if wanted:
            # Messages are JSON, in which a quotation mark or a line break is written otherwise.
            written = json.dumps(wanted, ensure_ascii=False)[1:-1]
            condition = (
                "WHERE instr(lower(title), lower(?)) OR EXISTS (SELECT 1 FROM messages"
                " WHERE chat = number AND instr(lower(message), lower(?)))"
            )
            values = [wanted, written]
        with self._reading() as database:
            if database is None:
                return []
            rows = database.execute(
                f"SELECT {_ROW} FROM chats {condition} ORDER BY changed DESC, number DESC LIMIT ?",
                (*values, limit),
            ).fetchall()
            return [_chat(row) for row in rows]

    def load(self, number: int) -> tuple[KeptChat, dict[str, Any]]:
        """A conversation, and its content as `Session.take_over` reads it.

        Raises:
            ConfigError: there is none of this number, or the file cannot be read.
        """
        with self._reading() as database:
            row, messages = None, list[Any]()
            if database is not None:
                row = database.execute(
                    f"SELECT {_ROW}, state FROM chats WHERE number = ?", (number,)
                ).fetchone()
                messages = database.execute(
                    "SELECT message FROM messages WHERE chat = ? ORDER BY place", (number,)
                ).fetchall()
            if row is None:
                raise ConfigError(f"No conversation has the number {number}.")
            content = json.loads(row[-1])
            content["messages"] = [json.loads(message) for (message,) in messages]
            return _chat(row[:-1]), content

    # --- the file --------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """One transaction, begun before anything is read: nobody writes in between."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Made here, since SQLite would let everybody read it; its journal gets the same mode.
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            self.path.chmod(0o600)
        except OSError as error:
            raise ConfigError(f"Cannot write {self.path}: {error.strerror}.") from None
        with self._open() as database:
            database.execute("BEGIN IMMEDIATE")
            if _version(database) == 0:
                for statement in _TABLES.split(";"):
                    database.execute(statement)
                database.execute(f"PRAGMA user_version = {_VERSION}")
            yield database
            database.commit()

    @contextmanager
    def _reading(self) -> Generator[sqlite3.Connection | None]:
        """The database; None where nothing is kept yet.

        So is a file without tables: the disk was full when they were to be written.
        """
        if not self.path.exists():
            yield None
            return
        with self._open() as database:
            yield database if _version(database) else None

    @contextmanager
    def _open(self) -> Generator[sqlite3.Connection]:
        try:
            connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None)
            with closing(connection):
                connection.execute("PRAGMA foreign_keys = ON")
                connection.execute("PRAGMA secure_delete = ON")
                version = _version(connection)
                if version > _VERSION:
                    raise ConfigError(
                        f"{self.path} is of a newer quire (version {version} of its form, "
                        f"this one reads {_VERSION}): upgrade, or move it away."
                    )
                yield connection
        except (sqlite3.OperationalError, OverflowError) as error:  # locked, full, a folder
            raise ConfigError(f"Conversations in {self.path}: {error}.") from None
        except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"{self.path} is damaged: {error}. Move it away, and a new one is begun."
            ) from None


def _version(database: sqlite3.Connection) -> int:
    """The version of the file's form; 0 before anything is in it."""
    return database.execute("PRAGMA user_version").fetchone()[0]


def _revision(database: sqlite3.Connection, number: int) -> int | None:
    row = database.execute("SELECT revision FROM chats WHERE number = ?", (number,)).fetchone()
    return None if row is None else row[0]


def _write_messages(database: sqlite3.Connection, number: int, messages: Sequence[str]) -> None:
    """Write what differs from what is there: mostly one question and its answer."""
    rows = database.execute("SELECT message FROM messages WHERE chat = ? ORDER BY place", (number,))
    same = 0
    for (before,), message in zip(rows.fetchall(), messages, strict=False):
        if before != message:
            break
        same += 1
    database.execute("DELETE FROM messages WHERE chat = ? AND place >= ?", (number, same))
    database.executemany(
        "INSERT INTO messages VALUES (?, ?, ?)",
        [(number, place, message) for place, message in enumerate(messages)][same:],
    )


def _drop_oldest(database: sqlite3.Connection, spared: int) -> None:
    """Forget the oldest conversations, as many as it takes to stay within the limits."""
    ages = database.execute(
        "SELECT number FROM chats WHERE number != ? ORDER BY changed, number", (spared,)
    ).fetchall()
    for index, (number,) in enumerate(ages):
        if len(ages) + 1 - index <= MOST_CHATS and _used_bytes(database) <= MOST_BYTES:
            return
        database.execute("DELETE FROM chats WHERE number = ?", (number,))


def _used_bytes(database: sqlite3.Connection) -> int:
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def _chat(row: Sequence[Any]) -> KeptChat:
    number, title, model, words, changed, revision = row
    return KeptChat(number, title, model, tuple(json.loads(words)), changed, revision)
