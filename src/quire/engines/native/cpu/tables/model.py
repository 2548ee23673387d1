"""A model's program with the arguments of all its operations, and the scratch memory of a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.cpu.compiler.structs import Struct, Structs
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.layout import scratch_floats, tiles_needed
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.memory.kv_cache import KvCache
from quire.engines.native.cpu.memory.states import StateCache
from quire.engines.native.cpu.program.arguments import (
    Angles,
    Head,
    Instruction,
    LayerMedia,
    QueryFactors,
    Step,
    TokenEmbeddings,
)
from quire.engines.native.cpu.program.decoder import ATTEND, Operation, decoder_program, num_phases
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.tables.altup import altup, altup_end, altup_start, laurel
from quire.engines.native.cpu.tables.attention import attention, projection
from quire.engines.native.cpu.tables.delta_net import delta_net
from quire.engines.native.cpu.tables.ffn import ExpertScratch, dense_ffn, sparse_ffn
from quire.engines.native.cpu.tables.latent_attention import latent_attention
from quire.engines.native.cpu.tables.layer_inputs import layer_gate, layer_inputs
from quire.engines.native.cpu.tables.maps import layer_norm_of, linear_map, norm_of, output_of
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.tables.recurrent import mamba2, short_conv
from quire.engines.native.cpu.weights.blocks import PackedBlocks
from quire.engines.native.cpu.weights.decoder import TABLES, Weights, embedding_scale
from quire.engines.native.cpu.weights.linear_map import (
    address_of,
    is_bfloat16,
    kernels_for,
    make_map,
)
from quire.engines.native.cpu.weights.packed import PackedMatrix
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.spec import DecoderSpec

_SECOND_HALVES = {
    "dense_down": ("dense_gate", "dense_up"),
    "dense_beside": ("dense_gate",),
    "layer_out": ("layer_gate",),
    "altup_out": ("layer_gate",),
    "altup_correct": ("altup_predict",),
    "cut_gate": ("dense_gate",),
    "experts_in": ("route",),
    "add_experts": ("route",),
    "delta_rule": ("project_delta",),
    "delta_gates": ("project_delta",),
    "kimi_delta_rule": ("project_delta",),
    "latent_queries": ("latent_project",),
    "latent_values": ("latent_project",),
}
"""Operations with the arguments of an earlier one in the same layer."""


_Fill: TypeAlias = Callable[[Weights, int, LayerMemory], Struct]
_LAYERS: dict[str, _Fill] = {
    "latent_project": latent_attention,
    "project": projection,
    ATTEND: attention,
    "project_delta": delta_net,
    "short_conv": short_conv,
    "mamba2": mamba2,
    "mamba2_output": lambda weights, layer, _: output_of(weights, layer, "ssm_o", None),
    "attention_output": lambda weights, layer, _: output_of(
        weights, layer, "o", layer_norm_of(weights, layer, "post_attention_norm")
    ),
    "dense_gate": lambda weights, layer, _: dense_ffn(weights, layer),
    "dense_up": lambda weights, layer, _: dense_ffn(weights, layer),
    "add_media": lambda _, layer, __: _layer_media(layer),
    "altup_predict": lambda weights, layer, _: altup(weights, layer),
    "laurel": lambda weights, layer, _: laurel(weights, layer),
    "layer_gate": lambda weights, layer, _: layer_gate(weights, layer),
    "experts_out": lambda weights, layer, _: output_of(weights, layer, "latent_out", None),
    "route": lambda weights, layer, memory: sparse_ffn(weights, layer, memory.expert_scratch),
}
"""What fills the arguments of a layer's operations; the others have those of the one before."""


def _layer_media(layer: int) -> LayerMedia:
    made = LayerMedia()
    made.layer = layer
    return made


def scratch_widths(spec: DecoderSpec) -> dict[str, int]:
    """The columns that a step needs of each of its arrays of activations."""
    widths = {"residual": spec.hidden_size, "normed": spec.hidden_size}
    widths["gate"] = widths["up"] = spec.ffn_width
    if spec.layer_inputs:
        widths["layer_inputs"] = spec.num_layers * spec.layer_inputs.size
    if spec.altup or any(layer.experts and layer.ffn for layer in spec.layers):
        widths["beside"] = spec.hidden_size
    if spec.experts and spec.experts.latent_size:
        widths["latents"] = spec.experts.latent_size
    if spec.altup:
        widths["streams"] = spec.altup.streams * spec.hidden_size
        # The maps of the last operation leave what they make there.
        widths["gate"] = max(widths["gate"], (spec.altup.streams - 1) * spec.hidden_size)
    for mixer in _mixers(spec):
        needed = {**mixer.widths, "attention_out": mixer.out_size}
        needed.pop("scratch", None)
        for field, columns in needed.items():
            widths[field] = max(widths.get(field, 0), columns)
    return widths


def _mixers(spec: DecoderSpec) -> list[TokenMixer]:
    return [layer.mixer for layer in spec.layers if layer.mixer]


def kernels_of(weights: Weights, kv_kind: int) -> set[str]:
    """The names of all kernels that a step of a model runs."""
    tables = [weights.tensors.get(role) for role in ("positions", "layer_embeddings")]
    matrices = (  # without those that nothing multiplies with
        one
        for one in weights.all_tensors()
        if len(one.shape) == 2 and not any(one is table for table in tables)
    )
    operations = {one.kernel for one in decoder_program(weights.spec, kv_kind)}
    found = (weights.tensors.get(role) for role in TABLES)
    readers = {one.reader for one in found if isinstance(one, PackedBlocks)}
    norms = {"layer_norm"} if weights.spec.final_norm.kind == "layer" else set[str]()
    return {"step", *operations, *readers, *norms}.union(*map(kernels_for, matrices))


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
        states: StateCache,
        *,
        max_rows: int,
        num_threads: int,
    ) -> None:
        self._step = step
        step.kv_kind = cache.kind
        step.k_run, step.v_run = cache.run_bytes
        step.state_stride = states.stride
        self._max_rows, self._num_threads = max_rows, num_threads
        self._scratch: list[NDArray[Any]] = []
        self._program = program
        self.angles = {rope: Angles() for rope in weights.spec.ropes}
        """By rotary embedding and the size of the heads that it rotates."""
        self.query_factors = QueryFactors()
        experts = weights.spec.experts
        routing = ExpertScratch(experts, max_rows) if experts else None
        self._memory: LayerMemory | None = LayerMemory(
            step, self.angles, self.query_factors, cache, states, routing
        )
        self._fill_scratch(weights)
        self.use(weights)
        self.has_head = "head" in weights.tensors

    def use(self, weights: Weights) -> None:
        """Compute with these weights: those of the start, or a copy of the same in other memory."""
        self._weights: Weights | None = weights
        spec, step = weights.spec, self._step
        step.hidden, step.vocab = spec.hidden_size, spec.vocab_size
        step.residual_scale = spec.residual_scale
        if self._memory is not None:
            self._memory.arrays.clear()
        self._arguments = self._all_arguments(weights)
        self._whole = self._instructions(self._program)
        self._head = self._instructions(self._program[-1:])
        self.choose_program(head_alone=False)

    def _instructions(self, program: Sequence[Operation]) -> Structs[Instruction]:
        made = Structs(Instruction, len(program))
        for instruction, one in zip(made, program, strict=True):
            instruction.kernel, instruction.phase = kernel_address(one.kernel), one.phase
            instruction.arguments = self._arguments[one.kernel, one.layer].address
        return made

    def choose_program(self, *, head_alone: bool) -> None:
        """Let the next step run the whole program, or its last operation on what the last step left."""
        program = self._head if head_alone else self._whole
        self._step.program, self._step.program_length = program, len(program)

    def _all_arguments(self, weights: Weights) -> dict[tuple[str, int | None], Struct]:
        """The arguments of each operation, by its kernel and layer."""
        made: dict[tuple[str, int | None], Struct] = {}
        for one in self._program:
            halves = ((first, one.layer) for first in _SECOND_HALVES.get(one.kernel, ()))
            shared = next((made[half] for half in halves if half in made), None)
            made[one.kernel, one.layer] = shared or self._arguments_of(one, weights)
        return made

    def _arguments_of(self, operation: Operation, weights: Weights) -> Struct:
        kernel, layer = operation.kernel, operation.layer
        if layer is None:
            return _GLOBAL[kernel](weights)
        assert self._memory is not None
        name = ATTEND if kernel.startswith(ATTEND + "_") else kernel
        return _LAYERS[name](weights, layer, self._memory)

    # ---- scratch memory

    def _fill_scratch(self, weights: Weights) -> None:
        spec, rows = weights.spec, self._max_rows
        widths = scratch_widths(spec)
        self.normed = self._add_scratch("normed", aligned_zeros((rows, widths.pop("normed"))))
        for field, columns in widths.items():
            self._add_scratch(field, aligned_zeros((rows, columns)))
        mixers = _mixers(spec)
        shapes = [one.shape for one in mixers if one.shape]
        group = self._step.group = max((shape.group for shape in shapes), default=1)
        floats = scratch_floats(
            group,
            max((shape.head_dim for shape in shapes), default=0),
            max((shape.value_dim for shape in shapes), default=0),
            max(
                spec.hidden_size,
                spec.layer_inputs.size if spec.layer_inputs else 0,
                spec.experts.latent_size if spec.experts else 0,
                *(one.widths.get("scratch", 0) for one in mixers),
            ),
        )
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
        self._memory = None
        self.normed, self.counters = self.normed[:0].copy(), self.counters[:0].copy()

    def _add_scratch(self, field: str, array: NDArray[Any]) -> NDArray[Any]:
        self._scratch.append(array)
        setattr(self._step, field, address_of(array))
        return array


def _embeddings(weights: Weights) -> TokenEmbeddings:
    made, table = TokenEmbeddings(), weights.tensors["embeddings"]
    if isinstance(table, np.ndarray):
        made.table, made.is_bfloat16 = address_of(table), is_bfloat16(table)
    else:
        made.packed, made.reader = make_map(table), kernel_address(table.reader)
    made.scale = float(embedding_scale(weights))
    made.positions = address_of(weights.tensors.get("positions"))
    if weights.spec.embeddings.norm:
        made.norm = norm_of(weights.spec.embeddings.norm, weights.tensors, "embedding_norm")
    return made


def _head(weights: Weights) -> Head:
    made = Head()
    made.norm = norm_of(weights.spec.final_norm, weights.tensors, "final_norm")
    if "head" in weights.tensors:  # a reward model has none
        made.linear = linear_map(weights.tensors, "head")
    made.scale, made.cap = weights.spec.head.scale, weights.spec.head.cap
    return made


_GLOBAL: dict[str, Callable[[Weights], Struct]] = {
    "embed": _embeddings,
    "layer_inputs": layer_inputs,
    "altup_start": altup_start,
    "altup_end": altup_end,
    "logits": _head,
}
"""What fills the arguments of the operations that are of no layer."""


def _quantized_row_bytes(weights: Weights) -> int:
    """Bytes of a quantised row of the widest input; a cache line if no map is quantised."""
    tensors = weights.all_tensors()
    sizes = [one.row_bytes for one in tensors if isinstance(one, PackedMatrix | PackedBlocks)]
    return max(sizes, default=layout.LINE)
