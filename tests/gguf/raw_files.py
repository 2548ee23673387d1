"""GGUF files byte by byte, sound or not."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from quire.errors import ModelError, WeightsError
from quire.gguf.reader import GgufFile

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
"""The types of values."""
FORMS = dict(
    zip((U8, I8, U16, I16, U32, I32, F32, BOOL, U64, I64, F64), "BbHhIif?Qqd", strict=True)
)
HUGE = 1 << 60
MOST = (1 << 64) - 1


class Raw(NamedTuple):
    """A tensor as the header has it, with its dimensions in the file's order."""

    name: bytes = b"w"
    dimensions: Sequence[int] = (32,)
    type: int = 0
    offset: int = 0


def text(content: bytes) -> bytes:
    return struct.pack("<Q", len(content)) + content


def entry(key: bytes, kind: int, value: bytes) -> bytes:
    """A key with its value."""
    return text(key) + struct.pack("<I", kind) + value


def number(key: bytes, kind: int, value: float) -> bytes:
    return entry(key, kind, struct.pack(f"<{FORMS[kind]}", value))


def array(key: bytes, kind: int, count: int, content: bytes = b"") -> bytes:
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + content)


def header(
    keys: Sequence[bytes] = (),
    tensors: Sequence[Raw] = (),
    *,
    start: bytes = struct.pack("<4sI", b"GGUF", 3),
    key_count: int | None = None,
    tensor_count: int | None = None,
) -> bytes:
    counts = (
        len(tensors) if tensor_count is None else tensor_count,
        len(keys) if key_count is None else key_count,
    )
    entries = [
        text(one.name)
        + struct.pack(f"<I{len(one.dimensions)}Q", len(one.dimensions), *one.dimensions)
        + struct.pack("<IQ", one.type, one.offset)
        for one in tensors
    ]
    return start + struct.pack("<QQ", *counts) + b"".join((*keys, *entries))


class Opener:
    """Opens files of a header and some bytes of data."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "model.gguf"

    def __call__(self, head: bytes, data: int = 0, alignment: int = 32) -> GgufFile:
        padding = bytes(-len(head) % alignment) if data else b""
        self.path.write_bytes(head + padding + bytes(data))
        return GgufFile(self.path)

    def refuses(
        self, words: str, head: bytes, data: int = 0, error: type[ModelError] = WeightsError
    ) -> None:
        """Check that the file is refused in these words, which follow its path."""
        with pytest.raises(error, match=words) as caught:
            self(head, data)
        assert type(caught.value) is error
        assert str(caught.value).startswith(str(self.path))


@contextmanager
def little_memory() -> Iterator[None]:
    """Checks that what happens inside takes no second, and no memory to speak of."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert time.process_time() - begin < 5, "it takes a millisecond"
    finally:
        tracemalloc.stop()
