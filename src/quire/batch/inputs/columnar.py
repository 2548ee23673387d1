"""Parquet and Arrow files, a few rows at a time. pyarrow is imported where one is read."""

from __future__ import annotations

import datetime
import decimal
import importlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quire.batch.inputs.records import InputRecord
from quire.batch.inputs.streams import hash_file
from quire.batch.rows import SeeChunk
from quire.errors import ConfigError

_ROWS = 64
"""Rows that are made at once: one may hold pictures."""


@contextmanager
def _pyarrow(module: str, path: Path) -> Generator[Any]:
    """A module of pyarrow to read a file with; its errors in the block are told in quire's words.

    Raises:
        ConfigError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        found, pyarrow = importlib.import_module(module), importlib.import_module("pyarrow")
    except ImportError:
        raise ConfigError(
            f"pyarrow is needed to read {path}: pip install 'quire-llm[batch]'."
        ) from None
    try:
        yield found
    except (OSError, pyarrow.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"Cannot read {path}: {reason.rstrip('.')}.") from None


def count_parquet(path: Path) -> int:
    """How many rows a Parquet file has.

    Raises:
        ConfigError: it is no Parquet file.
    """
    with _pyarrow("pyarrow.parquet", path) as parquet:
        return int(parquet.read_metadata(path).num_rows)


def read_parquet(path: Path, see_chunk: SeeChunk | None) -> Iterator[InputRecord]:
    """The rows of a Parquet file; of a row group, only pages are held.

    Raises:
        ConfigError: it is damaged, or no Parquet file, or pyarrow is not installed.
    """
    with _pyarrow("pyarrow.parquet", path) as parquet:
        if see_chunk is not None:
            hash_file(path, see_chunk)
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch in file.iter_batches(batch_size=_ROWS, use_threads=False):
                yield from _records(batch)


def read_arrow(path: Path, see_chunk: SeeChunk | None) -> Iterator[InputRecord]:
    """The rows of an Arrow file, in the form of a file or of a stream.

    Raises:
        ConfigError: it is damaged, or no Arrow file, or pyarrow is not installed.
    """
    with _pyarrow("pyarrow", path) as pyarrow, _pyarrow("pyarrow.ipc", path) as ipc:
        if see_chunk is not None:
            hash_file(path, see_chunk)
        with pyarrow.memory_map(str(path)) as source:
            is_file = source.read(6) == b"ARROW1"
            source.seek(0)
            if is_file:
                file = ipc.open_file(source)
                batches = map(file.get_batch, range(file.num_record_batches))
            else:
                batches = iter(ipc.open_stream(source))
            for batch in batches:
                for start in range(0, batch.num_rows, _ROWS):
                    yield from _records(batch.slice(start, _ROWS))


def _records(batch: Any) -> Iterator[InputRecord]:
    maps_are_pairs = {"maps_as_pydicts": "lossy"}
    for row in batch.to_pylist(**maps_are_pairs):
        yield InputRecord(plain_values(row))


def plain_values(value: Any) -> Any:
    """A value in what JSON has, and bytes: times and decimals become their text."""
    if isinstance(value, dict):
        return {str(key): plain_values(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_values(inner) for inner in value]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (datetime.timedelta, decimal.Decimal)):
        return str(value)
    return value
