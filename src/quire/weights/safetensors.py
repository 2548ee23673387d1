"""Safetensors: the tensors of a file or a folder, mapped into memory or read from their headers.

A file is 8 bytes of header length, a JSON header and the data. There are two ways to read it:

- `SafetensorsFile` maps it, for the engine's own compiled code, which is handed addresses. It checks
  every number that it uses against the file.
- `read_header` and `read_bits` read and do not map, for files that somebody may replace meanwhile,
  such as adapters: a mapped file that is cut short ends the process by a signal, a read gives an
  error. The `safetensors` package checks the whole header first (no gap, nothing after the end).

NumPy has no bfloat16. Such a tensor is uint16, the upper halves of float32: see `widen`. Floats of 8 bits
are their bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import mmap
import os
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from quire.errors import ModelNotFoundError, WeightsError
from quire.json_files import MAX_BYTES, parse_json_object, read_json_object
from quire.machine.cache import file_digest, file_state
from quire.machine.content import foreign_content
from quire.weights.hub_config import short
from quire.weights.mistaken import no_weights
from quire.weights.shards import shard_names, shard_set

logger = logging.getLogger("quire")

FETCH_AGAIN = "Copy or download it again"
"""What to do about a file that is empty, cut short or damaged, for the end of an error's text."""

_TYPES: dict[str, Any] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": np.uint16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "F8_E4M3": np.uint8,
    "F8_E8M0": np.uint8,
    "BOOL": np.bool_,
}


def widen(halves: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Bfloat16, as uint16, to float32: exact."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Float32 to bfloat16, as uint16: to nearest, ties to even. NaN stays NaN."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


# ---- headers and bits, read and not mapped


@dataclass(frozen=True, slots=True)
class FloatBits:
    """How the bits of a floating type are read."""

    word: np.dtype[Any]
    """The unsigned integer of the same width."""
    exponent: int
    """The mask of the exponent; all ones there mean infinity or NaN."""

    @property
    def magnitude(self) -> int:
        """The mask of everything but the sign."""
        return (1 << (8 * self.word.itemsize - 1)) - 1


FLOATS = {
    "F64": FloatBits(np.dtype("<u8"), 0x7FF0_0000_0000_0000),
    "F32": FloatBits(np.dtype("<u4"), 0x7F80_0000),
    "F16": FloatBits(np.dtype("<u2"), 0x7C00),
    "BF16": FloatBits(np.dtype("<u2"), 0x7F80),
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its type by safetensors' name, its shape, the offset of its bytes."""

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of the file at `path`, by name.

    Raises:
        ValueError: the file is truncated, is not in this format, or cannot be read. The text does
            not name the file.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
        # The package checks the offsets but does not give them away, so the JSON is read again.
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {
            name: TensorEntry(
                entry["dtype"], tuple(entry["shape"]), 8 + length + entry["data_offsets"][0]
            )
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except SafetensorError as error:
        text = foreign_content(path) or f"truncated, or no safetensors file ({error})"
        raise ValueError(text) from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"a header that cannot be read ({type(error).__name__})") from None


def read_bits(path: Path, entry: TensorEntry) -> NDArray[Any]:
    """The bits of a tensor of a type in `FLOATS`, as unsigned integers in one dimension.

    Raises:
        ValueError: the file ends before the tensor does, or cannot be read.
    """
    word = FLOATS[entry.dtype].word
    count = math.prod(entry.shape)
    try:
        bits = np.fromfile(path, dtype=word, count=count, offset=entry.start)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None
    if bits.size != count:
        raise ValueError("truncated")
    return bits


# ---- mapped files


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A mapped file as it was when it was mapped. Who writes into it changes what was read of it.

    One that is replaced by another file, deleted or moved is still mapped as it was.
    """

    path: Path
    inode: tuple[int, int]
    """Its number and its device's."""
    state: tuple[int, int]
    """When it was last written, in nanoseconds, and its size."""

    @classmethod
    def of(cls, path: Path) -> MappedFile:
        """The file as it is now; raises OSError if there is none."""
        found = path.stat()
        return cls(path, (found.st_ino, found.st_dev), (found.st_mtime_ns, found.st_size))

    def is_overwritten(self) -> bool:
        """Whether the file was written into since. It takes about a microsecond."""
        try:
            now = os.stat(self.path)
        except OSError:
            return False
        return (now.st_mtime_ns, now.st_size) != self.state and (
            (now.st_ino, now.st_dev) == self.inode
        )


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as it is stored in a mapped file; `values` of a BF16 tensor are uint16."""

    name: str
    path: Path
    dtype: str
    values: NDArray[Any]


class _Entry(NamedTuple):
    """What a header says about one tensor, beside its type."""

    shape: tuple[int, ...]
    offsets: tuple[int, int]


def _read_entry(value: Any) -> _Entry | None:
    """An entry of a header; None if it is malformed."""
    try:
        shape = tuple(value["shape"])
        start, end = value["data_offsets"]
    except (KeyError, TypeError, ValueError):
        return None
    numbers = (*shape, start, end)
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    # NumPy 1 has no more dimensions.
    return _Entry(shape, (start, end)) if start <= end and len(shape) <= 32 else None


class SafetensorsFile:
    """One mapped file. Raises WeightsError for whatever does not fit the file.

    `content` is a file that is mapped already.
    """

    def __init__(self, path: Path, content: memoryview | None = None) -> None:
        self.path = path
        self._bytes: NDArray[np.uint8]
        if content is None and path.is_file() and not path.stat().st_size:
            raise WeightsError(f"{path} is empty. {FETCH_AGAIN}")
        try:
            self._mapped = None if content is not None else MappedFile.of(path)
            if content is None:
                self._bytes = np.memmap(path, np.uint8, mode="r")
            else:
                self._bytes = np.frombuffer(content, np.uint8)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be mapped: {error}") from error
        self._data, self._entries = self._read_header()

    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._entries)

    def mapped_for(self, arrays: Collection[NDArray[Any]]) -> MappedFile | None:
        """The file, if any of the arrays lies in its mapping and is no copy."""
        lies_here = any(np.may_share_memory(self._bytes, array) for array in arrays)
        return self._mapped if lies_here else None

    def drop_pages(self) -> None:
        """Let go of the pages that were read; they stay in the system's cache of files."""
        mapping = self._bytes.base
        if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            mapping.madvise(mmap.MADV_DONTNEED)

    def _read_header(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        if len(self._bytes) < 8:
            raise WeightsError(
                f"{self.path} is truncated: it has {len(self._bytes)} bytes. {FETCH_AGAIN}"
            )
        (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        if length > min(MAX_BYTES, len(self._bytes) - 8):
            text = foreign_content(self.path) or (
                f"truncated, or no safetensors file: its header would be {length} bytes of "
                f"{len(self._bytes)}. {FETCH_AGAIN}"
            )
            raise WeightsError(f"{self.path}: {text}")
        try:
            header = parse_json_object(self._bytes[8 : 8 + length].tobytes())
        except ValueError as error:
            raise WeightsError(
                f"{self.path}: the header is no JSON that can be read: {error}"
            ) from error
        header.pop("__metadata__", None)
        self._check_overlaps(header)
        return self._bytes[8 + length :], header

    def _check_overlaps(self, header: dict[str, Any]) -> None:
        """Refuse a file in which two tensors share bytes, as the format does."""
        spans = sorted(
            (*entry.offsets, name)
            for name, value in header.items()
            if (entry := _read_entry(value)) is not None and entry.offsets[0] < entry.offsets[1]
        )
        for (_, end, name), (start, _, other) in itertools.pairwise(spans):
            if start < end:
                raise WeightsError(f"{self.path}: the bytes of {name} and {other} overlap")

    def tensor(self, name: str) -> StoredTensor:
        """The tensor `name`, mapped."""
        value = self._entries.get(name)
        if not isinstance(value, Mapping):
            raise WeightsError(f"{self.path} has no tensor {name}")
        entry = _read_entry(value)
        if entry is None:
            raise WeightsError(f"{self.path}: the header's entry of {name} is malformed")
        dtype = str(value.get("dtype"))
        kind = _TYPES.get(dtype)
        if kind is None:
            raise WeightsError(f"{self.path}: {name} has the unknown type {dtype[:100]!r}")
        return StoredTensor(name, self.path, dtype, self._view(name, kind, entry))

    def _view(self, name: str, kind: Any, entry: _Entry) -> NDArray[Any]:
        shape, (start, end) = entry.shape, entry.offsets
        needed = math.prod(shape) * np.dtype(kind).itemsize
        if end - start != needed:
            raise WeightsError(
                f"{self.path}: {name} of shape {shape} needs {needed} bytes, "
                f"the header gives {end - start}"
            )
        if end > len(self._data):
            raise WeightsError(
                f"{self.path} is truncated: {name} ends at byte {end} of the data, "
                f"which has {len(self._data)}. {FETCH_AGAIN}"
            )
        raw = self._data[start:end]
        if raw.ctypes.data % np.dtype(kind).itemsize:
            raw = raw.copy()  # the format allows unaligned tensors, NumPy's views do not
        return raw.view(kind).reshape(shape)


# ---- folders

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OLD_GPTQ = "gptq_model*.safetensors"  # the name that AutoGPTQ gave its one file


class WeightsFolder:
    """The tensors of a model's folder: in one file, in those that an index names, or in all shards.

    `prefix_map` has pairs of prefixes, (stored, known as): tensors are known by the second.

    Raises:
        ModelNotFoundError: the folder or one of its files is missing.
        WeightsError: the weights are in another format, or damaged.
    """

    def __init__(self, folder: Path | str, prefix_map: tuple[tuple[str, str], ...] = ()) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ModelNotFoundError(f"{self.folder} is not a folder")
        self._files: dict[str, SafetensorsFile] = {}
        single = self._single()
        if single is not None:
            names = [single]
        elif (self.folder / _INDEX).is_file():
            names = []
        else:
            names = self._shards()
        if names:
            self._file_of = {tensor: name for name in names for tensor in self._file(name).names()}
        else:
            self._file_of = self._read_index()
        self._stored_names = {known_as(name, prefix_map): name for name in self._file_of}

    def _single(self) -> str | None:
        """The name of the file that holds all tensors; None if there is none."""
        if (self.folder / _SINGLE).is_file():
            return _SINGLE
        old = [] if (self.folder / _INDEX).is_file() else list(self.folder.glob(_OLD_GPTQ))
        return old[0].name if len(old) == 1 else None

    def _shards(self) -> list[str]:
        """The names of the shards of a folder that lost its index.

        Raises:
            ModelNotFoundError: there are none, or one of them is missing.
            WeightsError: the weights are in another format, or there are two sets of shards.
        """
        there = {path.name for path in self.folder.iterdir()}
        sets = sorted({found for name in there if (found := shard_set(name)) is not None})
        if not sets:
            raise no_weights(self.folder)
        if len(sets) > 1:
            raise WeightsError(
                f"{self.folder} has no {_INDEX}, and shards of several models: {sets[0][0]} and "
                f"{sets[1][0]}. Leave those of one model there"
            )
        names = shard_names(*sets[0])
        missing = next((name for name in names if name not in there), None)
        if missing is not None:
            raise ModelNotFoundError(
                f"{self.folder} lacks {missing}. Copy the model's folder again"
            )
        return names

    def _read_index(self) -> dict[str, str]:
        path = self.folder / _INDEX
        try:
            file_of = read_json_object(path)["weight_map"]
            are_names = all(isinstance(file, str) for file in file_of.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = error if isinstance(error, ValueError) else short(error)
            raise WeightsError(f"{path} is no index of weights: {text}") from error
        outside = [file for file in file_of.values() if not are_names or Path(file).name != file]
        if outside:
            raise WeightsError(f"{path} names {short(outside[0])}, which is no file of this folder")
        return file_of

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            if not (self.folder / name).is_file():
                raise ModelNotFoundError(f"{self.folder} lacks {name}, which its index names")
            self._files[name] = SafetensorsFile(self.folder / name)
        return self._files[name]

    def __contains__(self, name: str) -> bool:
        return name in self._stored_names

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if there is none of the name."""
        return self.stored(name).values.shape if name in self._stored_names else None

    def mapped_files(self, arrays: Collection[NDArray[Any]]) -> tuple[MappedFile, ...]:
        """The files in whose mappings any of the arrays lies; the others are copies."""
        found = [file.mapped_for(arrays) for file in self._files.values()]
        return tuple(file for file in found if file is not None)

    def drop_pages(self) -> None:
        """Let go of the files' pages in this process; whatever is read again comes back."""
        for file in self._files.values():
            file.drop_pages()

    def names(self) -> list[str]:
        """The names by which the tensors are known."""
        return list(self._stored_names)

    def stored(self, name: str) -> StoredTensor:
        """The tensor that is known as `name`, whatever its shape and type.

        Raises:
            WeightsError: there is none, or its file is damaged.
        """
        if name not in self._stored_names:
            raise WeightsError(f"{self.folder}: the weights lack {name}")
        stored_name = self._stored_names[name]
        return self._file(self._file_of[stored_name]).tensor(stored_name)

    def are_untied(self, embeddings: str, head: str) -> bool:
        """Whether both matrices are stored, and hold different numbers.

        Two that a config calls tied are then used both, as in transformers. Whoever trained them apart
        may have forgotten to say so, and the weights cannot be wrong about it.
        """
        if (
            embeddings not in self
            or head not in self
            or _equal(self.stored(embeddings), self.stored(head))
        ):
            return False
        logger.warning(
            "%s: config.json says tie_word_embeddings, but %s and %s differ. Both are used; set "
            "tie_word_embeddings to false.", self.folder, embeddings, head,
        )  # fmt: skip
        return True

    def alias(self, name: str, stored: str) -> None:
        """Know the tensor that is known as `stored` as `name`, too."""
        self._stored_names[name] = self._stored_names[stored]

    def fingerprint(self, threads: int = 1) -> bytes:
        """A hash of all bytes of all files, and of which tensor is read from which of them.

        Raises:
            WeightsError: a file cannot be read.
        """
        facts = [repr(sorted(self._stored_names.items())), repr(sorted(self._file_of.items()))]
        digest = hashlib.sha256("\n".join(facts).encode("utf-8", "backslashreplace"))
        for path in self.files():
            try:
                digest.update(path.name.encode() + file_digest(path, threads=threads))
            except OSError as error:
                raise WeightsError(f"{path} cannot be read: {error.strerror or error}") from None
        return digest.digest()

    def file_states(self) -> list[tuple[int, ...]]:
        """What changes when one of the files does."""
        return [file_state(path.stat()) for path in self.files()]

    def files(self) -> list[Path]:
        """The files in order, without those that the folder lacks."""
        absent = self.absent_files()
        return [path for path in self._named_files() if path not in absent]

    def absent_files(self) -> list[Path]:
        """The files that an index names and the folder lacks: nothing may need them."""
        return [path for path in self._named_files() if not path.is_file()]

    def _named_files(self) -> list[Path]:
        return [self.folder / name for name in sorted(set(self._file_of.values()))]


def _equal(one: StoredTensor, other: StoredTensor) -> bool:
    """Whether two matrices hold the same numbers. Two that differ mostly differ at the beginning."""
    if one.dtype != other.dtype or one.values.shape != other.values.shape:
        return False
    rows = range(0, len(one.values), 1024)
    return all(
        np.array_equal(one.values[row : row + 1024], other.values[row : row + 1024]) for row in rows
    )


def known_as(name: str, prefix_map: tuple[tuple[str, str], ...]) -> str:
    """A stored name with the first prefix of the map, of pairs (stored, known as), that fits replaced."""
    for stored, known_as in prefix_map:
        if name.startswith(stored):
            return known_as + name.removeprefix(stored)
    return name
