"""One safetensors file, mapped into memory.

It is 8 bytes of header length, a JSON header and the data. Every number of the header is checked
against the file, because the mapped addresses are then handed to compiled code. NumPy has no
bfloat16: such a tensor is a view of uint16, its upper halves of float32.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.errors import WeightsError

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


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor where it lies in a mapped file; `values` of a BF16 tensor is uint16."""

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
            raise WeightsError(
                f"{self.path} is truncated or no safetensors file: its header would be "
                f"{length} bytes of {len(self._bytes)}"
            )
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
        wanted = math.prod(shape) * np.dtype(kind).itemsize
        if end - start != wanted:
            raise WeightsError(
                f"{self.path}: {name} of shape {tuple(shape)} needs {wanted} bytes, "
                f"the header gives {end - start}"
            )
        if end > len(self._data):
            raise WeightsError(
                f"{self.path} is truncated: {name} ends at byte {end} of the data, "
                f"which has {len(self._data)}"
            )
        raw = self._data[start:end]
        if raw.ctypes.data % np.dtype(kind).itemsize:  # the format allows it, NumPy's views do not
            raw = raw.copy()
        return raw.view(kind).reshape(shape)
