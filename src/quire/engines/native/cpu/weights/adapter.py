"""A LoRA adapter for a decoder: its values by the roles of the weights, checked, and packed for kernels.

What changes nothing is left out: peft saves the model's own head and embeddings along, and a B that
was never trained is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter, read_tensors
from quire.adapters.weights import WEIGHTS_FILE, Floats, LoraPair, Matrix
from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.layout import LINEARS, LORA_PANEL
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.program.arguments import LoraAdapter, LoraEntry
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.decoder import Weights, take_rows
from quire.engines.native.cpu.weights.linear_map import address_of, is_bfloat16, make_map
from quire.engines.native.cpu.weights.packed import Tensor
from quire.engines.native.models.expert_adapters import expert_pairs, layer_of_experts
from quire.engines.native.models.layers.latent_attention import is_head_map, latent_heads
from quire.engines.native.models.spec import DecoderSpec
from quire.engines.native.models.tensors import TensorSpec
from quire.errors import AdapterError, OutOfMemoryError
from quire.machine.memory import available_memory
from quire.weights.safetensors import known_as

MIB = 2**20


@dataclass(slots=True)
class LoraMap:
    """What is added to the output of one linear map for x: `x @ a.T @ b + bias`.

    For embeddings, `a.T` is a table: the row of a token stands for `x @ a.T`.
    """

    a: Floats | None = None  # (rank, depth)
    b: Floats | None = None  # (rank, columns), multiplied by the scaling
    bias: Floats | None = None  # (columns,)

    @property
    def rank(self) -> int:
        return 0 if self.a is None else len(self.a)

    def add(self, a: Floats, b: Floats) -> None:
        """Add `x @ a.T @ b.T`: a (rank, depth), b (columns, rank)."""
        if not (a.any() and b.any()):
            return
        columns = np.ascontiguousarray(b.T)
        self.a = a if self.a is None else np.concatenate((self.a, a))
        self.b = columns if self.b is None else np.concatenate((self.b, columns))

    @property
    def is_empty(self) -> bool:
        return self.a is None and (self.bias is None or not self.bias.any())


@dataclass(slots=True)
class LoraWeights:
    """What an adapter changes of a decoder, for the rows of a batch that use it."""

    adapter: Adapter
    layers: tuple[dict[str, LoraMap], ...]
    """For each layer, by the role of the linear map; `ExpertsSpec` says those of a sparse FFN."""
    tables: dict[str, LoraMap] = field(default_factory=dict[str, LoraMap])
    """The same for `embeddings` and `head`."""
    replacements: dict[str, Matrix] = field(default_factory=dict[str, Matrix])
    """`embeddings` and `head` (vocabulary, hidden) that replace the model's."""
    vocabulary: int = 0
    """How many tokens the head knows; the rows after them are made up."""
    experts: int = 0
    """How many experts a sparse FFN of the model has, with the shared one."""
    heads: int = 0
    """How many heads its latent attention has."""
    head_bias: Floats | None = None
    """The bias of the model's head, which one that replaces it has too."""

    @property
    def is_empty(self) -> bool:
        maps = (one for part in (self.tables, *self.layers) for one in part.values())
        return not (self.replacements or any(not one.is_empty for one in maps))


# ---- reading


def lora_weights(adapter: Adapter, weights: Weights) -> LoraWeights:
    """Read the adapter's values for this decoder; those of a sum are applied in order.

    Raises:
        AdapterError: it changes something that this engine cannot change, has other shapes than the
            model, or changes nothing.
        OutOfMemoryError: there is not enough free memory to load it.
    """
    maps = tuple[dict[str, LoraMap], ...]({} for _ in weights.layers)
    sparse = weights.spec.experts
    result = LoraWeights(
        adapter,
        maps,
        vocabulary=weights.vocabulary,
        experts=sparse.total if sparse else 0,
        heads=latent_heads(weights.spec.mixers),
        head_bias=weights.tensors.get("head_bias"),
    )
    targets = _LoraTargets(weights.spec)
    for part in adapter.parts or (adapter,):
        _check_memory(part)
        _LoraReader(part, weights, targets, result).read()
    if result.is_empty:
        raise AdapterError(
            f"The adapter {adapter.path} changes nothing: its weights are those of the model, or "
            "zero, as before training. Give one that was trained."
        )
    return result


def _check_memory(adapter: Adapter) -> None:
    size = (adapter.path / WEIGHTS_FILE).stat().st_size
    # 16 bits become 32, and there are two copies: as read, and as packed.
    needed, free = 4 * size, available_memory()
    if needed > free:
        raise OutOfMemoryError(
            f"Loading the adapter {adapter.path} takes {needed / MIB:.0f} MiB, and {free / MIB:.0f} MiB "
            "are free. Drop other adapters, or lower native_memory_util or native_kv_cache_memory."
        )


@dataclass(frozen=True, slots=True)
class _LoraTarget:
    """A linear map, or one of the two tables, whose weight (or part of it) a module owns."""

    layer: int | None
    tensor: TensorSpec


class _LoraTargets:
    """What each module of a decoder holds, by its stored name."""

    def __init__(self, spec: DecoderSpec) -> None:
        self._prefix_map = spec.names.prefix_map
        self._by_tensor: dict[str, list[_LoraTarget]] = {}
        for target in _all_targets(spec):
            self._by_tensor.setdefault(target.tensor.name, []).append(target)

    def of(self, module: str, adapter: Adapter, *roles: str) -> list[_LoraTarget]:
        """The targets in a module. They must have one of the roles, by default a linear map's.

        Raises:
            AdapterError: the module has none, or one in another role.
        """
        tensor = known_as(f"{adapter.stored_names.get(module, module)}.weight", self._prefix_map)
        targets = self._by_tensor.get(tensor, [])
        if not targets or not all(_is_allowed(target.tensor.role, roles) for target in targets):
            what = "replaces" if "embeddings" in roles and "head" in roles else "changes"
            raise AdapterError(
                f"The adapter {adapter.path} {what} {module}, which the native engine cannot do: it "
                f"takes {_roles_in_words(roles)}. Merge the adapter into the model (peft's "
                "merge_and_unload) and serve the result, or choose infer_backend vllm."
            )
        return targets


def _is_allowed(role: str, roles: tuple[str, ...]) -> bool:
    """Whether a role is one of those, or, if there are none, a linear map's."""
    return role in roles if roles else _is_linear(role) or role == "head"


def _is_linear(role: str) -> bool:
    return role in LINEARS or is_inner(role)


def _is_sparse(role: str) -> bool:
    """Whether the role is a linear map's of a sparse FFN."""
    return role in ("router", "shared_score") or role.startswith("experts.")


def is_inner(role: str) -> bool:
    """Whether adapters have an inner entry for the role: see `layout.inner_entries`."""
    return is_head_map(role) or (_is_sparse(role) and not role.endswith("_bias"))


def _roles_in_words(roles: tuple[str, ...]) -> str:
    if roles == ("embeddings",):
        return "lora_embedding_A and lora_embedding_B of the embeddings alone"
    if "embeddings" in roles:
        return "whole embeddings and heads alone"
    return "pairs and biases of the layers' linear maps and of the head alone"


def _all_targets(spec: DecoderSpec) -> Iterator[_LoraTarget]:
    for tensor in spec.global_tensors():
        if tensor.role in ("embeddings", "head"):
            yield _LoraTarget(None, tensor)
    if spec.head.tied:
        shape = (spec.vocab_size, spec.hidden_size)
        yield _LoraTarget(None, TensorSpec("head", spec.names.head, shape))
    for layer in range(spec.num_layers):
        for tensor in spec.layer_tensors(layer):
            if _is_linear(tensor.role):
                yield _LoraTarget(layer, tensor)


class _LoraReader:
    """Applies one adapter over what `result` has of those before it."""

    def __init__(
        self, adapter: Adapter, weights: Weights, targets: _LoraTargets, result: LoraWeights
    ) -> None:
        self._adapter, self._weights, self._targets, self._result = (
            adapter,
            weights,
            targets,
            result,
        )
        self._rows = weights.spec.vocab_size

    def read(self) -> None:
        """Read and apply it: whole weights first, since pairs are added to these."""
        adapter, of = self._adapter, self._targets.of
        tensors = read_tensors(adapter)
        for module, matrix in tensors.own.items():
            for target in of(module, adapter, "embeddings", "head"):
                tied = self._weights.spec.head.tied
                for role in ("embeddings", "head") if tied else (target.tensor.role,):
                    self._replace(role, module, target, matrix)
        for module, matrix in tensors.matrices.items():
            for target in of(module, adapter, "embeddings", "head"):
                self._replace(target.tensor.role, module, target, matrix)
        for module, values in tensors.biases.items():
            for target in of(module, adapter):
                self._set_bias(target, values)
        for module, pair in tensors.pairs.items():
            layer = self._layer_of_experts(module)
            if layer is not None:
                maps = self._result.layers[layer]
                for role, a, b in expert_pairs(adapter, module, pair, self._weights.spec):
                    maps.setdefault(role, LoraMap()).add(a, b)
                continue
            for target in of(module, adapter):
                self._check_shape(module, target, (pair.b.shape[0], pair.a.shape[1]))
                self._add_pair(target, pair.a, pair.b, pair.bias)
        for module, pair in tensors.embeddings.items():
            for target in of(module, adapter, "embeddings"):
                self._check_shape(module, target, (pair.a.shape[1], pair.b.shape[0]))
                self._add_pair(target, _with_columns(pair.a, self._rows), pair.b, None)

    def _check_shape(self, module: str, target: _LoraTarget, shape: tuple[int, ...]) -> None:
        """Refuse another shape than the model's; embeddings and head may have their own rows."""
        there = target.tensor.whole_shape
        fits = shape == there if target.layer is not None else shape[1:] == there[1:]
        if not fits:
            raise AdapterError(
                f"The adapter {self._adapter.path} changes {module} as a matrix of shape "
                f"{list(shape)}, but in the model it has shape {list(there)}. It may belong to "
                "another model."
            )
        if target.layer is None and shape[0] > self._rows:
            raise AdapterError(
                f"The adapter {self._adapter.path} has {shape[0]:,} tokens in {module}, and this "
                f"engine was started with {self._rows:,}: name the adapter in adapter_name_or_path, "
                "so that there is room for its tokens."
            )

    def _map_of(self, target: _LoraTarget) -> LoraMap:
        """What there is for a target so far."""
        layer, result = target.layer, self._result
        maps = result.tables if layer is None else result.layers[layer]
        return maps.setdefault(target.tensor.role, LoraMap())

    def _replace(self, role: str, module: str, target: _LoraTarget, matrix: Matrix) -> None:
        """Take over a whole matrix, and forget what was added to the one before."""
        self._check_shape(module, target, matrix.shape)
        if role not in self._weights.tensors:  # a reward model has no head
            return
        result = self._result
        result.tables.pop(role, None)
        result.replacements.pop(role, None)
        if role == "head":
            result.vocabulary = len(matrix)
        if not _begins(self._weights.tensors[role], matrix, self._weights.vocabulary):
            result.replacements[role] = _with_rows(matrix, self._rows)

    def _add_pair(self, target: _LoraTarget, a: Floats, b: Floats, bias: Floats | None) -> None:
        """Take over a pair, or the part of it that belongs to a part of a fused tensor."""
        if target.tensor.role not in self._weights.tensors and target.layer is None:
            return
        if target.tensor.columns:
            a = np.concatenate([a[:, first:end] for first, end in target.tensor.columns], axis=1)
        if target.tensor.role == "head":
            self._result.vocabulary = max(self._result.vocabulary, len(b))
            b = _with_rows(b, self._rows)
            bias = None if bias is None else _with_rows(bias, self._rows)
        b = take_rows(b, target.tensor.rows)
        bias = None if bias is None else take_rows(bias, target.tensor.rows)
        if LoraPair(a, b, bias).is_zero:
            return
        if target.tensor.turned:  # (b @ a).T is a.T @ b.T
            a, b = np.ascontiguousarray(b.T), a.T
        lora_map = self._map_of(target)
        lora_map.add(a, b)
        if bias is not None:
            lora_map.bias = bias if lora_map.bias is None else lora_map.bias + bias

    def _layer_of_experts(self, module: str) -> int | None:
        """The layer whose experts the pair of a module changes all at once; None if it does not."""
        assert self._adapter.config is not None
        if self._adapter.config.parameter_of(module) is None:
            return None
        return layer_of_experts(self._weights.spec, module)

    def _set_bias(self, target: _LoraTarget, values: Floats) -> None:
        """Take over the difference of a bias, which replaces the model's, from the model's own."""
        tensor = target.tensor
        if tensor.rows and values.shape == tensor.whole_shape[:1]:
            values = take_rows(values, tensor.rows)
        weights = self._weights
        tensors: Mapping[str, Floats] = (
            weights.tensors if target.layer is None else weights.layers[target.layer]
        )
        own = tensors.get(f"{tensor.role}_bias")
        if own is None or own.shape != values.shape:
            raise AdapterError(
                f"The adapter {self._adapter.path} has a bias of shape {list(values.shape)} for "
                f"{tensor.name.removesuffix('.weight')}, and in the model it "
                f"{'has none' if own is None else f'is of shape {list(own.shape)}'}. It may belong "
                "to another model."
            )
        self._map_of(target).bias = values - own


def _begins(own: Tensor, matrix: Matrix, vocabulary: int) -> bool:
    """Whether a whole matrix of the adapter is the beginning of the model's own."""
    if not isinstance(own, np.ndarray) or matrix.dtype != own.dtype or len(matrix) > vocabulary:
        return False
    return np.array_equal(matrix, own[: len(matrix)])


def _with_rows(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """The values with zeros after the last row, if there are fewer rows."""
    missing = [(0, rows - len(values))] + [(0, 0)] * (values.ndim - 1)
    return values if len(values) == rows else np.pad(values, missing)


def _with_columns(values: Floats, columns: int) -> Floats:
    return np.ascontiguousarray(_with_rows(values.T, columns).T)


# ---- packing


class CpuAdapter:
    """One adapter as the compiled step reads it. Never changed. Satisfies `LoadedAdapter`."""

    def __init__(self, weights: LoraWeights) -> None:
        kernel_address("lora")  # compiled here, in the thread that loads, and not in a step
        self.number = weights.adapter.number
        self.vocabulary = weights.vocabulary
        self.largest_rank = 0
        self.mask = 0  # of the entries that it has: see `LoraBatch.mask`
        self.head: LinearMap | None = None  # its own head
        self._arrays: list[NDArray[Any]] = []  # all that the structs have the address of
        # By where their originals lie, which `weights` keeps: heads of latent attention share a matrix.
        self._copies: dict[tuple[Any, ...], NDArray[Any]] = {}
        self.struct = LoraAdapter()
        count = layout.FIRST_LAYER_ENTRY + layout.LORA_MAPS * len(weights.layers)
        self.struct.entries = Structs(LoraEntry, count)
        self._fill_global(weights)
        for layer, maps in enumerate(weights.layers):
            for index, role in enumerate(LINEARS):
                if role in maps and not maps[role].is_empty:
                    entry = layout.FIRST_LAYER_ENTRY + layout.LORA_MAPS * layer + index
                    self._fill_entry(entry, maps[role])
        self.has_inner = any(is_inner(role) for maps in weights.layers for role in maps)
        if self.has_inner:
            kernel_address("lora_inner")
            self._fill_inner(weights)

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(array.nbytes for array in self._arrays)

    def _keep(self, array: NDArray[Any]) -> NDArray[Any]:
        """An aligned copy of an array, which is kept."""
        aligned = aligned_zeros(array.shape, array.dtype)
        aligned[...] = array
        self._arrays.append(aligned)
        return aligned

    def _copy(
        self, array: Floats, ordered: Callable[[Floats], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """A copy in another order, which is kept; the one that there is, if this is not the first."""
        key = (array.ctypes.data, array.shape, array.strides, ordered)
        if key not in self._copies:
            self._copies[key] = self._keep(ordered(array))
        return self._copies[key]

    def _fill_global(self, weights: LoraWeights) -> None:
        """Enter what the adapter has for embeddings and head."""
        embeddings = weights.replacements.get("embeddings")
        if embeddings is not None:
            self.struct.embeddings = address_of(self._keep(embeddings))
            self.struct.is_bfloat16 = is_bfloat16(embeddings)
        head = weights.replacements.get("head")
        if head is not None:
            bias = weights.head_bias
            self.head = make_map(self._keep(head), None if bias is None else self._keep(bias))
        if "embeddings" in weights.tables:
            table = weights.tables["embeddings"]
            self._fill_entry(layout.EMBEDDINGS_ENTRY, table, transposed=True)
        if "head" in weights.tables:
            self._fill_entry(layout.HEAD_ENTRY, weights.tables["head"])

    def _fill_inner(self, weights: LoraWeights) -> None:
        """Enter the maps of sparse FFNs, and of heads of latent attention."""
        experts, heads = weights.experts, weights.heads
        of_layer = layout.inner_entries(experts, heads)
        entries = Structs(LoraEntry, of_layer * len(weights.layers))
        self.struct.inner_entries = entries
        for layer, maps in enumerate(weights.layers):
            for role, lora_map in maps.items():
                if not is_inner(role) or lora_map.is_empty:
                    continue
                index = (
                    layout.head_entry(role, experts, heads)
                    if is_head_map(role)
                    else layout.expert_entry(role)
                )
                self._fill(entries[layer * of_layer + index], lora_map)

    def _fill_entry(self, index: int, lora_map: LoraMap, *, transposed: bool = False) -> None:
        """Enter one map. `transposed` keeps a as a table with a row for each token."""
        self._fill(self.struct.entries[index], lora_map, transposed=transposed)
        of_layer = index - layout.FIRST_LAYER_ENTRY
        bit = index
        if of_layer >= 0:
            bit = layout.FIRST_LAYER_ENTRY + of_layer % layout.LORA_MAPS
        self.mask |= 1 << bit

    def _fill(self, entry: LoraEntry, lora_map: LoraMap, *, transposed: bool = False) -> None:
        if lora_map.a is not None and lora_map.b is not None:
            a = self._copy(lora_map.a, np.transpose if transposed else np.asarray)
            entry.a = make_map(a)
            entry.a.columns = lora_map.rank
            entry.b = address_of(self._copy(lora_map.b, panels_of))
            self.largest_rank = max(self.largest_rank, lora_map.rank)
        if lora_map.bias is not None:
            entry.bias = address_of(self._keep(lora_map.bias))


def panels_of(b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rank, columns) as (panels, rank, LORA_PANEL), with zeros after the last column."""
    rank, columns = b.shape
    count = -(-columns // LORA_PANEL)
    padded = np.zeros((rank, count * LORA_PANEL), np.float32)
    padded[:, :columns] = b
    return np.ascontiguousarray(padded.reshape(rank, count, LORA_PANEL).transpose(1, 0, 2))
