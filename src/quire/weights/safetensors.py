"""Safetensors: the tensors of a file or a folder, mapped into memory or read from their headers.

A file is 8 bytes of header length, a JSON header and the data. There are two ways to read it:

- `SafetensorsFile` maps it, for the engine's own compiled code, which is handed addresses. It checks
  every number that it uses against the file.
- `read_header` and `read_bits` read and do not map, for files that somebody may replace meanwhile,
  such as adapters: a mapped file that is cut short ends the process by a signal, a read gives an
  error. The `safetensors` package checks the whole header first (no gap, nothing after the end).

NumPy has no bfloat16. Such a tensor is uint16, the upper halves of float32: see `widen`.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from quire.errors import ModelNotFoundError, WeightsError
from quire.machine.content import foreign_content
from quire.weights.mistaken import no_weights

_HEADER_LIMIT = 100_000_000  # the format's own bound
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
class StoredTensor:
    """A tensor as it is stored in a mapped file; `values` of a BF16 tensor are uint16."""

    name: str
    path: Path
    dtype: str
    values: NDArray[Any]


class SafetensorsFile:
    """One mapped file. Raises WeightsError for whatever does not fit the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path} cannot be mapped: {error}") from error
        self._data, self._entries = self._read_header()

    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._entries)

    def _read_header(self) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        if len(self._bytes) < 8:
            raise WeightsError(f"{self.path} is truncated: {len(self._bytes)} bytes")
        (length,) = struct.unpack("<Q", self._bytes[:8].tobytes())
        if length > min(_HEADER_LIMIT, len(self._bytes) - 8):
            text = foreign_content(self.path) or (
                f"truncated, or no safetensors file: its header would be {length} bytes of "
                f"{len(self._bytes)}"
            )
            raise WeightsError(f"{self.path}: {text}")
        try:
            header = json.loads(self._bytes[8 : 8 + length].tobytes())
        except ValueError as error:
            raise WeightsError(f"{self.path}: the header is no JSON: {error}") from error
        if not isinstance(header, dict):
            raise WeightsError(f"{self.path}: the header is no JSON object")
        header.pop("__metadata__", None)
        return self._bytes[8 + length :], header

    def tensor(self, name: str) -> StoredTensor:
        """The tensor `name`, mapped."""
        entry = self._entries.get(name)
        if not isinstance(entry, Mapping):
            raise WeightsError(f"{self.path} has no tensor {name}")
        try:
            dtype, shape = str(entry["dtype"]), entry["shape"]
            start, end = entry["data_offsets"]
            if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            message = f"{self.path}: the header's entry of {name} is malformed"
            raise WeightsError(message) from None
        kind = _TYPES.get(dtype)
        if kind is None:
            raise WeightsError(f"{self.path}: {name} has the unknown type {dtype!r}")
        return StoredTensor(name, self.path, dtype, self._view(name, kind, shape, start, end))

    def _view(self, name: str, kind: Any, shape: Any, start: int, end: int) -> NDArray[Any]:
        needed = math.prod(shape) * np.dtype(kind).itemsize
        if end - start != needed:
            raise WeightsError(
                f"{self.path}: {name} of shape {tuple(shape)} needs {needed} bytes, "
                f"the header gives {end - start}"
            )
        if end > len(self._data):
            raise WeightsError(
                f"{self.path} is truncated: {name} ends at byte {end} of the data, "
                f"which has {len(self._data)}"
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
    """The tensors of a model's folder, in one file or in the many that an index names.

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
            self._file_of = dict.fromkeys(self._file(single).names(), single)
        elif (self.folder / _INDEX).is_file():
            self._file_of = self._read_index()
        else:
            raise no_weights(self.folder)
        self._stored_names = {_known_as(name, prefix_map): name for name in self._file_of}

    def _single(self) -> str | None:
        """The name of the file that holds all tensors; None if there is none."""
        if (self.folder / _SINGLE).is_file():
            return _SINGLE
        old = [] if (self.folder / _INDEX).is_file() else list(self.folder.glob(_OLD_GPTQ))
        return old[0].name if len(old) == 1 else None

    def _read_index(self) -> dict[str, str]:
        path = self.folder / _INDEX
        try:
            file_of = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            are_names = all(isinstance(file, str) for file in file_of.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            text = foreign_content(path) or repr(error)
            raise WeightsError(f"{path} is no index of weights: {text}") from error
        outside = [file for file in file_of.values() if not are_names or Path(file).name != file]
        if outside:
            raise WeightsError(f"{path} names {outside[0]!r}, which is no file of this folder")
        return file_of

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            if not (self.folder / name).is_file():
                raise ModelNotFoundError(f"{self.folder} lacks {name}, which its index names")
            self._files[name] = SafetensorsFile(self.folder / name)
        return self._files[name]

    def __contains__(self, name: str) -> bool:
        return name in self._stored_names

    def stored(self, name: str) -> StoredTensor:
        """The tensor that is known as `name`, whatever its shape and type.

        Raises:
            WeightsError: there is none, or its file is damaged.
        """
        if name not in self._stored_names:
            raise WeightsError(f"{self.folder}: the weights lack {name}")
        stored_name = self._stored_names[name]
        return self._file(self._file_of[stored_name]).tensor(stored_name)

    def fingerprint(self, samples: int, size: int) -> bytes:
        """A hash of the tensors' names, shapes and types, and of `samples` pieces of each.

        Hashing all bytes would read the whole model, which mapping it avoids.
        """
        digest = hashlib.sha256()
        for name in sorted(self._stored_names):
            tensor = self.stored(name)
            digest.update(repr((name, tensor.dtype, tensor.values.shape)).encode())
            flat = tensor.values.reshape(-1).view(np.uint8)
            for start in np.linspace(0, max(0, len(flat) - size), samples, dtype=np.int64):
                digest.update(flat[start : start + size].tobytes())
        return digest.digest()


def _known_as(name: str, prefix_map: tuple[tuple[str, str], ...]) -> str:
    """A stored name with the first prefix of the map that fits replaced."""
    for stored, known_as in prefix_map:
        if name.startswith(stored):
            return known_as + name.removeprefix(stored)
    return name
