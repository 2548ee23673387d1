"""The rows of a file of answers, as quire or LLaMA-Factory wrote them, one after the other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from quire.batch.inputs.json_text import read_lines
from quire.errors import ConfigError, nearest

_TEXTS = ("predict", "label", "content")
_KEYS = (*_TEXTS, "tool_calls", "label_tool_calls", "chosen", "rejected", "error")
"""What of a row decides about its scores."""
_MORE = "more"
"""The column of quire's parquet files with all that has no column of its own, as a JSON object."""
_MAX_LINE_BYTES = 64 * 2**20
_ROWS_AT_ONCE = 64  # of a parquet file
_BOM = b"\xef\xbb\xbf"

AnswerRow: TypeAlias = dict[str, Any]
"""Of a row the keys that decide about its scores; `predict`, `label` and `content` are texts or None."""


class BadRecordError(ValueError):
    """A row of a file holds no answer; the text says why."""


def read_records(path: Path) -> Iterator[tuple[int, AnswerRow | BadRecordError]]:
    """Each row's number, from 1, and what it says of its scores, or why it says nothing.

    In a file of lines the number is the line's; blank lines are no rows. Memory does not depend on
    the number of rows.

    Raises:
        ConfigError: the file cannot be read.
    """
    if path.suffix.lower() == ".parquet":
        for number, row in enumerate(_rows_of_parquet(path), start=1):
            yield number, _record(row)
        return
    try:
        with path.open("rb") as file:
            for line in read_lines(file, 0, _MAX_LINE_BYTES):
                content = line.content
                if line.number == 1 and content is not None:
                    content = content.removeprefix(_BOM)
                if content is None or content.strip():
                    yield line.number, _record_of_line(content)
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from None


# --- lines ---------------------------------------------------------------------------------------


def _record_of_line(line: bytes | None) -> AnswerRow | BadRecordError:
    if line is None:
        return BadRecordError(f"it has more than {_MAX_LINE_BYTES >> 20} MiB")
    try:
        row = json.loads(line.decode().rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return BadRecordError(f"no UTF-8 text at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRecordError(f"no JSON at column {error.colno} ({error.msg})")
    except (ValueError, RecursionError):  # a number of thousands of digits; nested too deeply
        return BadRecordError("no JSON that can be read")
    if not isinstance(row, dict):
        return BadRecordError("no JSON object")
    return _record(row)


def _record(row: Mapping[str, Any]) -> AnswerRow | BadRecordError:
    record = {key: row[key] for key in _KEYS if row.get(key) is not None}
    if not record.keys() & {"predict", "chosen", "rejected", "error"} and "predict" not in row:
        near = nearest("predict", row)
        there = ", ".join(list(row)[:10]) or "nothing"
        return BadRecordError(f"it has no predict, but {there}{near}")
    for key in _TEXTS:
        value = record.get(key)
        if value is not None and not isinstance(value, str):
            # What somebody wrote there as data, such as an object to be answered with.
            record[key] = json.dumps(value, ensure_ascii=False, default=str)
    return record


# --- parquet -------------------------------------------------------------------------------------


def _rows_of_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise ConfigError(
            f'{path}: parquet files need pyarrow: pip install "quire-llm[batch]".'
        ) from None
    try:
        with parquet.ParquetFile(path, pre_buffer=False) as file:
            names = [str(name) for name in file.schema_arrow.names]
            columns = [name for name in (*_KEYS, _MORE) if name in names]
            if not {"predict", "chosen"} & set(columns):
                raise ConfigError(
                    f"{path} has no column predict{nearest('predict', names)}; there are "
                    f"{', '.join(names[:20])}."
                )
            for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=columns):
                yield from map(_unfolded, batch.to_pylist())
    except OSError as error:
        raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from None
    except pyarrow.ArrowException as error:
        raise ConfigError(f"{path} is no parquet file: {error}.") from None


def _unfolded(row: Mapping[str, Any]) -> Mapping[str, Any]:
    more = row.get(_MORE)
    if not isinstance(more, str):
        return row
    try:
        found = json.loads(more)
    except (ValueError, RecursionError):  # somebody else's column of that name
        return row
    given = {key: value for key, value in row.items() if value is not None}
    return {**row, **found, **given} if isinstance(found, dict) else row
