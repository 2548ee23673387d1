"""An adapter's values by the roles of the decoder's weights: checked, and what changes nothing left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from quire.adapters.folder import Adapter, ModelModules, read_tensors
from quire.adapters.weights import WEIGHTS_FILE, Floats, LoraPair, Matrix
from quire.engines.native.cpu.layout import LINEARS
from quire.engines.native.cpu.memory import MIB
from quire.engines.native.cpu.weights import Weights, take_rows
from quire.engines.native.models.spec import DecoderSpec, TensorSpec
from quire.errors import AdapterError, OutOfMemoryError
from quire.machine.memory import available_memory
from quire.weights.safetensors_header import TensorEntry


@dataclass(slots=True)
class MapChange:
    """What is added to one linear map's output for x: `x @ a.T @ b + shift`.

    Of embeddings, `a.T` is a table, of which a token's row stands for `x @ a.T`.
    """

    a: Floats | None = None  # (rank, depth)
    b: Floats | None = None  # (rank, columns), times the scaling
    shift: Floats | None = None  # (columns,)

    @property
    def rank(self) -> int:
        return 0 if self.a is None else len(self.a)


@dataclass(slots=True)
class LoraWeights:
    """What an adapter changes of a decoder, for the rows of a batch that have it."""

    adapter: Adapter
    layers: tuple[dict[str, MapChange], ...]
    """By the role of the linear map."""
    tables: dict[str, MapChange] = field(default_factory=dict[str, MapChange])
    """The same of `embeddings` and `head`."""
    whole: dict[str, Matrix] = field(default_factory=dict[str, Matrix])
    """`embeddings` and `head` (vocabulary, hidden) in the place of the model's."""

    @property
    def is_empty(self) -> bool:
        return not (self.whole or self.tables or any(self.layers))


@dataclass(frozen=True, slots=True)
class _Place:
    """A linear map, or one of the two tables, whose weight a module owns, or a part of which."""

    layer: int | None
    tensor: TensorSpec


def lora_weights(adapter: Adapter, weights: Weights) -> LoraWeights:
    """Read the adapter's values for this decoder.

    Raises:
        AdapterError: it changes something that this engine cannot change, has other shapes than the
            model, or changes nothing.
        OutOfMemoryError: there is not enough free memory to load it.
    """
    _check_memory(adapter)
    tensors = read_tensors(adapter)
    found = LoraWeights(adapter, tuple({} for _ in weights.layers))
    places = _Places(weights.spec)
    for module, values in tensors.biases.items():
        for place in places.of(module, adapter):
            _set_bias(found, place, values, weights)
    for module, pair in tensors.pairs.items():
        for place in places.of(module, adapter):
            _check_shape(adapter, module, place, (pair.b.shape[0], pair.a.shape[1]))
            _add_pair(found, place, pair)
    for module, pair in tensors.embeddings.items():
        for place in places.of(module, adapter, "embeddings"):
            _check_shape(adapter, module, place, (pair.a.shape[1], pair.b.shape[0]))
            _add_pair(found, place, pair)
    for module, matrix in tensors.matrices.items():
        for place in places.of(module, adapter, "embeddings", "head"):
            _check_shape(adapter, module, place, matrix.shape)
            if not _same(matrix, weights.tensors[place.tensor.role]):
                found.whole[place.tensor.role] = matrix
    if found.is_empty:
        raise AdapterError(
            f"The adapter {adapter.path} changes nothing: its weights are those of the model, or "
            "zero, as before training. Give one that was trained."
        )
    return found


def _check_memory(adapter: Adapter) -> None:
    size = (adapter.path / WEIGHTS_FILE).stat().st_size
    needed, free = 4 * size, available_memory()  # float32 of 16 bits, as read and as packed
    if needed > free:
        raise OutOfMemoryError(
            f"Loading the adapter {adapter.path} takes {needed / MIB:.0f} MiB, and {free / MIB:.0f} MiB "
            "are free. Drop other adapters, or lower native_memory_util or native_kv_cache_memory."
        )


class _Places:
    """Where each module of a decoder is, by the names that an adapter may call it."""

    def __init__(self, spec: DecoderSpec) -> None:
        self._by_module: dict[str, list[_Place]] = {}
        entries: dict[str, TensorEntry] = {}
        for place in _all_places(spec):
            name = place.tensor.name
            entries[name] = TensorEntry("F32", place.tensor.stored_shape, 0)
            self._by_module.setdefault(name.removesuffix(".weight"), []).append(place)
        self._modules = ModelModules(entries)

    def of(self, module: str, adapter: Adapter, *roles: str) -> list[_Place]:
        """The places of a module, which must have one of the roles, by default a linear map's."""
        wanted = roles or (*LINEARS, "head")
        found = self._by_module.get(self._modules.find(module) or "", [])
        if not found or any(place.tensor.role not in wanted for place in found):
            what = "replaces" if "embeddings" in roles and "head" in roles else "changes"
            raise AdapterError(
                f"The adapter {adapter.path} {what} {module}, which the native engine cannot do: it "
                f"takes {_roles_in_words(wanted)}. Merge the adapter into the model (peft's "
                "merge_and_unload) and serve the result, or choose infer_backend vllm."
            )
        return found


def _roles_in_words(roles: tuple[str, ...]) -> str:
    if roles == ("embeddings",):
        return "lora_embedding_A and lora_embedding_B of the embeddings alone"
    if "embeddings" in roles:
        return "whole embeddings and heads alone"
    return "pairs and biases of the layers' linear maps and of the head alone"


def _all_places(spec: DecoderSpec) -> Iterator[_Place]:
    for tensor in spec.global_tensors():
        if tensor.role in ("embeddings", "head"):
            yield _Place(None, tensor)
    if spec.tied_embeddings:
        shape = (spec.vocab_size, spec.hidden_size)
        yield _Place(None, TensorSpec("head", spec.names.head, shape))
    for layer in range(spec.num_layers):
        for tensor in spec.layer_tensors(layer):
            if tensor.role in LINEARS:
                yield _Place(layer, tensor)


def _check_shape(adapter: Adapter, module: str, place: _Place, shape: tuple[int, ...]) -> None:
    if shape != place.tensor.stored_shape:
        raise AdapterError(
            f"The adapter {adapter.path} changes {module} as a matrix of shape {list(shape)}, but "
            f"in the model it has shape {list(place.tensor.stored_shape)}. It may belong to another model."
        )


def _change(found: LoraWeights, place: _Place) -> MapChange:
    changes = found.tables if place.layer is None else found.layers[place.layer]
    return changes.setdefault(place.tensor.role, MapChange())


def _add_pair(found: LoraWeights, place: _Place, pair: LoraPair) -> None:
    b = take_rows(pair.b, place.tensor.rows)
    bias = None if pair.bias is None else take_rows(pair.bias, place.tensor.rows)
    part = LoraPair(pair.a, b, bias)
    if part.is_zero:
        return
    change = _change(found, place)
    if part.a.any() and b.any():
        change.a, change.b = part.a, np.ascontiguousarray(b.T)
    if bias is not None:
        change.shift = bias if change.shift is None else change.shift + bias


def _set_bias(found: LoraWeights, place: _Place, values: Floats, weights: Weights) -> None:
    """Keep what a bias of the adapter adds to the model's own."""
    if place.tensor.rows and values.shape == place.tensor.stored_shape[:1]:
        values = take_rows(values, place.tensor.rows)
    layer: Mapping[str, Floats] = {} if place.layer is None else weights.layers[place.layer]
    own = layer.get(f"{place.tensor.role}_bias")
    if own is None or own.shape != values.shape:
        raise AdapterError(
            f"The adapter {found.adapter.path} has a bias of shape {list(values.shape)} for "
            f"{place.tensor.name.removesuffix('.weight')}, and in the model it "
            f"{'has none' if own is None else f'is of shape {list(own.shape)}'}. It may belong to "
            "another model."
        )
    shift = values - own
    if shift.any():
        _change(found, place).shift = shift


def _same(matrix: Matrix, own: Matrix) -> bool:
    """Whether a whole matrix of the adapter is the model's own, which peft may save along."""
    return matrix.dtype == own.dtype and np.array_equal(matrix, own)
