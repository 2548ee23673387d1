"""The cache folder: where it is, and files that are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire.machine.cache import cache_folder, write_whole


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUIRE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "quire"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "quire"


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "made.bin"
    write_whole(path, lambda temporary: temporary.write_bytes(b"first"))
    write_whole(path, lambda temporary: temporary.write_bytes(b"second"))
    assert path.read_bytes() == b"second"
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "made.bin"
    path.write_bytes(b"first")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        write_whole(path, fail)
    assert [one.name for one in tmp_path.iterdir()] == ["made.bin"]
    assert path.read_bytes() == b"first"
