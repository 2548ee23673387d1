"""The folder in which quire keeps what took long to make: kernels, rounded weights, tokenizers, hashes.

Nothing here is needed. Whatever goes wrong (no home, a full disk, a damaged file, a folder that others
may write) is a warning, and the caller makes the thing again.

A file's name holds a hash of everything that its content follows from (`key_of`). The file is the
content and, after it, a trailer with the content's own hash. The content comes first, so that it can
be mapped as it is and other programs can read it.

Some of the content is code that this process runs. So nothing is read from a folder or a file that
another user could have written. Both are checked once they are open, since a path could be exchanged
after a check.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import mmap
import os
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from quire.machine.files import READ_NO_LINK
from quire.machine.folders import in_home, user_folder

logger = logging.getLogger("quire")

DEFAULT_BOUND_GB = 50.0
_BOUND = "QUIRE_CACHE_MAX_GB"
_OURS = re.compile(r"\.?(?:host|kernel|step|weights|tokenizer|digest)-[\w.-]+")
_IS_POSIX = hasattr(os, "geteuid")
_MARK = b"quire kept 1\n"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size
_PIECE = 1 << 24  # bytes that one thread hashes at a time
_ABANDONED = 24 * 3600.0  # seconds after which an unfinished file has no writer any more
_SETTLED_NS = 2_000_000_000  # the coarsest time stamps of a file system: FAT's
_MEMO_BYTES = 1 << 24  # a smaller file is hashed again in less time than its hash is looked up


def cache_folder() -> Path:
    """`QUIRE_CACHE_DIR`, else `quire` under `XDG_CACHE_HOME` or `~/.cache`.

    Raises:
        OSError: there is none, because this user has no home.
    """
    chosen = os.environ.get("QUIRE_CACHE_DIR")
    return in_home(chosen) if chosen else user_folder("XDG_CACHE_HOME", "~/.cache")


def key_of(*facts: object) -> str:
    """A name for a thing that follows from these facts and nothing else.

    A fact is whatever has a `repr` that tells its whole value.
    """
    return hashlib.sha256(repr(facts).encode("utf-8", "backslashreplace")).hexdigest()[:40]


# ---- reading and writing


def read_kept(name: str, *, threads: int = 1) -> memoryview | None:
    """What is kept under `name`, mapped; None if there is nothing that can be trusted.

    `threads` are started to check a large file.
    """
    try:
        with _open_folder() as folder, _open_file(name, folder) as file:
            size = os.fstat(file).st_size - _TRAILER
            trailer = _read_at(file, _TRAILER, size) if size >= 0 else b""
            if trailer != _MARK + _hash(file, size, threads):
                logger.warning("%s is damaged, and made again.", cache_folder() / name)
                return None
            with contextlib.suppress(OSError):  # what was used last is pruned last
                os.utime(file if os.utime in os.supports_fd else cache_folder() / name)
            return memoryview(mmap.mmap(file, size + _TRAILER, access=mmap.ACCESS_READ))[:size]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        _warn_once(f"Nothing is read from the cache folder ({_reason(error)}). {_ADVICE}")
        return None


def keep(name: str, fill: Callable[[Path], object], what: str, *, threads: int = 1) -> None:
    """Keep the file that `fill` writes under `name`, whole or not at all.

    Several first starts may do this at once, and one may be killed. Then the files that were used
    longest ago are removed, as far as all exceed the bound.

    Args:
        fill: gets the path of an empty file.
        what: the name of such things for people, in the plural.
        threads: started to hash a large file.
    """
    try:
        folder = cache_folder()
        _make_folder(folder)
        with _open_folder():
            _write_whole(folder / name, fill, threads)
        _prune(folder, name)
    except Exception as error:  # `fill` may have exceptions of its own, as safetensors has
        _warn_once(
            f"The {what} cannot be kept ({_reason(error)}), so every start makes them again. {_ADVICE}"
        )


_ADVICE = "Set QUIRE_CACHE_DIR to a folder of your own that nobody else can write."


def _reason(error: Exception) -> str:
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    named = getattr(error, "filename", None)
    return f"{named}: {text}" if named else text


@functools.lru_cache(maxsize=64)
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


@contextlib.contextmanager
def _open_folder() -> Generator[int | None]:
    """The cache folder, open and checked. None on Windows, where folders cannot be opened.

    A user's folders are theirs there by access lists, of which modes and owners show nothing.

    Raises:
        OSError: it does not exist, or others may write it.
    """
    path = cache_folder()
    if not _IS_POSIX:
        yield None
        return
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check_owner(path, os.fstat(handle))
        yield handle
    finally:
        os.close(handle)


@contextlib.contextmanager
def _open_file(name: str, folder: int | None) -> Generator[int]:
    path = name if folder is not None else cache_folder() / name
    handle = os.open(path, READ_NO_LINK, dir_fd=folder)
    try:
        state = os.fstat(handle)
        if not stat.S_ISREG(state.st_mode):
            raise OSError(f"{cache_folder() / name} is no file")
        _check_owner(cache_folder() / name, state)
        yield handle
    finally:
        os.close(handle)


def _check_owner(path: Path, state: os.stat_result) -> None:
    """Raise PermissionError if someone else than this user and root could have written the path."""
    if not _IS_POSIX:
        return
    if state.st_uid not in (0, os.geteuid()):
        raise PermissionError(f"{path} belongs to another user")
    if state.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(state.st_mode)
        raise PermissionError(f"{path} can be written by other users: its mode is {mode:03o}")


def _make_folder(path: Path) -> None:
    """Make the folder, and what is missing above it, for this user alone."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def _write_whole(path: Path, fill: Callable[[Path], object], threads: int) -> None:
    """Fill a temporary file beside `path`, which then takes its name."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.chmod(0o600)  # `fill` may have made the file anew
        with temporary.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            file.write(_MARK + _hash(file.fileno(), size, threads))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


# ---- pruning


def _bound() -> float:
    """How many bytes all files may have together."""
    text = os.environ.get(_BOUND, "")
    with contextlib.suppress(ValueError):
        if not text or float(text) >= 0:
            return float(text or DEFAULT_BOUND_GB) * 1e9
    _warn_once(f"{_BOUND} is {text!r}, which is no size in GB: {DEFAULT_BOUND_GB:g} is taken.")
    return DEFAULT_BOUND_GB * 1e9


def _prune(folder: Path, newest: str) -> None:
    """Remove our files that were used longest ago until all take no more than the bound.

    The newest stays: without it the next start would have to make it again.
    """
    found: list[tuple[int, int, Path]] = []
    for path in folder.iterdir():
        if path.name == newest or not _OURS.fullmatch(path.name):
            continue
        with contextlib.suppress(OSError):  # another process may have removed it
            state = path.lstat()
            if path.name.startswith("."):
                if time.time() - state.st_mtime > _ABANDONED:
                    path.unlink()
            elif stat.S_ISREG(state.st_mode):
                found.append((state.st_mtime_ns, state.st_size, path))
    total = (folder / newest).stat().st_size + sum(size for _, size, _ in found)
    bound, removed = _bound(), 0
    for _, size, path in sorted(found):
        if total <= bound:
            break
        path.unlink(missing_ok=True)
        total -= size
        removed += 1
    if removed:
        logger.warning(
            "Removed %d of the files in the cache folder %s, those used longest ago, to keep it below "
            "%g GB (%s).",
            removed, folder, bound / 1e9, _BOUND,
        )  # fmt: skip


# ---- hashes of files


def file_digest(path: Path, *, threads: int = 1) -> bytes:
    """A hash of all bytes of a file.

    The hash of a large file is kept, and found again by the file's path, size, inode and times. One
    that was changed in the last moment is hashed again the next time: it may change once more without
    a change of its times.

    Raises:
        OSError: the file cannot be read.
    """
    now = time.time_ns()
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        name = f"digest-{key_of(str(path.resolve()), file_state(state))}.bin"
        kept = read_kept(name) if state.st_size >= _MEMO_BYTES else None
        if kept is not None:
            return bytes(kept)
        digest = _hash(file.fileno(), state.st_size, threads)
        settled = now - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS
        unchanged = file_state(os.fstat(file.fileno())) == file_state(state)
        if state.st_size >= _MEMO_BYTES and settled and unchanged:
            keep(name, lambda temporary: temporary.write_bytes(digest), "hashes of files")
    return digest


def file_state(state: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does."""
    # The time of the last change of the inode too: nobody can set that one back.
    return state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


_seeking = threading.Lock()


def _read_at(file: int, count: int, start: int) -> bytes:
    """Bytes of an open file, from a place on."""
    if hasattr(os, "pread"):
        return os.pread(file, count, start)
    with _seeking:  # on Windows a file has one place for all threads
        os.lseek(file, start, os.SEEK_SET)
        return os.read(file, count)


def _hash(file: int, size: int, threads: int) -> bytes:
    """The SHA-256 of the SHA-256s of an open file's pieces, which threads can share."""

    def piece(start: int) -> bytes:
        content = _read_at(file, min(_PIECE, size - start), start)
        return hashlib.sha256(content).digest()

    starts = range(0, size, _PIECE)
    if threads == 1 or len(starts) <= 1:
        digests = list(map(piece, starts))
    else:
        with ThreadPoolExecutor(threads, "quire-hash") as pool:
            digests = list(pool.map(piece, starts))
    return hashlib.sha256(b"".join(digests)).digest()
