"""Jobs over files that a test writes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quire.batch.arguments import get_batch_args
from quire.batch.inputs import BatchSource, open_source
from quire.batch.inputs.files import input_file
from quire.batch.inputs.records import InputRecord
from quire.batch.rows import ChatRow, Row
from quire.messages import Message

LIMIT = 1 << 20


def records(path: Path, content: bytes | str, *, limit: int = LIMIT) -> list[InputRecord]:
    """The records of a file with this content."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return list(input_file(path).records(limit))


def values(found: Iterable[InputRecord]) -> list[Any]:
    """The value of each record; of one that has an error, its text."""
    return [one.value if one.error is None else f"error: {one.error.message}" for one in found]


def source(tmp_path: Path, *, compat: bool = False, **arguments: Any) -> BatchSource:
    """The source of a job with these arguments."""
    args = get_batch_args({"model_name_or_path": "none", **arguments})
    return open_source(args, spool=tmp_path / "spool" / "input", compat=compat)


def data_set(
    tmp_path: Path,
    rows: Any,
    entry: dict[str, Any] | None = None,
    *,
    name: str = "set.json",
    compat: bool = False,
    **arguments: Any,
) -> list[Row]:
    """The rows of one data set, whose file holds `rows` as a list, or as the bytes they are."""
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    content = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    (folder / name).write_bytes(content)
    info = {"set": {"file_name": name, **(entry or {})}}
    (folder / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    made = source(tmp_path, compat=compat, dataset="set", dataset_dir=str(folder), **arguments)
    return list(made.rows())


def content_of(message: Mapping[str, Any] | Message) -> Any:
    """What a message in OpenAI's form says."""
    assert isinstance(message, Mapping)
    return message["content"]


def chat(row: Row) -> ChatRow:
    """The conversation of a row, which has one."""
    assert isinstance(row.work, ChatRow), row.error
    return row.work


def fault(row: Row) -> str:
    """The text of a row's error, which it has."""
    assert row.error is not None
    return row.error.message
