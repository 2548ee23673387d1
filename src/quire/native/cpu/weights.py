"""Weights from a Hugging Face folder: safetensors, mapped into memory and not copied.

A safetensors file is 8 bytes of header length, a JSON header and the data. The header is read here
and every number of it is checked against the file, because the mapped addresses are then handed to
compiled code. NumPy has no bfloat16: such a tensor is a view of uint16, its upper halves of float32.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.errors import ModelNotFoundError, WeightsError
from quire.native.cpu.bfloat16 import round_to_bfloat16, widen
from quire.native.models.spec import DecoderSpec, TensorSpec
from quire.native.quantization.quantized import QuantizedMatrix
from quire.native.quantization.reading import read_quantized

WeightsDtype = Literal["auto", "float32", "bfloat16", "float16"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_OLD_GPTQ = "gptq_model*.safetensors"  # as AutoGPTQ named its one file
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
_CONVERT = (
    'python -c "import sys; from transformers import AutoModelForCausalLM as M; '
    "M.from_pretrained(sys.argv[1], weights_only=True, dtype='auto')"
    '.save_pretrained(sys.argv[1])" {folder}'
)


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

    def floats(self, name: str) -> StoredTensor:
        """The tensor `name`, which must be stored as floats."""
        return _checked_floats(self.tensor(name))

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


def _checked_floats(found: StoredTensor) -> StoredTensor:
    if found.dtype not in ("F32", "F16", "BF16", "F64"):
        raise WeightsError(f"{found.path}: {found.name} is stored as {found.dtype}, no float")
    return found


class WeightsFolder:
    """The tensors of one folder, in one file or in the many that an index names.

    Raises ModelNotFoundError where the folder or a file of it is missing, WeightsError where the
    weights are in another format or damaged.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ModelNotFoundError(f"{self.folder} is not a folder")
        self._files: dict[str, SafetensorsFile] = {}
        single = self._single()
        if single is not None:
            self._where = dict.fromkeys(self._file(single).names(), single)
        elif (self.folder / _INDEX).is_file():
            self._where = self._read_index()
        else:
            raise self._nothing_to_read()

    def _single(self) -> str | None:
        """The name of the file that holds all tensors; None where there is none."""
        if (self.folder / _SINGLE).is_file():
            return _SINGLE
        old = [] if (self.folder / _INDEX).is_file() else list(self.folder.glob(_OLD_GPTQ))
        return old[0].name if len(old) == 1 else None

    def _nothing_to_read(self) -> ModelNotFoundError | WeightsError:
        pickled = sorted(p.name for s in ("*.bin", "*.pt", "*.pth") for p in self.folder.glob(s))
        if not pickled:
            return ModelNotFoundError(f"{self.folder} has neither {_SINGLE} nor {_INDEX}")
        command = _CONVERT.format(folder=self.folder)
        return WeightsError(
            f"{self.folder} holds {pickled[0]}, a pickle, which can run code when it is read; the "
            f"native engine reads safetensors only. Convert it safely, with torch and "
            f"transformers installed: {command}"
        )

    def _read_index(self) -> dict[str, str]:
        path = self.folder / _INDEX
        try:
            where = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
            sound = all(isinstance(file, str) for file in where.values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise WeightsError(f"{path} is no index of weights: {error!r}") from error
        outside = [file for file in where.values() if not sound or Path(file).name != file]
        if outside:
            raise WeightsError(f"{path} names {outside[0]!r}, which is no file of this folder")
        return where

    def _file(self, name: str) -> SafetensorsFile:
        if name not in self._files:
            if not (self.folder / name).is_file():
                raise ModelNotFoundError(f"{self.folder} lacks {name}, which its index names")
            self._files[name] = SafetensorsFile(self.folder / name)
        return self._files[name]

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def stored(self, name: str) -> StoredTensor:
        """The tensor `name`, whatever its shape and type."""
        if name not in self._where:
            raise WeightsError(f"{self.folder}: the weights lack {name}")
        return self._file(self._where[name]).tensor(name)

    def tensor(self, spec: TensorSpec) -> StoredTensor:
        """The tensor that `spec` names, checked against its shape."""
        if spec.name not in self._where:
            raise WeightsError(f"{self.folder}: the weights lack {spec.name} {spec.shape}")
        found = self.stored(spec.name)
        if found.values.shape != spec.shape:
            raise WeightsError(
                f"{found.path}: {spec.name} has shape {found.values.shape}, "
                f"config.json asks for {spec.shape}"
            )
        return self.floats(spec.name)

    def floats(self, name: str) -> StoredTensor:
        """The tensor `name`, whatever its shape, which must be stored as floats."""
        return _checked_floats(self.stored(name))


@dataclass(frozen=True, slots=True)
class Weights:
    """A decoder's weights by role. Matrices are float32, or bfloat16 as uint16; vectors float32."""

    spec: DecoderSpec
    tensors: dict[str, NDArray[Any]]
    """`embeddings`, `final_norm` and mostly `head`; the same array twice where they are tied."""
    layers: tuple[dict[str, NDArray[Any]], ...]


def load_weights(
    spec: DecoderSpec,
    folder: Path | str,
    dtype: WeightsDtype = "auto",
    *,
    with_head: bool = True,
) -> Weights:
    """Map the weights that `spec` names. Tensors that it does not name are left alone.

    `auto` keeps float32 and bfloat16 as they are stored; float16 becomes float32, because the
    kernels compute in float32 and have no cheap widening of it. The other values convert matrices
    where they differ from it, which copies them. Matrices that the folder holds quantised are
    read as `spec.quantization` says. A folder that holds the decoder alone, as models for
    embeddings do, has names without a prefix, which are found too. `with_head=False` leaves the
    head out, which a model that writes no text may lack. Raises as `WeightsFolder` does.
    """
    source = WeightsFolder(folder)
    if spec.names.embeddings not in source and spec.names.bare().embeddings in source:
        spec = replace(spec, names=spec.names.bare())

    def read(tensor: TensorSpec) -> NDArray[Any]:
        quantized = read_quantized(source, tensor, spec.quantization)
        if quantized is not None:
            return unpack_quantized(quantized, dtype)
        stored = source.tensor(tensor)
        return convert(stored, "float32" if len(tensor.shape) == 1 else dtype)

    tensors = {
        tensor.role: read(tensor)
        for tensor in spec.global_tensors()
        if with_head or tensor.role != "head"
    }
    if with_head:
        tensors.setdefault("head", tensors["embeddings"])
    layers = tuple(
        {tensor.role: read(tensor) for tensor in spec.layer_tensors(layer)}
        for layer in range(spec.num_layers)
    )
    return Weights(spec, tensors, layers)


def unpack_quantized(matrix: QuantizedMatrix, dtype: WeightsDtype) -> NDArray[Any]:
    """The matrix that the kernels read for a quantised one: its numbers multiplied out.

    This is the one place where a quantised checkpoint takes the room of a full one.
    """
    values = matrix.dequantized()
    return round_to_bfloat16(values) if dtype == "bfloat16" else values


def convert(stored: StoredTensor, dtype: WeightsDtype) -> NDArray[Any]:
    """The tensor as float32, or as the upper halves of bfloat16; without a copy where it is so."""
    if stored.dtype == "BF16":
        return stored.values if dtype in ("auto", "bfloat16") else widen(stored.values)
    values = stored.values.astype(np.float32, copy=False)
    return round_to_bfloat16(values) if dtype == "bfloat16" else values
