"""A model's stored tensors by the names of a folder: of safetensors, or of a GGUF file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorPart, TensorSpec
from quire.errors import WeightsError
from quire.gguf.blocks import check_type, dequantize, is_block_type
from quire.gguf.quantize import Floats
from quire.gguf.weights import GgufSource, in_folder_order
from quire.quantization import float8
from quire.quantization.float8 import Float8Matrix
from quire.quantization.formats import read_quantized
from quire.quantization.module_tensors import ModuleTensors
from quire.weights.safetensors import WeightsFolder, widen

Rows: TypeAlias = NDArray[np.intp]
"""Numbers of rows; those of a vector are its elements."""
AT_ONCE = 1 << 22  # weights that are in memory at a time, where a tensor is computed piece by piece
_NUMBERS = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it is stored."""

    name: str
    path: Path
    type: str
    """As safetensors or GGUF calls it."""
    shape: tuple[int, ...]
    values: NDArray[Any]
    """Numbers in this shape, or of a type with blocks the bytes of each row."""
    tiles: tuple[int, int] = (1, 1)
    """How the columns lie: see `GgufTensor.tiles`."""
    expert: str = ""
    """The name of an expert's matrix, or bias, that this is as a part of the stack `name`."""
    float8: Float8Matrix | None = None
    """The codes and their scales, if it is a matrix of 8-bit floats."""

    @property
    def is_in_order(self) -> bool:
        """Whether the columns lie as in a folder."""
        return self.tiles[1] == 1

    def floats(self, rows: Rows | slice) -> Floats:
        """Some rows; of a vector, elements.

        Raises:
            WeightsError: an 8-bit float is NaN.
        """
        if self.float8 is not None:
            return self._multiplied_out(self.float8.take(rows))
        if is_block_type(self.type):
            shape = (-1, *self.shape[1:])
            if len(self.shape) == 1:
                return dequantize(self.type, self.values).reshape(-1)[rows]
            part = np.ascontiguousarray(self.values[rows])
            return in_folder_order(dequantize(self.type, part).reshape(shape), self.tiles)
        part = self.values[rows]
        floats = widen(part) if self.type == "BF16" else part.astype(np.float32)
        return in_folder_order(floats, self.tiles)

    def _multiplied_out(self, part: Float8Matrix) -> Floats:
        if part.has_nan():
            raise WeightsError(
                f"{self.path}: {self.name} holds NaN: every answer would be nonsense. The file is damaged: "
                "download it again"
            )
        return part.dequantized()

    def transpose(self) -> Stored:
        """The matrix the other way round."""
        return dataclasses.replace(self, shape=self.shape[::-1], values=self.values.T)

    def in_shape(self, shape: tuple[int, ...]) -> Stored:
        """The same numbers in another shape."""
        return dataclasses.replace(self, shape=shape, values=self.values.reshape(shape))

    def part(self, part: TensorPart, spec: TensorSpec) -> Stored:
        """A part of a stack of matrices, as one matrix."""
        values = part.take(self.values, spec.shape)
        return dataclasses.replace(self, shape=spec.shape, values=values, expert=spec.name)


class Source(Protocol):
    """What has a model's tensors."""

    weights: WeightsFolder | None
    """The folder of safetensors; None for a GGUF file."""

    def names(self) -> Iterable[str]: ...
    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...
    def __contains__(self, name: str) -> bool: ...
    def find(self, name: str) -> Stored: ...


class FolderSource:
    """The tensors of a folder of safetensors. Those of 8-bit floats have their scales with them."""

    def __init__(self, weights: WeightsFolder, spec: DecoderSpec) -> None:
        self._weights, self._spec = weights, spec
        self.weights: WeightsFolder | None = weights

    def names(self) -> Iterable[str]:
        """Those of float8 modules without scales, which the weight has with it."""
        return [one for one in self._weights.names() if not self._is_scale(one)]

    def _is_scale(self, name: str) -> bool:
        module, _, part = name.rpartition(".")
        tensors = ModuleTensors(self._weights, module)
        return part not in ("weight", "bias") and float8.is_stored(tensors)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {one.name: one.shape for one in map(self.find, self.names())}

    def __contains__(self, name: str) -> bool:
        return name in self._weights

    def find(self, name: str) -> Stored:
        one = self._weights.stored(name)
        stored = Stored(one.name, one.path, one.dtype, one.values.shape, one.values)
        if one.dtype != float8.STORED_TYPE:
            return stored
        kind = "Embedding" if name == self._spec.names.embeddings else "Linear"
        matrix = read_quantized(self._weights, name, stored.shape, self._spec.quantization, kind)
        if not isinstance(matrix, Float8Matrix):
            raise WeightsError(
                f"{one.path}: {name} is stored as {one.dtype}, and config.json does not say that this "
                "matrix is quantised. Copy config.json of the same model again"
            )
        return dataclasses.replace(stored, float8=matrix)


class GgufFolderSource:
    """The tensors of a GGUF file by the names of a folder."""

    def __init__(self, source: GgufSource) -> None:
        self._source = source
        self.weights: WeightsFolder | None = None

    def names(self) -> Iterable[str]:
        return self._source.names()

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._source.shapes()

    def __contains__(self, name: str) -> bool:
        return name in self._source

    def find(self, name: str) -> Stored:
        one = self._source.tensor(name)
        check_type(one.type.name, f"{self._source.path}: {name}")
        values: NDArray[Any] = one.data
        if not is_block_type(one.type.name):
            number = _NUMBERS[one.type.name]
            values = np.ascontiguousarray(values).view(number).reshape(one.shape)
        elif len(one.shape) > 1:
            values = values.reshape(one.shape[0], -1)
        return Stored(name, self._source.path, one.type.name, one.shape, values, one.tiles)
