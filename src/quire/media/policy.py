"""What media may come from, and how much of anything one medium may take."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

from quire.errors import EngineClosedError, MediaError
from quire.machine.cpus import default_threads


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaPolicy:
    """Where media may come from, and the limits of one medium; the defaults are those of Python.

    There the caller's own program names the files and addresses. What clients name over a network is
    held to `for_server`.
    """

    local_files: bool = True
    root: Path | None = None
    """The only folder of which files may be read; None for any."""
    urls: bool = True
    """Whether http and https addresses are fetched."""
    data_urls: bool = True
    networks: tuple[str, ...] = ()
    """Networks such as `10.1.0.0/16` that may be fetched from though they are not global."""
    max_redirects: int = 3

    max_bytes: int = 128 * 2**20
    """Bytes of an encoded medium that is held in memory: from an address, a data URL, bytes."""
    max_file_bytes: int = 2 * 2**30
    """Bytes of a local file, which is read piece by piece."""
    max_pixels: int = 64_000_000
    """Pixels of one picture, before scaling."""
    max_side: int = 65_535
    """Pixels of a side of one picture, before scaling: a JPEG has no more. A decoder keeps some bytes
    for each row, however short, and works on rows."""
    max_frame_pixels: int = 36_000_000
    """Pixels of one frame of a video, before scaling: 8K. A decoder keeps up to 17 of them."""
    max_seconds: float = 3600.0
    """Seconds of a video or a sound."""
    max_frames: int = 250_000
    """Frames of a video, before any are chosen."""
    max_animation_frames: int = 10_000
    """Frames of an animated picture: all before one that is taken must be decoded."""
    max_memory: int = 2**30
    """Bytes of one decoded medium."""

    fetch_seconds: float = 30.0
    """Seconds for fetching one medium, redirects and all."""
    decode_seconds: float = 60.0
    """Seconds for decoding one medium."""
    max_fetches: int = 8
    """Media that are fetched or decoded at once for one event loop; others wait."""
    workers: int = field(default_factory=lambda: max(1, min(4, default_threads() - 1)))
    """Threads that decode; one core is left to the event loop where there are several."""

    @classmethod
    def for_server(cls, media_root: str | Path | None = None, *, urls: bool = False) -> Self:
        """What a client may name: files under `media_root` alone, addresses where `urls` is set."""
        root = None if media_root is None else Path(media_root)
        return cls(local_files=root is not None, root=root, urls=urls)


class Watch:
    """The time that one medium may take to decode, and whether anyone still waits for it.

    Decoding is C code in a thread, which nothing can interrupt: it has to look here itself.
    """

    def __init__(self, seconds: float, closed: threading.Event | None = None) -> None:
        """`closed` is set when the engine is closed."""
        self._seconds = seconds
        self._end: float | None = None
        self._given_up = threading.Event()
        self._closed = closed or threading.Event()

    def start(self) -> None:
        """Start the time: waiting for a free thread is not counted.

        Raises:
            MediaError, EngineClosedError: as `check`.
        """
        self._end = time.monotonic() + self._seconds
        self.check()

    def give_up(self) -> None:
        """Have the next check end the work, since nobody waits for it any more."""
        self._given_up.set()

    def check(self) -> None:
        """Called between steps of the work.

        Raises:
            MediaError: the time is over, or the request was given up.
            EngineClosedError: the engine was closed.
        """
        if self._closed.is_set():
            raise EngineClosedError("The engine was closed.")
        if self._given_up.is_set():
            raise MediaError("it was given up.")
        if self._end is not None and time.monotonic() > self._end:
            raise MediaError(f"it takes more than {self._seconds:g} seconds to decode.")


class WatchedFile:
    """A file whose every read checks the watch, so that a decoder that reads can be ended."""

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
        """Leave the file open: whoever opened it closes it, after a second pass perhaps."""
