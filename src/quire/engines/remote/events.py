"""Server-sent events: bytes in, payloads out."""

from __future__ import annotations

from quire.errors import GenerationError

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The most bytes of one line, and of one event's data together."""


class EventReader:
    """Reads the data of events from a stream of bytes.

    Invariant: the payloads that `add` and `flush` return are the stream's events in order, however
    the bytes are cut. Comments and fields other than `data` are left out.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # no line ends before here: a long line is looked through once
        self._data: list[bytes] = []
        self._size = 0

    def add(self, chunk: bytes) -> list[str]:
        """Take more bytes and return the events that are complete.

        Raises:
            GenerationError: a line or an event is too long, or no UTF-8.
        """
        self._buffer += chunk
        found: list[str] = []
        start = 0
        while (end := self._buffer.find(b"\n", max(self._searched, start))) >= 0:
            self._take(bytes(self._buffer[start:end]).removesuffix(b"\r"), found)
            start = end + 1
        del self._buffer[:start]
        self._searched = len(self._buffer)
        if len(self._buffer) > MAX_EVENT_BYTES:
            raise GenerationError(_TOO_LONG)
        return found

    def flush(self) -> list[str]:
        """The stream has ended: return an event that only misses its blank line."""
        found: list[str] = []
        self._take(bytes(self._buffer), found)
        self._take(b"", found)
        self._buffer.clear()
        return found

    def _take(self, line: bytes, found: list[str]) -> None:
        if not line:
            if self._data:
                found.append(_text(b"\n".join(self._data)))
                self._data, self._size = [], 0
        elif line.startswith(b"data:"):
            data = line[5:].removeprefix(b" ")
            self._size += len(data)
            if self._size > MAX_EVENT_BYTES:
                raise GenerationError(_TOO_LONG)
            self._data.append(data)


_TOO_LONG = f"The server sent an event of more than {MAX_EVENT_BYTES:,} bytes."


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise GenerationError("The server sent an event that is no UTF-8.") from None
