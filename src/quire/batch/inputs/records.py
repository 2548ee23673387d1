"""Records: what a file holds before anything is known of its columns, and JSON read as it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quire.batch.rows import RowError


@dataclass(frozen=True, slots=True)
class InputRecord:
    """One record of a file. Where it has an `error`, `value` is None and counts for nothing."""

    value: Any = None
    error: RowError | None = None
    line: int | None = None
    """The line on which it begins, from 1, where the file has lines."""
    byte: int | None = None
    """Where it begins, in bytes from 0; of what a compressed file holds, not of the file."""
    notes: tuple[str, ...] = ()
    text_cells: bool = False
    """Whether all values are text because the file can hold no other."""


class RowFault(Exception):
    """A fault of one row, which is that row's error and ends nothing."""

    def __init__(self, message: str, code: str = "invalid_row") -> None:
        super().__init__(message)
        self.message, self.code = message, code


def read_fault(
    message: str, line: int | None = None, byte: int | None = None, code: str = "invalid_json_line"
) -> InputRecord:
    """The record in whose place nothing can be read."""
    return InputRecord(error=RowError("read", message, code, line, byte), line=line, byte=byte)


def too_large(limit: int, line: int | None, byte: int | None) -> InputRecord:
    """The record that has more bytes than a row may have."""
    return read_fault(
        f"The row has more than {limit:,} bytes (max_line_bytes).", line, byte, "row_too_large"
    )


class _NotJson(ValueError):
    """A word or a number that Python's parser takes and JSON does not know."""


def _refuse_constant(word: str) -> Any:
    raise _NotJson(f"{word} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise _NotJson(f"the number {digits[:40]} is too large")
    return number


class _Objects:
    """Makes the objects of one text: where a key is there twice, the last value counts."""

    def __init__(self) -> None:
        self.repeated: set[str] = set()

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            seen: set[str] = set()
            self.repeated |= {key for key, _ in pairs if key in seen or seen.add(key)}
        return made


def parse_record(
    content: bytes, line: int, byte: int, *, column: int = 0, torn: bool = False
) -> InputRecord:
    """The record in the bytes of one JSON value. Numbers and strings stay what they are.

    Args:
        line, byte: where the bytes begin in the file, for the error.
        column: how much of that line stands before them.
        torn: whether the file ends with these bytes without ending the line or list.
    """
    objects = _Objects()
    try:
        text = content.decode("utf-8")
        value = json.loads(
            text, object_pairs_hook=objects, parse_constant=_refuse_constant, parse_float=_finite
        )
        if "\\u" in text:
            _check_unicode(value)
    except UnicodeDecodeError as error:
        at = byte + error.start
        return read_fault(f"Not UTF-8 at byte {at}.", line, at)
    except json.JSONDecodeError as error:
        return _syntax_fault(error, line, byte, column, torn)
    except RecursionError:
        return read_fault("No JSON that can be read: it nests too deeply.", line, byte)
    except ValueError as error:  # a constant, a number of thousands of digits, a lone surrogate
        return read_fault(f"No JSON that can be read: {error}.", line, byte)
    notes = tuple(
        f"The key {key!r} is there twice; the last value counts."
        for key in sorted(objects.repeated)
    )
    return InputRecord(value, line=line, byte=byte, notes=notes)


def _syntax_fault(
    error: json.JSONDecodeError, line: int, byte: int, column: int, torn: bool
) -> InputRecord:
    at = byte + len(error.doc[: error.pos].encode())
    column = error.colno + (column if error.lineno == 1 else 0)
    reason = error.msg[0].lower() + error.msg[1:].removesuffix(" at")
    is_at_end = error.msg.startswith("Unterminated") or not error.doc[error.pos :].strip()
    if torn and is_at_end:
        reason = f"the file ends in the middle of a row ({reason})"
    place = f"line {line + error.lineno - 1}, column {column}, byte {at}"
    return read_fault(f"No valid JSON: {reason} at {place}.", line, at)


def _check_unicode(value: Any) -> None:
    """Raise ValueError for a lone surrogate, which no text in UTF-8 can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = f"\\u{ord(error.object[error.start]):04x}"
        raise ValueError(f"{surrogate} is one half of a character alone") from None


def kind_of(value: Any) -> str:
    """What JSON calls a value, for an error's text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    names: tuple[tuple[Any, str], ...] = (
        ((int, float), "a number"),
        (str, "text"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
