"""Writing one GGUF file: the header first, then the tensors one after the other, piece by piece.

The file grows under a name of its own and gets its name when it is whole, so that nobody opens a half.
It has its full size from the beginning: `GgufFile` can open it before all tensors are there.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.gguf.reader import ALIGNMENT, MAGIC, VERSIONS
from quire.gguf.tensor_types import TENSOR_TYPES, TensorType

Written: TypeAlias = "bool | int | float | str | bytes | Sequence[str] | NDArray[Any]"
"""A value of the metadata. Integers are written as u32, numbers as float32, lists of numbers as
NumPy's type says. Bytes are a value with its type before it, as `GgufFile.stored_value` has them."""

_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_OF_ARRAYS: Final[Mapping[str, int]] = {"b1": _BOOL, "i4": 5, "u4": _UINT32, "f4": _FLOAT32}
_NUMBERS: Final[Mapping[TensorType, int]] = {kind: number for number, kind in TENSOR_TYPES.items()}


@dataclass(frozen=True, slots=True)
class NewTensor:
    """A tensor that a file is to have. The last dimension of the shape lies together in memory."""

    name: str
    type: TensorType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """In bytes."""
        return math.prod(self.shape) // self.type.weights * self.type.bytes


class GgufWriter:
    """Writes one file. `close` gives it its name; without that `remove` leaves nothing behind."""

    def __init__(
        self, path: Path, metadata: Mapping[str, Written], tensors: Iterable[NewTensor]
    ) -> None:
        """Write the header of a file, whose tensors `write` fills in their order.

        Raises:
            OSError: the file cannot be written.
        """
        self.path, self.partial = path, path.with_name(f".{path.name}.{os.getpid()}.part")
        self._tensors = tuple(tensors)
        header = header_bytes(metadata, self._tensors)
        self._file: BinaryIO = self.partial.open("xb")
        self._file.write(header)
        self._begin = -(-len(header) // ALIGNMENT) * ALIGNMENT
        self._file.truncate(self._begin + _padded_total(self._tensors))
        self._offsets = dict(
            zip((one.name for one in self._tensors), _offsets(self._tensors), strict=True)
        )

    def write(self, name: str, pieces: Iterable[NDArray[np.uint8]]) -> None:
        """Fill one tensor with the bytes of its rows."""
        tensor = next(one for one in self._tensors if one.name == name)
        self._file.seek(self._begin + self._offsets[name])
        written = sum(self._file.write(np.ascontiguousarray(piece).data) for piece in pieces)
        assert written == tensor.size, f"{name} has {tensor.size} bytes, {written} were given"

    def flush(self) -> None:
        """Make what was written visible to who opens `partial`."""
        self._file.flush()

    def close(self) -> None:
        """Give the file its name: it is whole. Whatever had that name is replaced."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self.partial, self.path)

    def remove(self) -> None:
        """Give up: remove what was written."""
        self._file.close()
        self.partial.unlink(missing_ok=True)


def file_size(metadata: Mapping[str, Written], tensors: Sequence[NewTensor]) -> int:
    """How large the file will be."""
    return len(header_bytes(metadata, tensors)) + ALIGNMENT + _padded_total(tensors)


def header_bytes(metadata: Mapping[str, Written], tensors: Sequence[NewTensor]) -> bytes:
    """Magic, version, counts, metadata, and where the tensors are."""
    parts = [MAGIC, struct.pack("<IQQ", VERSIONS[-1], len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += (_text(key), _value(value))
    for tensor, offset in zip(tensors, _offsets(tensors), strict=True):
        sizes = tuple(reversed(tensor.shape))
        form = f"<I{len(sizes)}QIQ"
        parts += (
            _text(tensor.name),
            struct.pack(form, len(sizes), *sizes, _NUMBERS[tensor.type], offset),
        )
    return b"".join(parts)


def _offsets(tensors: Sequence[NewTensor]) -> list[int]:
    """Where each tensor begins, from the beginning of the data."""
    offsets, at = [], 0
    for tensor in tensors:
        offsets.append(at)
        at += _padded(tensor.size)
    return offsets


def _padded_total(tensors: Sequence[NewTensor]) -> int:
    return sum(_padded(tensor.size) for tensor in tensors)


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _text(text: str) -> bytes:
    content = text.encode()
    return struct.pack("<Q", len(content)) + content


def _value(value: Written) -> bytes:
    """A value with its type before it."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):  # which is an int, too
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        kind = _OF_ARRAYS[value.dtype.str[1:]]
        return (
            struct.pack("<IIQ", _ARRAY, kind, len(value))
            + value.astype(value.dtype.newbyteorder("<")).tobytes()
        )
    return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
