"""A model's weights in float32, row by row, with adapters merged into them.

They come from a folder's safetensors, or from a GGUF file by the names of the folder that is made of it.

A LoRA pair makes `W + scaling * B A` of a matrix, in float32, and with DoRA the rows of that are brought
to lengths that were trained (Liu et al., 2024); what an adapter has whole replaces what the model has. Of a
matrix no more is computed than the rows that are asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter, check_fits, read_adapter, read_tensors
from quire.adapters.weights import AdapterTensors
from quire.convert.sources import FolderSource, GgufFolderSource, Rows, Source, Stored
from quire.engines.native.cpu.weights.mxfp4 import block_rows, is_in_blocks
from quire.engines.native.models.expert_adapters import expert_pairs, layer_of_experts
from quire.engines.native.models.registry import read_spec
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorPart, TensorSpec, find_part
from quire.errors import AdapterError, UnsupportedModelError, WeightsError
from quire.gguf.blocks import dequantize, is_block_type
from quire.gguf.folder import open_source
from quire.gguf.quantize import Bytes, Floats
from quire.quantization import mxfp4
from quire.quantization.schemes import Quantization
from quire.weights.folder import is_gguf_folder
from quire.weights.safetensors import WeightsFolder, widen

BLOCKS = "MXFP4"
"""GGUF's name of the blocks that folders have, too."""
_FLOATS = ("F32", "F16", "BF16", "F64")

_Make: TypeAlias = Callable[[Floats, Rows], Floats]


@dataclass(frozen=True, slots=True)
class _Change:
    """What an adapter does to a stored tensor."""

    name: str
    make: _Make
    """Makes the new rows of the old ones, given which they are."""
    shape: tuple[int, ...] = ()
    """The tensor's, where the adapter has all of it."""
    is_own: bool = False
    """It is the model's own tensor, as it was in training, for every use that the model makes of it."""


def open_merged(folder: Path, adapters: Sequence[Path] = ()) -> MergedFolder:
    """The weights of a model's folder with adapters merged into them; it may be made of a GGUF file.

    Raises:
        ModelNotFoundError: there is no such folder, or a file of it is missing.
        UnsupportedModelError: the native engine does not run the model, or it is quantised, and neither
            in the blocks of GGUF's type MXFP4 nor as 8-bit floats.
        AdapterError: an adapter does not fit, or cannot be merged.
    """
    spec = read_spec(folder)
    if is_gguf_folder(folder):
        return MergedFolder(folder, spec, GgufFolderSource(open_source(folder)), adapters)
    if spec.quantization is not None and not _is_converted(spec.quantization):
        raise UnsupportedModelError(
            f"{folder} is quantised already. Rounding it once more would cost answers: convert the "
            "folder of the model that it was made of"
        )
    source = WeightsFolder(folder, spec.names.prefix_map)
    names = spec.names
    if names.embeddings not in source and names.bare().embeddings in source:
        spec = dataclasses.replace(spec, names=names.bare())
    if spec.head.tied and names.head in source:
        if spec.names.embeddings not in source:
            source.alias(spec.names.embeddings, names.head)
        else:
            untied = source.are_untied(spec.names.embeddings, names.head)
            head = dataclasses.replace(spec.head, tied=not untied)
            spec = dataclasses.replace(spec, head=head)
    return MergedFolder(folder, spec, FolderSource(source, spec), adapters)


def _is_converted(quantization: Quantization) -> bool:
    """Whether weights are in GGUF's own blocks, or as 8-bit floats, of which models are released alone."""
    layouts = {one.scheme.layout for one in quantization.rules if one.scheme is not None}
    return quantization.method == "mxfp4" or layouts == {"float8"}


class MergedFolder:
    """See `open_merged`."""

    def __init__(
        self, folder: Path, spec: DecoderSpec, source: Source, adapters: Sequence[Path]
    ) -> None:
        self.folder, self.spec, self.source = folder, spec, source
        self._changes: dict[str, list[_Change]] = {}
        """By the name of a stored tensor, or of an expert's that is a part of a stack, in the order of the
        adapters."""
        self._stacks: dict[str, dict[str, tuple[TensorSpec, TensorPart]]] = {}
        """By the name of a stored stack of experts: the parts that are changed, by their own names."""
        self.transposed = frozenset(one.name for one in spec.tensors() if one.transposed)
        """The names of the matrices that the folder has the other way round."""
        stored = source.shapes()
        for path in adapters:
            adapter = read_adapter(path, extended=True, dora=True)
            fitting = check_fits(adapter, folder)
            adapter = dataclasses.replace(adapter, stored_names=fitting)
            tensors = read_tensors(adapter)
            for change in _changes_of(adapter, tensors, self.transposed):
                self._check_change(adapter, change, stored)
                self._changes.setdefault(change.name, []).append(change)
            self._change_experts(adapter, tensors)

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
        is_table = name.endswith(tuple(one.removeprefix(self.spec.names.prefix) for one in tied))
        if self.spec.head.tied and is_table and not change.is_own:
            raise AdapterError(
                f"The adapter {adapter.path} changes {name}, and the model has one matrix for "
                "embeddings and head: merged, it would change both. Serve the two together"
            )

    def _change_experts(self, adapter: Adapter, tensors: AdapterTensors) -> None:
        """Take over the pairs that change all experts of a layer at once."""
        for module, pair in tensors.pairs.items():
            if not _is_of_experts(adapter, module):
                continue
            layer = layer_of_experts(self.spec, module)
            if layer is None:
                raise AdapterError(
                    f"The adapter {adapter.path} changes {module}, and the model in {self.folder} has no "
                    "experts of that name. The adapter may belong to another model: merge it into its own"
                )
            by_role = {one.role: one for one in self.spec.layer_tensors(layer)}
            for role, a, b in expert_pairs(adapter, module, pair, self.spec):
                self._change_expert(by_role[role], _adding(b, a))

    def _change_expert(self, spec: TensorSpec, make: _Make) -> None:
        """Change the matrix of an expert, which may be stored by itself or as a part of a stack."""
        name, part = spec.name, find_part(spec, self._shape_of)
        if part is not None:
            self._stacks.setdefault(self.source.find(part.name).name, {})[name] = spec, part
        elif not self.is_in_blocks(spec):
            name = self._find(spec)[0].name
        self._changes.setdefault(name, []).append(_Change(name, make))

    @property
    def is_float8(self) -> bool:
        """Whether the folder has weights as 8-bit floats, which are multiplied out."""
        own = self.spec.quantization
        return own is not None and own.method != "mxfp4"

    @property
    def changed(self) -> frozenset[str]:
        """The names of the stored tensors that adapters change, and of experts that are parts of these."""
        return frozenset((*self._changes, *self._stacks))

    def check(self, spec: TensorSpec) -> Collection[str]:
        """The names by which the folder stores a tensor, whose shape and type are checked.

        Raises:
            WeightsError: it has none such.
        """
        if self.is_in_blocks(spec):
            return mxfp4.names_of(spec.within[0].name)
        if spec.pieces:
            return tuple(spec.name.format(index) for index in range(spec.pieces))
        return (self._find(spec)[0].name,)

    def is_in_blocks(self, spec: TensorSpec) -> bool:
        """Whether the folder has a tensor as GGUF's type MXFP4 has it, but for the order of bytes."""
        weights = self.source.weights
        return weights is not None and is_in_blocks(weights, spec)

    def stays_in_blocks(self, specs: Iterable[TensorSpec]) -> bool:
        """Whether all of these are in blocks, and no adapter changes one.

        Blocks are never made of floats here: what is changed gets another type.
        """
        return all(self.is_in_blocks(one) and one.name not in self._changes for one in specs)

    def changed_in_blocks(self) -> TensorSpec | None:
        """A tensor that the folder has in blocks and an adapter changes; None if there is none."""
        changed = (one for one in self.spec.tensors() if one.name in self._changes)
        return next(filter(self.is_in_blocks, changed), None)

    def block_rows(self, spec: TensorSpec) -> Bytes:
        """The rows of such a tensor as GGUF has them.

        Raises:
            WeightsError: it is not as it must be.
        """
        assert self.source.weights is not None
        return block_rows(self.source.weights, spec)[:]

    def rows(self, spec: TensorSpec, rows: Rows) -> Floats:
        """Some rows of the tensor, or of the part of one, that `spec` names, its offset added.

        Raises:
            WeightsError: the folder lacks it, or has it in another shape or type.
        """
        if spec.pieces:
            return self._in_pieces(spec)[rows]
        if self.is_in_blocks(spec):
            return self._changed(spec.name, dequantize(BLOCKS, self.block_rows(spec)[rows]), rows)
        stored, which = self._find(spec)
        if which is not None:
            rows = which[rows]
        found = self.stored_rows(stored, rows)
        return found + np.float32(spec.offset) if spec.offset else found

    def _in_pieces(self, spec: TensorSpec) -> Floats:
        """All of a tensor that is several in the folder."""
        piece = dataclasses.replace(spec, shape=spec.stored_shape, pieces=0)
        names = (spec.name.format(index) for index in range(spec.pieces))
        every = np.arange(piece.shape[0])
        parts = [self.rows(dataclasses.replace(piece, name=name), every) for name in names]
        return np.concatenate(parts)

    def stored_rows(self, stored: Stored, rows: Rows) -> Floats:
        """Some rows of a stored tensor, with what adapters change."""
        first, last = int(rows[0]), int(rows[-1])
        in_order = last - first + 1 == len(rows) and bool((np.diff(rows) == 1).all())
        result = stored.floats(slice(first, last + 1) if in_order else rows)
        if not stored.expert and stored.name in self._stacks:
            self._change_stack(stored, result, rows)
        return self._changed(stored.expert or stored.name, result, rows)

    def _changed(self, name: str, values: Floats, rows: Rows) -> Floats:
        for change in self._changes.get(name, ()):
            values = change.make(values, rows)
        return values

    def _change_stack(self, stored: Stored, values: Floats, experts: Rows) -> None:
        """Change the matrices of some experts where they lie."""
        indices = {expert: index for index, expert in enumerate(experts.tolist())}
        for name, (spec, part) in self._stacks[stored.name].items():
            expert, first = divmod(part.first_row, part.shape[1])
            if expert in indices:
                own = dataclasses.replace(part, first_row=first)
                matrix = own.take(values[indices[expert]][None], spec.shape)
                matrix[...] = self._changed(name, matrix, np.arange(len(matrix)))

    def _find(self, spec: TensorSpec) -> tuple[Stored, Rows | None]:
        """A stored tensor, and which of its rows are meant; None for all."""
        part = find_part(spec, self._shape_of)
        if part is not None:
            return self._stored(part.name, part.stored_shape).part(part, spec), None
        of_gguf = self.source.weights is None  # where tensors have the shapes that the model needs
        stored = self._stored(spec.name, spec.whole_shape if of_gguf else spec.stored_shape)
        if spec.transposed and not of_gguf:
            stored = stored.transpose()
        elif stored.shape != spec.whole_shape:
            stored = stored.in_shape(spec.whole_shape)
        if not spec.rows:
            return stored, None
        return stored, np.concatenate([np.arange(*ends) for ends in spec.rows])

    def _shape_of(self, name: str) -> tuple[int, ...] | None:
        return self.source.find(name).shape if name in self.source else None

    def _stored(self, name: str, shape: tuple[int, ...]) -> Stored:
        if name not in self.source:
            raise WeightsError(f"{self.folder}: the weights lack {name} {shape}")
        stored = self.source.find(name)
        if stored.shape != shape:
            raise WeightsError(
                f"{stored.path}: {stored.name} has shape {stored.shape}, config.json asks for "
                f"{shape}"
            )
        is_float = stored.type in _FLOATS or stored.float8 is not None
        if not is_float and not is_block_type(stored.type):
            raise WeightsError(
                f"{stored.path}: {stored.name} is stored as {stored.type}, and quire converts models "
                "that are not quantised"
            )
        return stored


# ---- adapters


def _is_of_experts(adapter: Adapter, module: str) -> bool:
    """Whether a module's pair changes all experts of a layer at once."""
    assert adapter.config is not None
    return adapter.config.parameter_of(module) is not None


def _changes_of(
    adapter: Adapter, tensors: AdapterTensors, transposed: frozenset[str]
) -> Iterator[_Change]:
    """What an adapter does besides experts, in order: what it has whole comes before what it adds.

    Args:
        transposed: the matrices that the folder, and so the adapter, has the other way round. Rows are
            of the right way.
    """

    def stored(module: str, suffix: str = "weight") -> str:
        return f"{adapter.stored_names.get(module, module)}.{suffix}"

    def whole(name: str, matrix: NDArray[Any]) -> _Make:
        return _replacing(matrix.T if name in transposed else matrix)

    for module, matrix in tensors.own.items():
        name = stored(module)
        yield _Change(name, whole(name, matrix), matrix.shape, is_own=True)
    for module, matrix in tensors.matrices.items():
        name = stored(module)
        yield _Change(name, whole(name, matrix), matrix.shape)
    for module, bias in tensors.biases.items():
        yield _Change(stored(module, "bias"), _replacing(bias), bias.shape)
    for module, pair in tensors.pairs.items():
        if _is_of_experts(adapter, module):
            continue
        yield _Change(stored(module), _adding(pair.b, pair.a))
        if pair.magnitude is not None:
            yield _Change(stored(module), _of_lengths(pair.magnitude))
        if pair.bias is not None:
            yield _Change(stored(module, "bias"), _adding_vector(pair.bias))
    for module, pair in tensors.embeddings.items():
        # The matrix has a row for each token, and the pair makes one that lies on its side.
        rows, columns = np.ascontiguousarray(pair.a.T), np.ascontiguousarray(pair.b.T)
        yield _Change(stored(module), _adding(rows, columns), (len(rows), columns.shape[1]))


def _adding(left: Floats, right: Floats) -> _Make:
    """Adds rows of a product."""

    def added(values: Floats, rows: Rows) -> Floats:
        product: Floats = left[rows] @ right
        product += values
        return product

    return added


def _of_lengths(lengths: Floats) -> _Make:
    """Brings rows to these lengths. A row of zeros has no direction, and stays."""

    def scaled(values: Floats, rows: Rows) -> Floats:
        found = np.linalg.norm(values, axis=1)
        factors = np.divide(lengths[rows], found, out=np.zeros_like(found), where=found > 0)
        values *= factors[:, None]
        return values

    return scaled


def _adding_vector(vector: Floats) -> _Make:
    return lambda values, rows: values + vector[rows]


def _replacing(matrix: NDArray[Any]) -> _Make:
    def replaced(values: Floats, rows: Rows) -> Floats:
        part = matrix[rows]
        return widen(part) if part.dtype == np.uint16 else part

    return replaced
