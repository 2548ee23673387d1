"""JSON files of strangers: read, or refused with a sentence, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire import json_files
from quire.json_files import read_json_object

HOSTILE = {
    "lists": (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests deeper"),
    "objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests deeper"),
    "open": (b"[" * 1_000_000, "nests deeper"),
    "just too deep": (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "nests deeper"),
    "a list": (b"[1]", "no JSON object"),
    "nothing": (b"", "Expecting value"),
    "cut": (b'{"a": ', "Expecting value"),
    "a long integer": (b'{"a": ' + b"9" * 100_000 + b"}", "digits"),
    "not UTF-8": (b'{"a": "\xff"}', "decode"),
}


@pytest.mark.parametrize(("content", "text"), list(HOSTILE.values()), ids=list(HOSTILE))
def test_hostile_files(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=text):
        read_json_object(tmp_path / "config.json")


def test_a_file_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_files, "MAX_BYTES", 1 << 20)
    path = tmp_path / "config.json"
    path.write_bytes(b'{"a": "' + b"x" * (1 << 20) + b'"}')
    with pytest.raises(ValueError, match="larger than 1 MiB"):
        read_json_object(path)


@pytest.mark.parametrize("what", ["missing", "folder"])
def test_a_file_that_cannot_be_read(what: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"No such file|Is a directory"):
        read_json_object(tmp_path / "absent" if what == "missing" else tmp_path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_ordinary_files(mark: bytes, tmp_path: Path) -> None:
    nested = b'{"a": ' + b"[" * 90 + b"]" * 90 + b', "b": {"c": 1.5}}'
    (tmp_path / "config.json").write_bytes(mark + nested)
    assert read_json_object(tmp_path / "config.json")["b"] == {"c": 1.5}
