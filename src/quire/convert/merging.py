"""A folder's weights in float32, row by row, with adapters merged into them.

A LoRA pair makes `W + scaling * B A` of a matrix, in float32; what an adapter has whole replaces what
the model has. Of a matrix no more is computed than the rows that are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter, check_fits, read_adapter, read_tensors
from quire.engines.native.cpu.weights.mxfp4 import block_rows, is_in_blocks
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec, find_part
from quire.errors import AdapterError, UnsupportedModelError, WeightsError
from quire.gguf.quantize import Bytes, Floats
from quire.quantization import mxfp4
from quire.weights.safetensors import StoredTensor, WeightsFolder, widen

Rows: TypeAlias = NDArray[np.intp]
"""Numbers of rows; those of a vector are its elements."""

_FLOATS = ("F32", "F16", "BF16", "F64")


@dataclass(frozen=True, slots=True)
class _Change:
    """What an adapter does to a stored tensor."""

    name: str
    make: Callable[[Floats, Rows], Floats]
    """Makes the new rows of the old ones, given which they are."""
    shape: tuple[int, ...] = ()
    """The tensor's, where the adapter has all of it."""
    is_own: bool = False
    """It is the model's own tensor, as it was in training, for every use that the model makes of it."""


def open_merged(folder: Path, adapters: Sequence[Path] = ()) -> MergedFolder:
    """The weights of a model's folder with adapters merged into them.

    Raises:
        ModelNotFoundError: there is no such folder, or a file of it is missing.
        UnsupportedModelError: the native engine does not run the model, or it is quantised, and not in
            the blocks of GGUF's type MXFP4.
        AdapterError: an adapter does not fit, or cannot be merged.
    """
    spec = read_spec(folder)
    if spec.quantization is not None and spec.quantization.method != "mxfp4":
        raise UnsupportedModelError(
            f"{folder} is quantised already. Rounding it once more would cost answers: convert the "
            "folder of the model that it was made of"
        )
    source = WeightsFolder(folder, spec.names.prefix_map)
    names = spec.names
    if names.embeddings not in source and names.bare().embeddings in source:
        spec = dataclasses.replace(spec, names=names.bare())
    if spec.tied_embeddings and names.head in source:
        if spec.names.embeddings not in source:
            source.alias(spec.names.embeddings, names.head)
        else:
            untied = source.are_untied(spec.names.embeddings, names.head)
            spec = dataclasses.replace(spec, tied_embeddings=not untied)
    return MergedFolder(folder, spec, source, adapters)


class MergedFolder:
    """See `open_merged`."""

    def __init__(
        self, folder: Path, spec: DecoderSpec, source: WeightsFolder, adapters: Sequence[Path]
    ) -> None:
        self.folder, self.spec, self.source = folder, spec, source
        self._changes: dict[str, list[_Change]] = {}
        """By the name of a stored tensor, in the order of the adapters."""
        stored = {
            source.stored(name).name: source.stored(name).values.shape for name in source.names()
        }
        for path in adapters:
            adapter = read_adapter(path, extended=True)
            fitting = check_fits(adapter, folder)
            adapter = dataclasses.replace(adapter, stored_names=fitting)
            for change in _changes_of(adapter):
                self._check_change(adapter, change, stored)
                self._changes.setdefault(change.name, []).append(change)

    def _check_change(
        self, adapter: Adapter, change: _Change, stored: Mapping[str, tuple[int, ...]]
    ) -> None:
        """Refuse a change of a tensor that the model has not, or has with other rows, or uses twice."""
        name, there = change.name, stored.get(change.name)
        if there is None:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, which the model in {self.folder} does not "
                "have: it cannot be merged. Serve the two together"
            )
        if change.shape and change.shape != there:
            raise AdapterError(
                f"The adapter {adapter.path} has {name} of shape {list(change.shape)}, and the model has "
                f"{list(there)}: it cannot be merged. Resize the model's embeddings first (transformers' "
                "resize_token_embeddings)"
            )
        tied = (self.spec.names.embeddings, self.spec.names.head)
        is_table = name.endswith(tuple(one.removeprefix("model.") for one in tied))
        if self.spec.tied_embeddings and is_table and not change.is_own:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, and the model has one matrix for "
                "embeddings and head: merged, it would change both. Serve the two together"
            )

    def changes(self, stored: StoredTensor) -> bool:
        """Whether an adapter changes a stored tensor."""
        return stored.name in self._changes

    def check(self, spec: TensorSpec) -> Collection[str]:
        """The names by which the folder stores a tensor, whose shape and type are checked.

        Raises:
            WeightsError: it has none such.
        """
        if self.is_in_blocks(spec):
            return mxfp4.names_of(spec.within[0].name)
        return (self._find(spec)[0].name,)

    def is_in_blocks(self, spec: TensorSpec) -> bool:
        """Whether the folder has a tensor as GGUF's type MXFP4 has it, but for the order of bytes."""
        return is_in_blocks(self.source, spec)

    def block_rows(self, spec: TensorSpec) -> Bytes:
        """The rows of such a tensor as GGUF has them.

        Raises:
            WeightsError: it is not as it must be.
        """
        return block_rows(self.source, spec)[:]

    def rows(self, spec: TensorSpec, rows: Rows) -> Floats:
        """Some rows of the tensor, or of the part of one, that `spec` names, its offset added.

        Raises:
            WeightsError: the folder lacks it, or has it in another shape or type.
        """
        stored, values, which = self._find(spec)
        if which is not None:
            rows = which[rows]
        found = self.stored_rows(stored, values, rows)
        return found + np.float32(spec.offset) if spec.offset else found

    def stored_rows(self, stored: StoredTensor, values: NDArray[Any], rows: Rows) -> Floats:
        """Some rows of a stored tensor, with what adapters change."""
        first, last = int(rows[0]), int(rows[-1])
        in_order = last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all())
        part = values[first : last + 1] if in_order else values[rows]
        result = widen(part) if stored.dtype == "BF16" else part.astype(np.float32)
        for change in self._changes.get(stored.name, ()):
            result = change.make(result, rows)
        return result

    def _find(self, spec: TensorSpec) -> tuple[StoredTensor, NDArray[Any], Rows | None]:
        """A stored tensor, its values, and which of its rows are meant; None for all."""
        part = find_part(self.source, spec)
        if part is not None:
            stored = self._stored(part.name, part.stored_shape)
            return stored, part.take(stored.values, spec.shape), None
        stored = self._stored(spec.name, spec.stored_shape)
        if not spec.rows:
            return stored, stored.values, None
        return stored, stored.values, np.concatenate([np.arange(*ends) for ends in spec.rows])

    def _stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        if name not in self.source:
            raise WeightsError(f"{self.folder}: the weights lack {name} {shape}")
        stored = self.source.stored(name)
        if stored.values.shape != shape:
            raise WeightsError(
                f"{stored.path}: {stored.name} has shape {stored.values.shape}, config.json asks for "
                f"{shape}"
            )
        if stored.dtype not in _FLOATS:
            raise WeightsError(
                f"{stored.path}: {stored.name} is stored as {stored.dtype}, and quire converts models "
                "that are not quantised"
            )
        return stored


# ---- adapters


def _changes_of(adapter: Adapter) -> Iterator[_Change]:
    """What an adapter does, in order: what it has whole comes before what it adds."""
    tensors = read_tensors(adapter)

    def stored(module: str, suffix: str = "weight") -> str:
        return f"{adapter.stored_names.get(module, module)}.{suffix}"

    for module, matrix in tensors.own.items():
        yield _Change(stored(module), _replacing(matrix), matrix.shape, is_own=True)
    for module, matrix in tensors.matrices.items():
        yield _Change(stored(module), _replacing(matrix), matrix.shape)
    for module, bias in tensors.biases.items():
        yield _Change(stored(module, "bias"), _replacing(bias), bias.shape)
    for module, pair in tensors.pairs.items():
        yield _Change(stored(module), _adding(pair.b, pair.a))
        if pair.bias is not None:
            yield _Change(stored(module, "bias"), _adding_vector(pair.bias))
    for module, pair in tensors.embeddings.items():
        # The matrix has a row for each token, and the pair makes one that lies on its side.
        rows, columns = np.ascontiguousarray(pair.a.T), np.ascontiguousarray(pair.b.T)
        yield _Change(stored(module), _adding(rows, columns), (len(rows), columns.shape[1]))


def _adding(left: Floats, right: Floats) -> Callable[[Floats, Rows], Floats]:
    """Adds rows of a product."""

    def added(values: Floats, rows: Rows) -> Floats:
        product: Floats = left[rows] @ right
        product += values
        return product

    return added


def _adding_vector(vector: Floats) -> Callable[[Floats, Rows], Floats]:
    return lambda values, rows: values + vector[rows]


def _replacing(matrix: NDArray[Any]) -> Callable[[Floats, Rows], Floats]:
    def replaced(values: Floats, rows: Rows) -> Floats:
        part = matrix[rows]
        return widen(part) if part.dtype == np.uint16 else part

    return replaced
