"""The files that a batch writes: lines that are appended, and what is made of them at the end."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quire.errors import BatchError

_SEPARATORS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"})


def json_line(content: Any) -> str:
    """Content as one line of JSON, with no character in it at which some reader ends a line."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False).translate(_SEPARATORS)


class LinesFile:
    """A file of lines that are appended. What is not on the disk yet may be cut off again."""

    def __init__(self, path: Path) -> None:
        """Open the file, or make it.

        Raises:
            BatchError: it cannot be written.
        """
        self.path = path
        try:
            self._file = path.open("ab", buffering=1 << 16)
        except OSError as error:
            raise BatchError(f"{path} cannot be written: {error.strerror}.") from None

    @property
    def size(self) -> int:
        """Bytes of the file."""
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def write(self, line: str) -> None:
        """Append a line."""
        # A lone surrogate has no UTF-8; rows with one are refused, but a model may write anything.
        self._file.write(line.encode("utf-8", errors="replace") + b"\n")

    def flush(self) -> None:
        """Let other processes see what was appended."""
        self._file.flush()

    def sync(self) -> None:
        """Bring all that was appended to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def cut(self, size: int) -> None:
        """Cut the file back to so many bytes."""
        self._file.flush()
        os.ftruncate(self._file.fileno(), size)

    def close(self) -> None:
        """Close the file. May be called twice. What cannot be written is left out."""
        with contextlib.suppress(OSError):
            self._file.close()


REQUEST_ID = "batch_req_"
"""How the id of a line in OpenAI's form begins; then follow twelve hexadecimal digits of its index."""


def index_of(content: Mapping[str, Any]) -> int | None:
    """The index of the row of a line; None where it is no line of a batch."""
    index, name = content.get("index"), content.get("id")
    if index is None and isinstance(name, str) and name.startswith(REQUEST_ID):
        digits = name.removeprefix(REQUEST_ID)[:12]
        with contextlib.suppress(ValueError):
            index = int(digits, 16)
    is_index = isinstance(index, int) and not isinstance(index, bool) and index >= 0
    return index if is_index else None


def has_failed(content: Mapping[str, Any]) -> bool:
    """Whether a line is that of a row without an answer."""
    response = content.get("response")
    status = response.get("status_code") if isinstance(response, Mapping) else None
    return content.get("error") is not None or (isinstance(status, int) and status >= 400)


def read_lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The contents of a file that `LinesFile` has written."""
    with open(path, "rb") as file:
        for line in file:
            yield json.loads(line)


@contextmanager
def whole_file(path: Path) -> Generator[Path]:
    """A name to write a file under that then takes the place of `path`: all of it, or nothing."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], group: int = 4096) -> None:
    """Write rows as a parquet file, all of it or nothing. Nested values are kept as JSON text.

    Raises:
        BatchError: pyarrow is not installed.
    """
    pyarrow, parquet = _pyarrow()
    writer = None
    with whole_file(path) as part:
        for batch in _grouped(rows, group):
            table = pyarrow.Table.from_pylist(
                [_flat(row) for row in batch], schema=_schema(pyarrow)
            )
            if writer is None:
                writer = parquet.ParquetWriter(part, table.schema)
            writer.write_table(table)
        if writer is None:
            writer = parquet.ParquetWriter(part, _schema(pyarrow))
        writer.close()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise BatchError(
            "Parquet needs pyarrow: pip install 'quire-llm[batch]', or write .jsonl."
        ) from None
    return pyarrow, pyarrow.parquet


COLUMNS: Mapping[str, str] = {
    "index": "int64",
    "id": "string",
    "prompt": "string",
    "predict": "string",
    "label": "string",
    "finish_reason": "string",
    "prompt_tokens": "int64",
    "completion_tokens": "int64",
    "thought": "string",
    "content": "string",
    "more": "string",
}
"""The columns of a parquet file; `more` holds all else as a JSON object."""


def _schema(pyarrow: Any) -> Any:
    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in COLUMNS.items()])


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    flat = {name: row.get(name) for name in COLUMNS}
    more = {name: value for name, value in row.items() if name not in COLUMNS}
    flat["more"] = json.dumps(more, ensure_ascii=False) if more else None
    return flat


def _grouped(rows: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    batch: list[Mapping[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
