"""Fills the arguments of a step's operations: the model's, its layers', scratch memory, angles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.compiler.structs import Struct, Structs
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.arguments import Experts, LinearMap
from quire.engines.native.cpu.kernels.layout import scratch_floats, tiles_needed
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.memory.kv_cache import KvCache
from quire.engines.native.cpu.program.arguments import (
    Angles,
    Attention,
    DenseFfn,
    Head,
    Instruction,
    Output,
    Projection,
    Step,
    TokenEmbeddings,
)
from quire.engines.native.cpu.program.decoder import Operation, decoder_program, num_phases
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.decoder import Weights, embedding_scale
from quire.engines.native.cpu.weights.linear_map import (
    address_of,
    fill_map,
    is_bfloat16,
    kernels_for,
    make_map,
)
from quire.engines.native.cpu.weights.packed import Tensor
from quire.engines.native.models.rope import cosines_and_sines, inverse_frequencies, mrope_angles
from quire.engines.native.models.spec import DecoderSpec, ExpertsSpec, RopeSpec

_ACTIVATIONS = {"silu": layout.SILU, "gelu_tanh": layout.GELU_TANH}
_SECOND_HALVES = {"dense_down": "dense_gate", "add_experts": "route"}
"""Operations with the arguments of the one before them."""
FIRST_ANGLES = 1024
"""Positions whose angles are computed at the start; the others when a batch first needs them."""


def kernels_of(weights: Weights, kv_kind: int) -> set[str]:
    """The names of all kernels that a step of a model runs."""
    matrices = (one for one in weights.all_tensors() if len(one.shape) == 2)
    operations = {one.kernel for one in decoder_program(weights.spec, kv_kind)}
    table = weights.tensors["embeddings"]
    reader = set() if isinstance(table, np.ndarray) else {table.reader}
    return {"step", *operations, *reader}.union(*map(kernels_for, matrices))


# ---- the model


class ModelTables:
    """What a step is told of the model: its program with all arguments, and scratch memory.

    Compiled code sees nothing but addresses, so this object keeps every array alive whose address is
    in a struct.
    """

    def __init__(
        self,
        step: Step,
        program: Sequence[Operation],
        weights: Weights,
        cache: KvCache,
        *,
        max_rows: int,
        num_threads: int,
    ) -> None:
        self._step, self._cache = step, cache
        self._max_rows, self._num_threads = max_rows, num_threads
        self._scratch: list[NDArray[Any]] = []
        self._expert_scratch: ExpertScratch | None = None
        self._program = program
        self.angles, self.local_angles = Angles(), Angles()
        self._fill_scratch(weights)
        self.use(weights)
        self.has_head = "head" in weights.tensors

    def use(self, weights: Weights) -> None:
        """Compute with these weights: those of the start, or a copy of the same in other memory."""
        self._weights: Weights | None = weights
        spec, step = weights.spec, self._step
        step.hidden, step.vocab = spec.hidden_size, spec.vocab_size
        step.heads, step.kv_heads = spec.num_heads, spec.num_kv_heads
        step.head_dim, step.kv_kind = spec.head_dim, self._cache.kind
        step.eps, step.residual_scale = spec.norm_eps, spec.residual_scale
        self._arguments = self._all_arguments(weights)
        instructions = Structs(Instruction, len(self._program))
        for instruction, one in zip(instructions, self._program, strict=True):
            instruction.kernel, instruction.phase = kernel_address(one.kernel), one.phase
            instruction.arguments = self._arguments[one.kernel, one.layer].address
        step.program, step.program_length = instructions, len(instructions)

    def _all_arguments(self, weights: Weights) -> dict[tuple[str, int | None], Struct]:
        """The arguments of each operation, by its kernel and layer."""
        made: dict[tuple[str, int | None], Struct] = {}
        for one in self._program:
            first = _SECOND_HALVES.get(one.kernel)
            shared = made[first, one.layer] if first else None
            made[one.kernel, one.layer] = shared or self._arguments_of(one, weights)
        return made

    def _arguments_of(self, operation: Operation, weights: Weights) -> Struct:
        kernel, layer = operation.kernel, operation.layer
        if layer is None:
            return _head(weights) if kernel == "logits" else _embeddings(weights)
        if kernel == "project":
            return self._projection(weights, layer)
        if kernel == "attention_output":
            return _output(weights, layer, "o", "post_attention_norm")
        if kernel == "dense_gate":
            return _dense_ffn(weights, layer)
        if kernel == "route":
            return self._experts(weights, layer)
        assert kernel.startswith("attend_"), kernel
        return self._attention(weights.spec, layer)

    def _projection(self, weights: Weights, layer: int) -> Projection:
        spec, tensors, made = weights.spec, weights.layers[layer], Projection()
        made.norm = address_of(tensors.get("attention_norm"))
        made.q, made.k, made.v = (_linear_map(tensors, role) for role in ("q", "k", "v"))
        made.q_norm = address_of(tensors.get("q_norm"))
        made.k_norm = address_of(tensors.get("k_norm"))
        made.norms_widths = spec.width_norms
        rope = spec.rope_of(layer)
        if rope is not None:
            made.angles = self.local_angles if rope is spec.local_rope else self.angles
        made.rotary_dim, made.is_interleaved = spec.rotary_dim, spec.interleaved_rope
        made.scale = spec.attention_scale
        made.k_cache, made.v_cache = map(address_of, self._cache.layer_arrays(layer))
        made.entry = _lora_entry(layer, "q")
        return made

    def _attention(self, spec: DecoderSpec, layer: int) -> Attention:
        made = Attention()
        made.k_cache, made.v_cache = map(address_of, self._cache.layer_arrays(layer))
        made.window, made.cap = spec.windows[layer], spec.attention_cap
        return made

    def _experts(self, weights: Weights, layer: int) -> Experts:
        spec, tensors = weights.spec, weights.layers[layer]
        assert spec.experts is not None
        if self._expert_scratch is None:
            self._expert_scratch = ExpertScratch(spec.experts, self._max_rows)
        made = make_experts(spec.experts, tensors, self._expert_scratch)
        made.norm = address_of(tensors.get("ffn_norm"))
        made.activation = _ACTIVATIONS[spec.activation]
        return made

    # ---- scratch memory

    def _fill_scratch(self, weights: Weights) -> None:
        spec, rows = weights.spec, self._max_rows
        for field, columns in (
            ("residual", spec.hidden_size),
            ("queries", spec.q_size),
            ("keys", spec.kv_size),
            ("values", spec.kv_size),
            ("attention_out", spec.q_size),
            ("gate", spec.ffn_width),
            ("up", spec.ffn_width),
        ):
            self._add_scratch(field, aligned_zeros((rows, columns)))
        self.normed = self._add_scratch("normed", aligned_zeros((rows, spec.hidden_size)))
        group = spec.num_heads // spec.num_kv_heads
        floats = scratch_floats(group, spec.head_dim, spec.hidden_size)
        # Quantised rows follow at a cache line, and so does the scratch of the next thread.
        floats, row_bytes = -(-floats // 16) * 16, _quantized_row_bytes(weights)
        own = aligned_zeros((self._num_threads, floats + layout.SCRATCH_ROWS * row_bytes // 4))
        self._add_scratch("scratch", own)
        self._step.scratch_bytes, self._step.scratch_quantized = own.strides[0], 4 * floats
        self._add_scratch("quantized", aligned_zeros((rows, row_bytes), np.uint8))
        # A sequence has at least one row, so there are at most as many sequences as rows.
        tiles = np.zeros((tiles_needed(rows, rows, group), 3), np.int64)
        self._add_scratch("tiles", tiles)
        counters = aligned_zeros((num_phases(self._program) * layout.PHASE_BYTES // 8,), np.int64)
        self.counters = self._add_scratch("counters", counters)

    def free(self) -> None:
        """Let go of the weights and the scratch memory. No step may run after it."""
        self._weights = None
        self._scratch.clear()
        self._arguments.clear()
        self._expert_scratch = None
        self.normed, self.counters = self.normed[:0].copy(), self.counters[:0].copy()

    def _add_scratch(self, field: str, array: NDArray[Any]) -> NDArray[Any]:
        self._scratch.append(array)
        setattr(self._step, field, address_of(array))
        return array


def _linear_map(tensors: Mapping[str, Any], role: str) -> LinearMap:
    return make_map(tensors[role], tensors.get(f"{role}_bias"))


def _lora_entry(layer: int, role: str) -> int:
    """The index of the entry that adapters have for a linear map."""
    index = layer * layout.LORA_MAPS + layout.LINEARS.index(role)
    return layout.FIRST_LAYER_ENTRY + index


def _embeddings(weights: Weights) -> TokenEmbeddings:
    made, table = TokenEmbeddings(), weights.tensors["embeddings"]
    if isinstance(table, np.ndarray):
        made.table, made.is_bfloat16 = address_of(table), is_bfloat16(table)
    else:
        made.packed, made.reader = make_map(table), kernel_address(table.reader)
    made.scale = float(embedding_scale(weights))
    return made


def _output(weights: Weights, layer: int, role: str, post_norm: str) -> Output:
    tensors, made = weights.layers[layer], Output()
    made.linear = _linear_map(tensors, role)
    made.post_norm = address_of(tensors.get(post_norm))
    made.entry = _lora_entry(layer, role)
    return made


def _dense_ffn(weights: Weights, layer: int) -> DenseFfn:
    tensors, made = weights.layers[layer], DenseFfn()
    made.norm = address_of(tensors.get("ffn_norm"))
    made.gate, made.up = _linear_map(tensors, "gate"), _linear_map(tensors, "up")
    made.activation = _ACTIVATIONS[weights.spec.activation]
    made.gate_entry = _lora_entry(layer, "gate")
    made.down = _output(weights, layer, "down", "post_ffn_norm")
    return made


def _head(weights: Weights) -> Head:
    made = Head()
    made.norm = address_of(weights.tensors["final_norm"])
    if "head" in weights.tensors:  # a reward model has none
        made.linear = _linear_map(weights.tensors, "head")
    made.scale, made.cap = weights.spec.logits_scale, weights.spec.logits_cap
    return made


def _quantized_row_bytes(weights: Weights) -> int:
    """Bytes of a quantised row of the widest input; a cache line if no map is quantised."""
    tensors = weights.all_tensors()
    sizes = [one.row_bytes for one in tensors if not isinstance(one, np.ndarray)]
    return max(sizes, default=layout.LINE)


# ---- experts


class ExpertScratch:
    """What routing writes for a batch of at most `rows` rows. The layers use it one at a time."""

    def __init__(self, spec: ExpertsSpec, rows: int) -> None:
        chosen, grouped = (rows, spec.per_token), rows * (spec.per_token + 1)
        self.arrays: dict[str, NDArray[Any]] = {
            "router_scores": np.zeros((rows, spec.count), np.float32),
            "shared_scores": np.zeros(rows, np.float32),
            "chosen": np.zeros(chosen, np.int32),
            "chosen_weights": np.zeros(chosen, np.float32),
            "starts": np.zeros(spec.count + 2, np.int64),
            "grouped_rows": np.zeros(grouped, np.int32),
            "grouped_weights": np.zeros(grouped, np.float32),
        }
        """By the fields of `Experts`."""


def make_experts(
    spec: ExpertsSpec, tensors: Mapping[str, Tensor], scratch: ExpertScratch
) -> Experts:
    """The experts of one layer. Tensors and scratch must live as long as they are in use."""
    made = Experts()
    made.count, made.all = spec.count, spec.count + bool(spec.shared_size)
    made.per_token, made.is_normalised = spec.per_token, spec.normalised
    made.ffn = spec.ffn_size
    made.router = _linear_map(tensors, "router")
    if spec.shared_size:
        made.shared_score = _linear_map(tensors, "shared_score")
    roles = [f"experts.{i}.{role}" for i in range(made.all) for role in ("gate", "up", "down")]
    made.maps = Structs(LinearMap, len(roles))
    for linear_map, role in zip(made.maps, roles, strict=True):
        fill_map(linear_map, tensors[role])
    for field, array in scratch.arrays.items():
        setattr(made, field, address_of(array))
    return made


def expert_scratch_bytes(spec: ExpertsSpec, rows: int) -> int:
    """Bytes of `ExpertScratch`, without the few that do not grow with the rows."""
    return 4 * rows * (spec.count + 1 + 4 * spec.per_token + 2)


# ---- rotary embedding


class RotaryTables:
    """The cosines and sines of positions, and which of them each row of a batch uses.

    They grow with the longest context seen: those of all positions that a model knows would take
    hundreds of megabytes for some models.
    """

    def __init__(
        self, step: Step, model: ModelTables, spec: DecoderSpec, max_model_len: int
    ) -> None:
        self._step, self._spec, self._max_model_len = step, spec, max_model_len
        self._global = model.angles
        self._ropes = [(spec.rope, model.angles), (spec.local_rope, model.local_angles)]
        self._tables: dict[int, tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        self._batch: tuple[NDArray[Any], ...] = ()  # what a batch brought
        self.has_batch = False
        """Whether the step is told of what an earlier batch brought."""
        self.length = 0
        """The number of positions that have angles."""
        self.extend(min(FIRST_ANGLES, max_model_len))
        self._reset()

    def extend(self, needed: int) -> None:
        """Have angles of at least `needed` positions. Twice as many as before, so that it is rare."""
        length = max(needed, min(self._max_model_len, 2 * self.length))
        for index, (rope, angles) in enumerate(self._ropes):
            if rope is not None:
                self._tables[index] = self._table(rope, length)
                angles.cosines, angles.sines = map(address_of, self._tables[index])
        self.length = length

    def _table(self, rope: RopeSpec, length: int) -> tuple[NDArray[Any], NDArray[Any]]:
        frequencies, scale = inverse_frequencies(rope, self._spec.head_dim, self._max_model_len)
        cosines, sines = cosines_and_sines(frequencies, scale, length)
        return np.ascontiguousarray(cosines), np.ascontiguousarray(sines)

    def fill(self, batch: Batch) -> None:
        """Take over the positions in time, height and width of a batch for M-RoPE, if it has some.

        If a row's three positions differ, its angles are a mixture of three rows of the tables. Then
        the batch gets tables of its own, with one row of angles for each row: so the kernels need
        not know about M-RoPE.
        """
        self._reset()
        positions = batch.rope_positions
        if positions is None:
            return
        needed = int(positions.max(initial=0)) + 1
        if needed > self.length:
            self.extend(needed)
        if (positions == positions[0]).all():
            index = np.ascontiguousarray(positions[0], np.int32)
            self._batch = (index,)
        else:
            cosines, sines = (
                mrope_angles(table, positions, self._spec.rope) for table in self._tables[0]
            )
            index = np.arange(batch.num_rows, dtype=np.int32)
            self._batch = (index, cosines, sines)
            self._global.cosines, self._global.sines = address_of(cosines), address_of(sines)
        self.has_batch = True
        self._step.rope_positions = address_of(index)

    def _reset(self) -> None:
        """Point to the model's own tables again, and to the positions in the batch."""
        self._global.cosines, self._global.sines = map(address_of, self._tables[0])
        self._step.rope_positions = self._step.positions
        self._batch, self.has_batch = (), False
