"""A decoder's weights from GGUF files: blocks are packed as they are, and nothing is rounded."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.weights.blocks import BlockPacker
from quire.engines.native.cpu.weights.packed import Tensor
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import WeightsError
from quire.gguf.blocks import check_finite, dequantize, is_block_type
from quire.gguf.folder import open_source
from quire.weights.safetensors import MappedFile, round_to_bfloat16

_FLOATS = ("router", "shared_score")
"""Small matrices of which an error can choose another expert."""


class GgufReader:
    """Reads the tensors of GGUF files: see `load_weights`."""

    def __init__(
        self,
        spec: DecoderSpec,
        folder: Path,
        dtype: Literal["auto", "float32", "bfloat16", "float16"],
        *,
        exact: bool,
        threads: int,
        grows: bool,
    ) -> None:
        self._spec, self._source = spec, open_source(folder)
        self._dtype, self._grows = dtype, grows
        self._packer = BlockPacker(self._source.drop_pages, exact=exact, threads=threads)

    def read(self, tensor: TensorSpec) -> Tensor:
        """The tensor as it is computed with: floats, or blocks."""
        stored = self._source.tensor(tensor.name)
        shapes = [one.stored_shape for one in tensor.within if one.name == tensor.name]
        if stored.shape not in (tensor.whole_shape, *shapes):
            raise WeightsError(
                f"{self._source.path}: {tensor.name} has shape {stored.shape}, and the model needs "
                f"{tensor.whole_shape}"
            )
        data, depth = stored.data, tensor.shape[-1]
        if tensor.role == "layer_embeddings" and self._spec.layer_inputs:
            depth = self._spec.layer_inputs.size
        if tensor.rows:
            parts = [data[first:end] for first, end in tensor.rows]
            data = parts[0] if len(parts) == 1 else np.concatenate(parts)
        kind = stored.type.name
        if self._packs(tensor, kind) and depth % stored.type.weights == 0:
            # The table of layers' inputs is read a layer at a time.
            rows = data.reshape(len(data) * tensor.shape[-1] // depth, -1)
            packed = self._packer.pack(kind, rows, depth)
            if not packed.has_finite_scales():
                check_finite(kind, data, f"{self._source.path}: {tensor.name}")
            return packed
        if tensor.turned:
            on_side = dataclasses.replace(tensor, shape=tensor.shape[::-1], turned=False)
            return np.ascontiguousarray(self._floats(on_side, kind, data).T)
        return self._floats(tensor, kind, data)

    def _packs(self, tensor: TensorSpec, kind: str) -> bool:
        role = tensor.role.rpartition(".")[2]
        if not is_block_type(kind) or self._dtype != "auto" or tensor.is_float32:
            return False
        if tensor.turned:  # a block lies along a row of the file
            return False
        if tensor.role.startswith("altup_"):  # see `altup_step`, which multiplies floats alone
            return False
        return role not in _FLOATS and not (self._grows and role in ("embeddings", "head"))

    def _floats(self, tensor: TensorSpec, kind: str, data: NDArray[np.uint8]) -> NDArray[Any]:
        """Floats of the type that was asked for; bfloat16 stays as it is, as in folders."""
        is_matrix = not tensor.is_float32
        if is_matrix and kind == "BF16" and self._dtype in ("auto", "bfloat16"):
            return np.ascontiguousarray(data).view(np.uint16).reshape(tensor.shape)
        data = np.ascontiguousarray(data)
        is_mapped = is_matrix and kind == "F32" and data.ctypes.data % 4 == 0
        values = data.view(np.float32) if is_mapped else dequantize(kind, data)
        values = values.reshape(tensor.shape)
        if is_matrix and self._dtype == "bfloat16":
            return round_to_bfloat16(values)
        if tensor.factor != 1:
            values = values * np.float32(tensor.factor)
        return values + np.float32(tensor.offset) if tensor.offset else values

    def read_tied_head(self, embeddings: Tensor) -> Tensor:
        """The head that is tied to the embeddings."""
        return embeddings

    def finish(self, arrays: Collection[NDArray[Any]]) -> tuple[MappedFile, ...]:
        """Let go of the file's pages; return the files that arrays are mapped from."""
        self._packer.close()
        self._source.drop_pages()
        return self._source.mapped_files(arrays)
