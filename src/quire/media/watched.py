"""A file for a decoder to read from, through which the decoder's time is kept."""

from __future__ import annotations

from typing import BinaryIO

from quire.media.policy import Watch


class Watched:
    """A file whose every read looks at the watch, so that a decoder that reads can be ended."""

    def __init__(self, file: BinaryIO, watch: Watch) -> None:
        self._file = file
        self._watch = watch

    def read(self, size: int = -1) -> bytes:
        self._watch.check()
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """Left to who opened the file."""
