"""A batch file checked whole, before any of it is asked: what is wrong, by its lines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire.batch.arguments import BatchArgs
from quire.batch.inputs import open_file
from quire.batch.inputs.plain import api_row, is_api_row
from quire.batch.inputs.records import InputRecord, RowFault
from quire.errors import ConfigError

MOST_FAULTS = 100
"""Faults that a batch lists."""


@dataclass(frozen=True, slots=True)
class LineFault:
    """Why a batch has failed."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None

    def shown(self) -> dict[str, Any]:
        """OpenAI's form."""
        return {
            "code": self.code,
            "line": self.line,
            "message": self.message,
            "param": self.param,
        }


def validate(path: Path, args: BatchArgs, endpoint: str, most: int) -> tuple[int, list[LineFault]]:
    """Read a batch file to its end.

    Args:
        endpoint: the API that all of its requests must ask.
        most: how many requests there may be.

    Returns:
        How many requests there are, and what is wrong with them.
    """
    try:
        source = open_file(path, args, name="requests")
    except ConfigError:
        return 0, [LineFault("empty_file", "The batch file is empty.")]
    (part,) = source.parts
    count, faults = 0, list[LineFault]()
    for record in part.records():
        count += 1
        if count > most:
            text = f"The batch file has more than {most:,} requests (max_batch_requests)."
            return count, [LineFault("too_many_requests", text)]
        fault = _fault_of(record, endpoint)
        if fault is not None:
            faults.append(fault)
        if len(faults) == MOST_FAULTS:
            break
    if not count:
        faults.append(LineFault("empty_file", "The batch file holds no requests."))
    return count, faults


def _fault_of(record: InputRecord, endpoint: str) -> LineFault | None:
    """What is wrong with a line."""
    if record.error is not None:
        return LineFault(record.error.code, record.error.message, record.error.line)
    try:
        work = api_row(record.value)
    except RowFault as fault:
        return LineFault(fault.code, fault.message, record.line)
    if work.url != endpoint:
        text = f"The url {work.url} is not the batch's endpoint, {endpoint}."
        return LineFault("mismatched_url", text, record.line, "url")
    if not is_api_row(record.value):
        text = "messages belong in the body, and not beside it."
        return LineFault("unknown_parameter", text, record.line, "messages")
    return None
