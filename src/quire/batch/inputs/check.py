"""What can be told of a job's rows before its model is loaded: a pass over the first of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from quire.batch.inputs.identity import REPEATED
from quire.batch.inputs.source import BatchSource, Part
from quire.batch.rows import ApiRow, RowError
from quire.errors import ConfigError

FIRST_ROWS = 1000


def check_source(source: BatchSource, *, first_rows: int = FIRST_ROWS) -> tuple[str, ...]:
    """Look at the first rows of each part of a job.

    Returns:
        What a person should be told, though the job may run: faults of single rows, and columns that
        a data set names and no row has.

    Raises:
        ConfigError: a file cannot be read or has no rows, an id is there twice, or no row can be
            used at all.
    """
    return tuple(line for part in source.parts for line in _check_part(part, first_rows))


def holds_requests(source: BatchSource, *, first_rows: int = FIRST_ROWS) -> bool:
    """Whether the first row that can be used is a request of OpenAI's batch file."""
    for part in source.parts:
        for record in itertools.islice(part.records(), first_rows):
            work = part.row(record, 0).work
            if work is not None:
                return isinstance(work, ApiRow)
    return False


def _check_part(part: Part, first_rows: int) -> Iterator[str]:
    columns: dict[str, None] = {}
    count, faults = 0, 0
    first: RowError | None = None
    for record in itertools.islice(part.records(), first_rows):
        row = part.row(record, count)
        count += 1
        columns.update(dict.fromkeys(map(str, row.columns)))
        if row.error is None:
            continue
        faults += 1
        first = first or row.error
        if row.error.code in REPEATED:
            raise ConfigError(
                f"{part.name}: {row.error.message} Answers are joined to their rows by ids: make "
                "them differ, or name another column as id_column, or none with id_column: ''."
            )
    if not count:
        raise ConfigError(f"{part.name} holds no rows.")
    yield from _missing_columns(part, columns)
    if first is None:
        return
    if faults == count:
        which = "The only row" if count == 1 else f"All of the first {count} rows"
        raise ConfigError(f"{part.name}: {which} cannot be used. The first: {_told(first)}")
    yield f"{part.name}: {faults} of the first {count} rows cannot be used. The first: {_told(first)}"


def _told(error: RowError) -> str:
    place = f"line {error.line}: " if error.line is not None else ""
    return error.message if place.rstrip(": ") in error.message else f"{place}{error.message}"


def _missing_columns(part: Part, columns: Mapping[str, None]) -> Iterator[str]:
    """Tell of columns that the data set names and no row has.

    Raises:
        ConfigError: so in a table, where all rows have the same columns.
    """
    missing = [name for name in part.named_columns if name not in columns] if columns else []
    if not missing:
        return
    names, present = ", ".join(map(repr, missing)), ", ".join(map(repr, columns))
    text = f"{part.name} names the columns {names}, which no row has; the columns are: {present}."
    if part.is_table:
        raise ConfigError(text)
    yield text
