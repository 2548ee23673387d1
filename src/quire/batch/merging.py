"""Files of several parts of one batch, joined in the order of their rows."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from quire.batch.files import index_of
from quire.errors import BatchError

GROUP = 10_000


@dataclass(frozen=True, slots=True)
class Merged:
    """What `merge` has joined."""

    rows: int
    missing: int
    """Rows below the last one that no file has: they failed, or their part is not there."""


def merge(output: Path, parts: Sequence[Path]) -> Merged:
    """Join files of answers, or of errors, into one in the order of the rows; all of it or nothing.

    The lines are sorted on the disk, so that memory does not depend on their number.

    Raises:
        BatchError: a file cannot be read, is no file of a batch, or two have the same row.
    """
    if output.exists():
        raise BatchError(f"{output} is there already: choose another name.")
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        database = sqlite3.connect(Path(folder) / "lines.sqlite", isolation_level=None)
        try:
            database.execute("PRAGMA journal_mode = OFF")
            database.execute("PRAGMA synchronous = OFF")
            database.execute(
                "CREATE TABLE lines (position INTEGER PRIMARY KEY, part INT, line BLOB)"
            )
            for number, part in enumerate(parts):
                _insert(database, number, part, parts)
            part_file = Path(folder) / "merged"
            with part_file.open("wb") as file:
                for (line,) in database.execute("SELECT line FROM lines ORDER BY position"):
                    file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            rows, last = database.execute(
                "SELECT count(*), coalesce(max(position), -1) FROM lines"
            ).fetchone()
            os.replace(part_file, output)
        except OSError as error:
            raise BatchError(f"{output} cannot be written: {error.strerror or error}.") from None
        finally:
            database.close()
    return Merged(rows, last + 1 - rows)


def _insert(database: sqlite3.Connection, number: int, part: Path, parts: Sequence[Path]) -> None:
    database.execute("BEGIN")
    for index, line in _lines(part):
        try:
            database.execute("INSERT INTO lines VALUES (?, ?, ?)", (index, number, line))
        except sqlite3.IntegrityError:
            (other,) = database.execute(
                "SELECT part FROM lines WHERE position = ?", (index,)
            ).fetchone()
            raise BatchError(f"{parts[other]} and {part} both have row {index}.") from None
    database.execute("COMMIT")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield _index(line, path, number), line.rstrip(b"\n")
    except OSError as error:
        raise BatchError(f"{path} cannot be read: {error.strerror}.") from None


def _index(line: bytes, path: Path, number: int) -> int:
    try:
        content = json.loads(line)
    except ValueError:
        content = None
    index = index_of(content) if isinstance(content, dict) else None
    if index is None:
        raise BatchError(f"{path}, line {number}: this is no line of a batch (it has no index).")
    return index
