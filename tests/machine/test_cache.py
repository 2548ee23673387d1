"""The cache folder: found again, kept whole, checked for damage and owners, pruned, and never needed."""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from quire.machine import cache
from quire.machine.cache import cache_folder, file_digest, keep, key_of, read_kept

NAME = "step-1.bin"
OLD = 1_600_000_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "new" / "cache"))
    monkeypatch.delenv("QUIRE_CACHE_MAX_GB", raising=False)
    return tmp_path / "new" / "cache"


def kept(name: str = NAME) -> bytes | None:
    content = read_kept(name)
    return None if content is None else bytes(content)


def put(content: bytes, name: str = NAME) -> None:
    keep(name, lambda path: path.write_bytes(content), "things")


def test_where_the_folder_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", "~/kept")
    assert cache_folder() == Path.home() / "kept"
    monkeypatch.delenv("QUIRE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "quire"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "quire"


def test_a_user_without_a_home_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def nobody(_: int) -> pwd.struct_passwd:
        raise KeyError

    for name in ("QUIRE_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    put(b"made")
    assert kept() is None
    assert "no home folder" in caplog.text


@pytest.mark.parametrize("content", [b"", b"made", bytes(range(256)) * 300])
def test_what_is_kept_is_found(
    folder: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_PIECE", 10_000)
    assert kept() is None
    put(b"before")
    put(content)
    assert kept() == content
    assert read_kept(NAME, threads=3) == content
    assert [path.name for path in folder.iterdir()] == [NAME]
    for path in (folder, folder.parent, folder / NAME):
        assert path.stat().st_mode & 0o077 == 0


def test_a_failed_write_leaves_what_was_there(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(b"first")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError("no space left")

    keep(NAME, fail, "things")
    assert "The things cannot be kept (no space left)" in caplog.text
    assert [path.name for path in folder.iterdir()] == [NAME]
    assert kept() == b"first"


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:3],
        lambda content: content[:-1],
        lambda content: b"X" + content[1:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[: len(content) // 2] + content[len(content) // 2 + 1 :],
        lambda content: content + b"!",
    ],
)
def test_damage_is_noticed(
    folder: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    put(b"made with care")
    (folder / NAME).write_bytes(damage((folder / NAME).read_bytes()))
    assert kept() is None
    assert f"{folder / NAME} is damaged" in caplog.text
    put(b"made again")
    assert kept() == b"made again"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o720, 0o1777])
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_others_may_write_is_not_read(
    folder: Path, mode: int, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(b"made")
    path = folder if what == "folder" else folder / NAME
    path.chmod(mode)
    assert kept() is None
    assert str(path) in caplog.text
    assert "can be written by other users" in caplog.text
    put(b"made again")
    if what == "folder":  # nor is anything put there, or changed
        assert kept() is None
        path.chmod(0o755)
        assert kept() == b"made"
    else:  # a file of our own takes its place
        assert kept() == b"made again"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_read(
    folder: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(b"made")
    path = folder if what == "folder" else folder / NAME
    os.chown(path, 12345, 0)
    assert kept() is None
    assert f"{path} belongs to another user" in caplog.text


def test_a_link_and_a_pipe_are_not_read(folder: Path, tmp_path: Path) -> None:
    put(b"made")
    (folder / NAME).rename(tmp_path / "elsewhere")
    (folder / NAME).symlink_to(tmp_path / "elsewhere")
    assert kept() is None
    (folder / NAME).unlink()
    os.mkfifo(folder / NAME)
    assert kept() is None


@pytest.mark.parametrize("obstacle", ["file", "unreadable", "is folder"])
def test_a_folder_that_cannot_be_used(
    tmp_path: Path,
    obstacle: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocked = tmp_path / "blocked"
    if obstacle == "file":
        blocked.write_text("in the way")
        monkeypatch.setenv("QUIRE_CACHE_DIR", str(blocked / "cache"))
    elif obstacle == "unreadable":
        monkeypatch.setenv("QUIRE_CACHE_DIR", "/proc/quire/cache")
    else:
        (blocked / NAME).mkdir(parents=True)
        monkeypatch.setenv("QUIRE_CACHE_DIR", str(blocked))
    assert kept() is None
    put(b"made")
    assert kept() is None
    assert "Set QUIRE_CACHE_DIR" in caplog.text


def test_what_was_used_longest_ago_is_pruned(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"weights-int8-{number}.safetensors" for number in range(3)]
    for age, name in enumerate(names):
        put(bytes(1000), name)
        os.utime(folder / name, (OLD + age, OLD + age))
    assert kept(names[0]) is not None  # used, and so no longer the oldest
    for name in ("thesis.txt", "step.txt", "notes-1"):
        (folder / name).write_bytes(bytes(5000))  # not ours
    (folder / ".weights-int8-9-abc").write_bytes(b"half")
    os.utime(folder / ".weights-int8-9-abc", (OLD, OLD))
    monkeypatch.setenv("QUIRE_CACHE_MAX_GB", "2.5e-6")
    caplog.set_level(logging.WARNING, "quire")
    put(bytes(1000), "step-2.bin")
    left = {path.name for path in folder.iterdir()}
    assert left == {names[0], "step-2.bin", "thesis.txt", "step.txt", "notes-1"}
    assert caplog.text.count("Removed 2 of the files") == 1
    put(bytes(10_000), "weights-int8-4.safetensors")  # alone above the bound, and kept
    assert kept("weights-int8-4.safetensors") is not None


@pytest.mark.parametrize("bound", ["much", "nan", "-1"])
def test_a_bound_that_is_none(
    bound: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("QUIRE_CACHE_MAX_GB", bound)
    put(b"first", "step-1.bin")
    put(b"second", "step-2.bin")
    assert (kept("step-1.bin"), kept("step-2.bin")) == (b"first", b"second")
    assert "QUIRE_CACHE_MAX_GB" in caplog.text


def test_every_fact_is_in_a_key() -> None:
    facts: list[tuple[object, ...]] = [(), ("a",), ("a", ""), ("", "a"), (b"a",), (["a"],), (None,)]
    assert len({key_of(*one) for one in facts}) == len(facts)
    assert key_of("a", 1) == key_of("a", 1)


# ---- hashes of files


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed besides the cache's own files."""
    sizes: list[int] = []
    plain = cache._hash

    def counted(file: int, size: int, threads: int) -> bytes:
        if size > 1000:
            sizes.append(size)
        return plain(file, size, threads)

    monkeypatch.setattr(cache, "_hash", counted)
    monkeypatch.setattr(cache, "_MEMO_BYTES", 2000)
    return sizes


def test_a_files_hash_is_its_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PIECE", 1000)
    path = tmp_path / "large"
    content = os.urandom(4321)
    path.write_bytes(content)
    pieces = [content[start : start + 1000] for start in range(0, len(content), 1000)]
    wanted = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in pieces)).digest()
    assert file_digest(path) == file_digest(path, threads=4) == wanted


def test_a_file_that_did_not_change_is_not_hashed_again(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(5000))
    assert file_digest(path) == file_digest(path)
    assert len(hashed) == 2  # it was changed a moment ago, and might be once more
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**18))  # the file is old
    assert file_digest(path) == file_digest(path)
    assert len(hashed) == 3


def test_a_change_is_seen_though_size_and_time_are_the_same(
    tmp_path: Path, hashed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_SETTLED_NS", -(10**18))
    path = tmp_path / "weights"
    path.write_bytes(bytes(5000))
    os.utime(path, (OLD, OLD))
    before = file_digest(path)
    with path.open("r+b") as file:
        file.write(b"other")
    os.utime(path, (OLD, OLD))
    assert file_digest(path) != before
