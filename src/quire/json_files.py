"""JSON files of folders that people download, which may be damaged or made to do harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire.machine.content import foreign_content

MAX_BYTES = 32 * 2**20
"""Of one file. A tokenizer's configuration of thousands of tokens has 2 MiB, the index of a thousand
billion parameters 15."""
_MAX_DEPTH = 100


def read_json_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        ValueError: the file cannot be read, is too large, is no JSON, nests too deeply, or holds
            something else than an object. The text says which, or what the file is instead, and
            does not name it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    try:
        return parse_json_object(content)
    except ValueError as error:
        raise ValueError(foreign_content(path) or error) from None


def parse_json_object(content: bytes) -> dict[str, Any]:
    """The JSON object in a file's content; raises ValueError as `read_json_object` does."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"it nests deeper than {_MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        level = [inner for one in level for inner in _inner(one)]
        if not level:
            return value
    # Whoever walks through the value by recursion could not.
    raise ValueError(f"it nests deeper than {_MAX_DEPTH} levels")


def _inner(value: dict[str, Any] | list[Any]) -> list[Any]:
    """The objects and lists in an object or list."""
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, (dict, list))]
