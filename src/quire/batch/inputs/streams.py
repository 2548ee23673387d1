"""The bytes of input files: hashed in chunks as they are read, decompressed, without a byte-order mark."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from quire.batch.rows import SeeChunk
from quire.errors import ConfigError

CHUNK = 1 << 20
"""Bytes of a file that are hashed together."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_GZIP_WBITS = 16 + zlib.MAX_WBITS
_COMPRESSED_PIECE = 1 << 12
_BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


class HashedFile(io.RawIOBase):
    """A file from its first byte to its last, whose chunks are told as they have been read."""

    def __init__(self, path: Path, see_chunk: SeeChunk | None) -> None:
        """Open the file.

        Raises:
            ConfigError: it cannot be opened.
        """
        super().__init__()
        self._name, self._see = str(path), see_chunk
        self._digest, self._filled, self._number = hashlib.sha256(), 0, 0
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ConfigError(f"Cannot read {path}: {error.strerror or error}.") from None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: CHUNK - self._filled]
        try:
            count = self._file.readinto(view) or 0
        except OSError as error:
            raise ConfigError(f"Cannot read {self._name}: {error.strerror or error}.") from None
        if self._see is None:
            return count
        self._digest.update(view[:count])
        self._filled += count
        if self._filled == CHUNK or (not count and self._filled):
            self._see(self._name, self._number, self._digest.digest())
            self._digest, self._filled, self._number = hashlib.sha256(), 0, self._number + 1
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Decompressor(Protocol):
    """What zlib and zstandard give for one member or frame of a file."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Decompressed(io.RawIOBase):
    """What a compressed file holds, up to its end or its first damaged byte.

    gzip's own file gives nothing of a block that it cannot read to its end, and so loses rows.
    """

    def __init__(self, file: io.BufferedReader[Any], make: Callable[[], _Decompressor]) -> None:
        super().__init__()
        self._file, self._make = file, make
        self._member: _Decompressor | None = None
        self._ready, self._left = memoryview(b""), b""
        self.damage = ""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, unless the file ends: who looks ahead must see as much as in any file."""
        filled = 0
        while filled < len(buffer) and (self._ready or (not self.damage and self._decompress())):
            count = min(len(buffer) - filled, len(self._ready))
            buffer[filled : filled + count] = self._ready[:count]
            self._ready = self._ready[count:]
            filled += count
        return filled

    def _decompress(self) -> bool:
        """Decompress a little, since it may become much; false at the end."""
        content = self._left or self._file.read(_COMPRESSED_PIECE)
        if not content:
            if self._member is not None:
                self.damage = "it ends in the middle"
            return False
        member = self._member or self._make()
        try:
            self._ready = memoryview(member.decompress(content))
        except Exception as error:  # zlib's, or zstandard's, which only its module names
            self.damage = str(error)
            return False
        self._left = member.unused_data if member.eof else b""
        self._member = None if member.eof else member
        return True

    def close(self) -> None:
        self._file.close()
        super().close()


class TextBytes:
    """The bytes of a file's text.

    Attributes:
        file: buffered, at the first byte after a byte-order mark.
        start: that byte's offset.
    """

    def __init__(self, path: Path, see_chunk: SeeChunk | None = None) -> None:
        """Open a file, decompressed if its first bytes say that it is compressed.

        Raises:
            ConfigError: it cannot be opened, is UTF-16, or needs a package that is not installed.
        """
        raw = HashedFile(path, see_chunk)
        plain: io.BufferedReader[Any] = io.BufferedReader(raw, CHUNK)
        self._raw, self._inner = raw, None
        magic = plain.peek(4)[:4]
        if magic.startswith(_GZIP):
            self._inner = _Decompressed(plain, partial(zlib.decompressobj, wbits=_GZIP_WBITS))
        elif magic == _ZSTD:
            self._inner = _Decompressed(plain, _zstd_frames(path))
        self.file: io.BufferedReader[Any] = (
            plain if self._inner is None else io.BufferedReader(self._inner, CHUNK)
        )
        self.start = self._skip_mark(path)

    def _skip_mark(self, path: Path) -> int:
        first = self.file.peek(4)
        if first.startswith(_WIDE_BOMS):
            self.close()
            raise ConfigError(f"{path} is UTF-16: save it as UTF-8.")
        if not first.startswith(_BOM):
            return 0
        self.file.read(len(_BOM))
        return len(_BOM)

    @property
    def damage(self) -> str:
        """Why the file could not be decompressed to its end; an empty string if it could."""
        return "" if self._inner is None else self._inner.damage

    def close(self) -> None:
        self.file.close()
        self._raw.close()

    def __enter__(self) -> TextBytes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _zstd_frames(path: Path) -> Callable[[], _Decompressor]:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        raise ConfigError(
            f"{path} is compressed with zstd, for which zstandard is needed: "
            "pip install 'quire-llm[batch]'."
        ) from None
    return lambda: cast("_Decompressor", zstandard.ZstdDecompressor().decompressobj())


def hash_file(path: Path, see_chunk: SeeChunk) -> None:
    """Tell the chunks of a file that is then read out of order.

    Raises:
        ConfigError: it cannot be read.
    """
    with HashedFile(path, see_chunk) as file:
        buffer = bytearray(CHUNK)
        while file.readinto(buffer):
            pass


def keep_stream(spool: Path, path: Path | None, *, overwrite: bool) -> None:
    """Write standard input to `spool`, so that a job that is started again has the same rows.

    Where `spool` is there already, from the job's first start, standard input may be empty or a
    terminal; otherwise it must be the same again.

    Args:
        path: a named pipe that is read instead.

    Raises:
        ConfigError: nothing can be read, and nothing is kept; or it differs from what is kept,
            without `overwrite`; or the file cannot be written.
    """
    part = spool.with_name(f"{spool.name}.part")
    name = "standard input" if path is None else str(path)
    try:
        length = _copy_input(path, part)
        if not length:
            part.unlink(missing_ok=True)
            if not spool.exists():
                raise ConfigError(f"input: nothing came from {name}.")
        elif not overwrite and spool.exists() and not _same(part, spool):
            part.unlink()
            raise ConfigError(
                f"What comes from {name} is not that of this job's first start, which is kept in "
                f"{spool}: begin with overwrite_output_dir: true, or name another output_dir."
            )
        else:
            os.replace(part, spool)
    except OSError as error:
        raise ConfigError(f"{name} cannot be kept in {spool}: {error.strerror or error}.") from None


def _copy_input(path: Path | None, part: Path) -> int:
    if path is not None:
        with path.open("rb") as source:
            return _copy(source, part)
    return 0 if sys.stdin.isatty() else _copy(sys.stdin.buffer, part)


def _copy(source: BinaryIO, target: Path) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    length = 0
    with target.open("wb") as file:
        while content := source.read(CHUNK):
            file.write(content)
            length += len(content)
        file.flush()
        os.fsync(file.fileno())
    return length


def _same(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while content := first.read(CHUNK):
            if content != second.read(CHUNK):
                return False
    return True
