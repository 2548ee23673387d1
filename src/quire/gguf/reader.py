"""One GGUF file: its metadata and where its tensors are, with every number checked before it is used.

A file is a header and the tensors' data. The header has magic and version, the number of tensors and of
metadata entries; then the entries (a key, the type of the value, the value); then for each tensor its
name, dimensions, type and offset. The data begins at the next multiple of `general.alignment`. Numbers
are little-endian, strings have their length before them.

The file is mapped. Lists of strings (a vocabulary) are walked over and read only when somebody asks.
Whoever cuts the file shorter while it is mapped ends this process by a signal, SIGBUS, at the next read
behind the new end, and nothing here can prevent it. A new version of a model belongs in a file of its
own that is then renamed, as hubs do: the old one stays whole for whoever has it open.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.errors import ModelNotFoundError, UnsupportedModelError, WeightsError
from quire.gguf.tensor_types import REFUSED_TYPES, TENSOR_TYPES, TensorType
from quire.machine.content import foreign_content
from quire.weights.safetensors import FETCH_AGAIN, MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Where `general.alignment` is absent."""

_LEAST_ALIGNMENT, _MOST_ALIGNMENT = 8, 1 << 20
_MOST_NAME = 63  # bytes of a tensor's name
_MOST_KEY = 65_535
_MOST_TEXT = 1 << 26  # bytes of any other text
_MOST_COUNT = 1 << 24  # of what there is a list of: a large vocabulary has half a million merges
_MOST_DIMENSIONS = 4
_MOST_BYTES = 1 << 63
_LEAST_KEY, _LEAST_TENSOR, _LEAST_STRING = 13, 24, 8  # bytes that one of them takes

_UINT32, _UINT64 = struct.Struct("<I"), struct.Struct("<Q")
_SCALARS: dict[int, tuple[struct.Struct, Any]] = {
    0: (struct.Struct("<B"), np.uint8),
    1: (struct.Struct("<b"), np.int8),
    2: (struct.Struct("<H"), np.uint16),
    3: (struct.Struct("<h"), np.int16),
    4: (struct.Struct("<I"), np.uint32),
    5: (struct.Struct("<i"), np.int32),
    6: (struct.Struct("<f"), np.float32),
    7: (struct.Struct("<?"), np.bool_),
    10: (struct.Struct("<Q"), np.uint64),
    11: (struct.Struct("<q"), np.int64),
    12: (struct.Struct("<d"), np.float64),
}
_BOOL, _STRING, _ARRAY = 7, 8, 9


class StringList:
    """A list of strings in the file, as bytes: some vocabularies have tokens that are no UTF-8."""

    def __init__(self, content: memoryview, count: int) -> None:
        """Take a list that was walked over: `content` is all of it, without its length."""
        self._content, self._count = content, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        # A slice of bytes is made in half the time of one of a view.
        content, at, length_at = bytes(self._content), 0, _UINT64.unpack_from
        for _ in range(self._count):
            begin = at + 8
            at = begin + length_at(content, at)[0]
            yield content[begin:at]


Value: TypeAlias = "int | float | bool | str | NDArray[Any] | StringList"
"""A value of the metadata. Lists of numbers are arrays, lists of strings are `StringList`."""


@dataclass(frozen=True, slots=True)
class GgufEntry:
    """Where a tensor is, and what it is."""

    name: str
    type: TensorType
    shape: tuple[int, ...]
    """As NumPy has it: the last dimension is the one that lies together in memory, and has the blocks."""
    start: int
    """The first byte, from the beginning of the file."""
    size: int
    """In bytes."""


class GgufFile:
    """One mapped file.

    Raises:
        ModelNotFoundError: there is no such file.
        UnsupportedModelError: it is of another version or byte order, or has tensors of types that no
            file should have.
        WeightsError: it is no GGUF file, is cut short, or contradicts itself.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.mapped = MappedFile.of(path)
            size = self.mapped.state[1]
            if not size:  # a pipe too, for whose other end opening would wait
                raise WeightsError(f"{path} is empty. {FETCH_AGAIN}")
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
                self._content = memoryview(self._map)
        except FileNotFoundError:
            raise ModelNotFoundError(f"There is no file {path}") from None
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be mapped: {error}") from error
        self._bytes = np.frombuffer(self._content, np.uint8)
        cursor = _Cursor(path, self._content)
        tensors, keys = _read_counts(cursor)
        self.metadata: Mapping[str, Value]
        self.metadata, self._places = _read_metadata(cursor, keys)
        self.tensors: Mapping[str, GgufEntry] = self._read_tensors(cursor, tensors)
        self.header_size = cursor.at

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._content)

    def is_current(self) -> bool:
        """Whether what its path names is still this file, as it was when it was opened."""
        try:
            return MappedFile.of(self.path) == self.mapped
        except OSError:
            return False

    def holds(self, arrays: Collection[NDArray[Any]]) -> bool:
        """Whether any of the arrays lies in this mapping and is no copy."""
        return any(np.may_share_memory(self._bytes, array) for array in arrays)

    def drop_pages(self) -> None:
        """Let go of the pages that were read; they stay in the system's cache of files."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def header(self) -> memoryview:
        """The bytes before the data: everything but weights follows from them."""
        return self._content[: self.header_size]

    def stored_value(self, key: str) -> bytes:
        """The bytes of a value of the metadata, with its type before it."""
        return bytes(self._content[self._places[key]])

    def data(self, entry: GgufEntry) -> NDArray[np.uint8]:
        """The bytes of a tensor, mapped."""
        return self._bytes[entry.start : entry.start + entry.size]

    def _read_tensors(self, cursor: _Cursor, count: int) -> dict[str, GgufEntry]:
        alignment = _alignment(self.metadata, cursor)
        found: dict[str, tuple[TensorType, tuple[int, ...], int]] = {}
        for _ in range(count):
            name = cursor.text("the name of a tensor", _MOST_NAME)
            if name in found:
                raise cursor.wrong(f"two tensors are named {name}")
            shape, number = _read_shape(cursor, name), 0
            number = cursor.unpack(_UINT32, f"the type of {name}")
            found[name] = (
                _type_of(cursor, name, number),
                shape,
                cursor.unpack(_UINT64, f"the offset of {name}"),
            )
        begin = -(-cursor.at // alignment) * alignment
        entries: dict[str, GgufEntry] = {}
        for name, (kind, shape, offset) in found.items():
            entries[name] = self._entry(cursor, name, kind, shape, offset, begin, alignment)
        _check_overlaps(cursor, entries)
        return entries

    def _entry(
        self, cursor: _Cursor, name: str, kind: TensorType, shape: tuple[int, ...], offset: int,
        begin: int, alignment: int,
    ) -> GgufEntry:  # fmt: skip
        if shape[-1] % kind.weights:
            raise cursor.wrong(
                f"{name} has rows of {shape[-1]} weights, which are no whole blocks of {kind.name} "
                f"({kind.weights})"
            )
        size = math.prod(shape) // kind.weights * kind.bytes
        if size >= _MOST_BYTES:
            raise cursor.wrong(f"{name} of shape {shape} is too large")
        if offset % alignment:
            raise cursor.wrong(f"{name} begins at {offset}, which is no multiple of {alignment}")
        if begin + offset + size > self.size:
            raise cursor.wrong(
                f"it is cut short: {name} ends at byte {begin + offset + size}, and the file has "
                f"{self.size}. {FETCH_AGAIN}"
            )
        return GgufEntry(name, kind, shape, begin + offset, size)


class _Cursor:
    """Reads one thing of the header after the other."""

    def __init__(self, path: Path, content: memoryview) -> None:
        self.path, self.content, self.at = path, content, 0

    def wrong(self, problem: str) -> WeightsError:
        return WeightsError(f"{self.path}: {problem}")

    def cut_short(self, problem: str) -> WeightsError:
        return self.wrong(f"it is cut short, or damaged: {problem}. {FETCH_AGAIN}")

    def unsupported(self, problem: str) -> UnsupportedModelError:
        return UnsupportedModelError(f"{self.path}: {problem}")

    @property
    def left(self) -> int:
        return len(self.content) - self.at

    def take(self, size: int, what: str) -> memoryview:
        if size > self.left:
            raise self.cut_short(f"{what} would have {size} bytes, and {self.left} are left")
        begin = self.at
        self.at += size
        return self.content[begin : self.at]

    def unpack(self, form: struct.Struct, what: str) -> Any:
        return form.unpack(self.take(form.size, what))[0]

    def count(self, what: str, least: int) -> int:
        """A number of things of at least so many bytes each."""
        count = self.unpack(_UINT64, what)
        if count > self.left // least:
            raise self.cut_short(f"{what} is {count}, and {self.left} bytes are left")
        if count > _MOST_COUNT:
            raise self.wrong(f"{what} is {count}; at most {_MOST_COUNT} are read")
        return count

    def text(self, what: str, most: int | None = None) -> str:
        size = self.unpack(_UINT64, f"the length of {what}")
        if most is not None and not 0 < size <= most:
            raise self.wrong(f"{what} has {size} bytes; it must have 1 to {most}")
        if _MOST_TEXT < size <= self.left:
            raise self.wrong(f"{what} has {size} bytes; at most {_MOST_TEXT} are read")
        content = bytes(self.take(size, what))
        try:
            return content.decode("utf-8")
        except UnicodeDecodeError:
            if most is None:  # a description may be broken, a name may not
                return content.decode("utf-8", "replace")
            raise self.wrong(f"{what} is no UTF-8: {content[:60]!r}") from None


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of metadata entries."""
    magic = bytes(cursor.take(min(4, cursor.left), "the magic"))
    if magic == MAGIC[::-1]:
        raise cursor.unsupported(
            "it is a big-endian GGUF file; those of this machine are little-endian"
        )
    if magic != MAGIC:
        text = foreign_content(cursor.path) or f"no GGUF file: it begins with {magic!r}"
        raise cursor.wrong(text)
    version = cursor.unpack(_UINT32, "the version")
    if version and not version & 0xFFFF:
        raise cursor.unsupported(
            "its numbers are big-endian, and this machine's are little-endian: take the usual file"
        )
    if version == 1:
        raise cursor.unsupported(
            "it is GGUF of version 1, of August 2023, which llama.cpp does not read any more either"
        )
    if version not in VERSIONS:
        raise cursor.unsupported(
            f"it is GGUF of version {version}, and quire reads {VERSIONS[0]} and {VERSIONS[1]}"
        )
    tensors = cursor.count("the number of tensors", 1)
    keys = cursor.count("the number of metadata keys", _LEAST_KEY)
    if tensors > cursor.left // _LEAST_TENSOR:
        raise cursor.cut_short(f"it would have {tensors} tensors, and {cursor.left} bytes are left")
    return tensors, keys


def _read_metadata(cursor: _Cursor, count: int) -> tuple[dict[str, Value], dict[str, slice]]:
    """The values, and where each is with its type before it."""
    metadata: dict[str, Value] = {}
    places: dict[str, slice] = {}
    for _ in range(count):
        key = cursor.text("a metadata key", _MOST_KEY)
        if key in metadata:
            raise cursor.wrong(f"the metadata key {key} is there twice")
        begin = cursor.at
        metadata[key] = _read_value(cursor, key)
        places[key] = slice(begin, cursor.at)
    return metadata, places


def _read_value(cursor: _Cursor, key: str) -> Value:
    kind = cursor.unpack(_UINT32, f"the type of {key}")
    if kind == _STRING:
        return cursor.text(key)
    if kind == _ARRAY:
        return _read_array(cursor, key)
    if kind not in _SCALARS:
        raise cursor.wrong(f"{key} has the unknown type {kind}")
    if kind == _BOOL:
        return bool(cursor.take(1, key)[0])
    return cursor.unpack(_SCALARS[kind][0], key)


def _read_array(cursor: _Cursor, key: str) -> NDArray[Any] | StringList:
    kind = cursor.unpack(_UINT32, f"the type of {key}'s elements")
    if kind == _STRING:
        return _walk_strings(cursor, key)
    if kind not in _SCALARS:
        problem = "lists of lists" if kind == _ARRAY else f"elements of the unknown type {kind}"
        raise cursor.wrong(f"{key} has {problem}")
    element = np.dtype(_SCALARS[kind][1]).newbyteorder("<")
    count = cursor.count(f"the length of {key}", element.itemsize)
    content = cursor.take(count * element.itemsize, key)
    if kind == _BOOL:
        return np.frombuffer(content, np.uint8) != 0
    return np.frombuffer(content, element)


def _walk_strings(cursor: _Cursor, key: str) -> StringList:
    """Find the end of a list of strings: each has its length before it."""
    count = cursor.count(f"the length of {key}", _LEAST_STRING)
    content, start = cursor.content, cursor.at
    length_at, at, size = _UINT64.unpack_from, start, len(content)
    try:
        for _ in range(count):
            at += 8 + length_at(content, at)[0]
    except (struct.error, OverflowError):  # a place that no buffer has, or no integer of C's
        at = size + 1
    if at > size:
        raise cursor.cut_short(f"{key} ends after the end of the file")
    cursor.at = at
    return StringList(content[start:at], count)


def _alignment(metadata: Mapping[str, Value], cursor: _Cursor) -> int:
    value = metadata.get("general.alignment", ALIGNMENT)
    is_power = isinstance(value, int) and value > 0 and not value & (value - 1)
    if isinstance(value, bool) or not is_power or not isinstance(value, int):
        raise cursor.wrong(f"general.alignment is {value!r}; it must be a power of two")
    if not _LEAST_ALIGNMENT <= value <= _MOST_ALIGNMENT:
        raise cursor.wrong(
            f"general.alignment is {value}; it must be {_LEAST_ALIGNMENT} to {_MOST_ALIGNMENT}"
        )
    return value


def _read_shape(cursor: _Cursor, name: str) -> tuple[int, ...]:
    count = cursor.unpack(_UINT32, f"the number of dimensions of {name}")
    if not 1 <= count <= _MOST_DIMENSIONS:
        raise cursor.wrong(f"{name} has {count} dimensions; 1 to {_MOST_DIMENSIONS} are possible")
    sizes = [cursor.unpack(_UINT64, f"a dimension of {name}") for _ in range(count)]
    if 0 in sizes or math.prod(sizes) >= _MOST_BYTES:
        raise cursor.wrong(f"{name} has the impossible dimensions {sizes}")
    return tuple(reversed(sizes))


def _type_of(cursor: _Cursor, name: str, number: int) -> TensorType:
    if number in TENSOR_TYPES:
        return TENSOR_TYPES[number]
    if number in REFUSED_TYPES:
        kind, what = REFUSED_TYPES[number]
        raise cursor.unsupported(f"{name} is {kind}, {what}")
    raise cursor.unsupported(
        f"{name} has the type {number}, which llama.cpp has not: the file is a fork's (such as "
        "ik_llama.cpp's). Take one of llama.cpp's own types, such as Q4_K_M or Q8_0"
    )


def _check_overlaps(cursor: _Cursor, entries: Mapping[str, GgufEntry]) -> None:
    end, before = 0, ""
    for entry in sorted(entries.values(), key=lambda one: one.start):
        if entry.start < end:
            raise cursor.wrong(f"the bytes of {before} and {entry.name} overlap")
        end, before = entry.start + entry.size, entry.name
