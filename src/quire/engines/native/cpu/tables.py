"""Python's side of `kernels.layout`: fills the tables of the model, its layers, experts and angles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.layout import num_phases, scratch_floats, tiles_needed
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.memory.kv_cache import KvCache
from quire.engines.native.cpu.program.decoder import decoder_program
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.decoder import Weights, embedding_scale
from quire.engines.native.cpu.weights.linear_map import (
    address_of,
    is_bfloat16,
    linear_kernel,
    map_words,
    set_float,
)
from quire.engines.native.cpu.weights.packed import PackedMatrix, Tensor
from quire.engines.native.models.rope import cosines_and_sines, inverse_frequencies, mrope_angles
from quire.engines.native.models.spec import DecoderSpec, ExpertsSpec

_ACTIVATIONS = {"silu": layout.SILU, "gelu_tanh": layout.GELU_TANH}
_NORMS = {
    layout.ATTENTION_NORM: "attention_norm",
    layout.FFN_NORM: "ffn_norm",
    layout.Q_NORM: "q_norm",
    layout.K_NORM: "k_norm",
    layout.POST_ATTENTION_NORM: "post_attention_norm",
    layout.POST_FFN_NORM: "post_ffn_norm",
}
FIRST_ANGLES = 1024
"""Positions whose angles are computed at the start; the others when a batch first needs them."""


def kernels_of(weights: Weights, kv_kind: int) -> set[str]:
    """The names of all kernels that a step of a model runs."""
    matrices = (one for one in weights.all_tensors() if len(one.shape) == 2)
    operations = {one.kernel for one in decoder_program(weights.spec, kv_kind)}
    return {"step", *operations, *map(linear_kernel, matrices)}


# ---- the model


class ModelTables:
    """What the runner's table says of the model, and all that it points to.

    `table` is the runner's. Compiled code sees nothing but addresses, so this object keeps every
    array alive whose address is in a table.
    """

    def __init__(
        self,
        table: NDArray[np.int64],
        weights: Weights,
        cache: KvCache,
        *,
        max_rows: int,
        num_threads: int,
    ) -> None:
        self._table, self._cache = table, cache
        self._max_rows, self._num_threads = max_rows, num_threads
        self._scratch: list[NDArray[Any]] = []
        self.use(weights)
        self._fill_scratch(weights)

    def use(self, weights: Weights) -> None:
        """Compute with these weights: those of the start, or a copy of the same in other memory."""
        self._weights: Weights | None = weights
        self._maps: list[NDArray[np.int64]] = []
        self._experts: list[ExpertTable] = []
        self._layers = self._layer_table(weights)
        self._fill_sizes(weights)
        tensors, table = weights.tensors, self._table
        table[layout.LAYER_TABLE] = self._layers.ctypes.data
        table[layout.EMBEDDINGS] = address_of(tensors["embeddings"])
        table[layout.EMBEDDINGS_BFLOAT16] = is_bfloat16(tensors["embeddings"])
        table[layout.FINAL_NORM] = address_of(tensors["final_norm"])
        if "head" in tensors:  # a reward model has none
            table[layout.HEAD_MAP] = self._map(tensors["head"])
        self._program = self._operations(weights)
        table[layout.PROGRAM] = self._program.ctypes.data
        table[layout.PROGRAM_LENGTH] = len(self._program)

    def _operations(self, weights: Weights) -> NDArray[np.int64]:
        """The program of a step: OP_WORDS for each operation."""
        operations = list(decoder_program(weights.spec, self._cache.kind))
        words = np.zeros((len(operations), layout.OP_WORDS), np.int64)
        for row, one in zip(words, operations, strict=True):
            row[layout.OP_KERNEL] = kernel_address(one.kernel)
            if one.layer is not None:
                row[layout.OP_LAYER] = self._layers[one.layer].ctypes.data
            row[layout.OP_PHASE] = one.phase
        return words

    def _map(self, weight: Tensor, bias: NDArray[np.float32] | None = None) -> int:
        """Keep the words of one linear map. Returns their address."""
        self._maps.append(map_words(weight, bias))
        return self._maps[-1].ctypes.data

    def _layer_table(self, weights: Weights) -> NDArray[np.int64]:
        spec, experts = weights.spec, weights.spec.experts
        table = np.zeros((spec.num_layers, layout.LAYER_WORDS), np.int64)
        scratch = ExpertScratch(experts, self._max_rows) if experts else None
        for layer, (words, tensors) in enumerate(zip(table, weights.layers, strict=True)):
            words[layout.WINDOW] = spec.windows[layer]
            for word, role in _NORMS.items():
                words[word] = address_of(tensors.get(role))
            words[layout.ROPE] = _rope_word(spec, layer)
            keys, values = self._cache.layer_arrays(layer)
            words[layout.K_CACHE], words[layout.V_CACHE] = keys.ctypes.data, values.ctypes.data
            if scratch and experts and experts.sparse[layer]:
                self._experts.append(ExpertTable(experts, tensors, scratch))
                words[layout.EXPERTS] = self._experts[-1].address
            for i, role in enumerate(layout.LINEARS):
                if role in tensors:  # a layer with experts has no gate, up and down
                    words[layout.FIRST_LINEAR + i] = self._map(
                        tensors[role], tensors.get(f"{role}_bias")
                    )
        return table

    def _fill_sizes(self, weights: Weights) -> None:
        spec, table = weights.spec, self._table
        table[layout.LAYERS], table[layout.HIDDEN] = spec.num_layers, spec.hidden_size
        table[layout.FFN], table[layout.VOCAB] = spec.ffn_size, spec.vocab_size
        table[layout.HEADS], table[layout.KV_HEADS] = spec.num_heads, spec.num_kv_heads
        table[layout.HEAD_DIM], table[layout.KV_KIND] = spec.head_dim, self._cache.kind
        table[layout.ROTARY_DIM], table[layout.INTERLEAVED] = spec.rotary_dim, spec.interleaved_rope
        table[layout.WIDTH_NORMS] = spec.width_norms
        table[layout.ACTIVATION] = _ACTIVATIONS[spec.activation]
        for word, value in (
            (layout.EPS, spec.norm_eps),
            (layout.ATTENTION_SCALE, spec.attention_scale),
            (layout.ONE_FLOAT, 1.0),
            (layout.EMBEDDING_SCALE, float(embedding_scale(weights))),
            (layout.RESIDUAL_SCALE, spec.residual_scale),
            (layout.LOGITS_SCALE, spec.logits_scale),
            (layout.ATTENTION_CAP, spec.attention_cap),
            (layout.LOGITS_CAP, spec.logits_cap),
        ):
            set_float(table, word, value)

    # ---- scratch memory

    def _fill_scratch(self, weights: Weights) -> None:
        spec, rows = weights.spec, self._max_rows
        for word, columns in (
            (layout.RESIDUAL, spec.hidden_size),
            (layout.QUERIES, spec.q_size),
            (layout.KEYS, spec.kv_size),
            (layout.VALUES, spec.kv_size),
            (layout.ATTENTION_OUT, spec.q_size),
            (layout.GATE, spec.ffn_width),
            (layout.UP, spec.ffn_width),
        ):
            self._add_scratch(word, aligned_zeros((rows, columns)))
        self.normed = self._add_scratch(layout.NORMED, aligned_zeros((rows, spec.hidden_size)))
        group = spec.num_heads // spec.num_kv_heads
        floats = scratch_floats(group, spec.head_dim, spec.hidden_size)
        # Quantised rows follow at a cache line, and so does the scratch of the next thread.
        floats, row_bytes = -(-floats // 16) * 16, _quantized_row_bytes(weights)
        own = aligned_zeros((self._num_threads, floats + layout.SCRATCH_ROWS * row_bytes // 4))
        self._add_scratch(layout.SCRATCH, own)
        self._table[layout.SCRATCH_BYTES] = own.strides[0]
        self._table[layout.SCRATCH_QUANTIZED] = 4 * floats
        self._add_scratch(layout.QUANTIZED, aligned_zeros((rows, row_bytes), np.uint8))
        # A sequence has at least one row, so there are at most as many sequences as rows.
        tiles = np.zeros((tiles_needed(rows, rows, group), 3), np.int64)
        self._add_scratch(layout.TILES, tiles)
        counters = aligned_zeros((num_phases(spec.num_layers) * layout.PHASE_BYTES // 8,), np.int64)
        self.counters = self._add_scratch(layout.COUNTERS, counters)

    def free(self) -> None:
        """Let go of the weights and the scratch memory. No step may run after it."""
        self._weights = None
        for kept in (self._maps, self._experts, self._scratch):
            kept.clear()
        self.normed, self.counters = self.normed[:0].copy(), self.counters[:0].copy()

    def _add_scratch(self, word: int, array: NDArray[Any]) -> NDArray[Any]:
        self._scratch.append(array)
        self._table[word] = array.ctypes.data
        return array


def _rope_word(spec: DecoderSpec, layer: int) -> int:
    """Which of the tables of angles a layer uses."""
    rope = spec.rope_of(layer)
    if rope is None:
        return layout.NO_ROPE
    return layout.LOCAL_ROPE if rope is spec.local_rope else layout.GLOBAL_ROPE


def _quantized_row_bytes(weights: Weights) -> int:
    """Bytes of a quantised row of the widest input; a cache line if no map is quantised."""
    sizes = [
        layout.quantized_row_bytes(one.packed_depth, one.span)
        for one in weights.all_tensors()
        if isinstance(one, PackedMatrix)
    ]
    return max(sizes, default=layout.LINE)


# ---- experts


class ExpertScratch:
    """What routing writes for a batch of at most `rows` rows. The layers use it one at a time."""

    def __init__(self, spec: ExpertsSpec, rows: int) -> None:
        chosen, grouped = (rows, spec.per_token), rows * (spec.per_token + 1)
        self._arrays = {
            layout.ROUTER_SCORES: np.zeros((rows, spec.count), np.float32),
            layout.SHARED_SCORES: np.zeros(rows, np.float32),
            layout.CHOSEN: np.zeros(chosen, np.int32),
            layout.CHOSEN_WEIGHTS: np.zeros(chosen, np.float32),
            layout.EXPERT_STARTS: np.zeros(spec.count + 2, np.int64),
            layout.GROUPED_ROWS: np.zeros(grouped, np.int32),
            layout.GROUPED_WEIGHTS: np.zeros(grouped, np.float32),
        }

    def fill(self, words: NDArray[np.int64]) -> None:
        """Write the addresses of the arrays."""
        for word, array in self._arrays.items():
            words[word] = array.ctypes.data

    def array(self, word: int) -> NDArray[Any]:
        """The array whose address is in `word`."""
        return self._arrays[word]


class ExpertTable:
    """The words and linear maps of one layer's experts. `address` is valid while this object lives."""

    def __init__(
        self, spec: ExpertsSpec, tensors: Mapping[str, Tensor], scratch: ExpertScratch
    ) -> None:
        total = spec.count + bool(spec.shared_size)
        roles = [f"experts.{i}.{role}" for i in range(total) for role in ("gate", "up", "down")]
        maps = np.stack([map_words(tensors[role]) for role in roles])
        words = np.zeros(layout.EXPERTS_WORDS, np.int64)
        words[layout.EXPERT_COUNT], words[layout.ALL_EXPERTS] = spec.count, total
        words[layout.PER_TOKEN], words[layout.NORMALISED] = spec.per_token, spec.normalised
        words[layout.EXPERT_FFN] = spec.ffn_size
        words[layout.EXPERT_MAPS] = maps.ctypes.data
        router = map_words(tensors["router"])
        words[layout.ROUTER_MAP] = router.ctypes.data
        # The words hold nothing but addresses: this keeps alive what they point to.
        self._kept: list[object] = [tensors, maps, router, scratch]
        if spec.shared_size:
            score = map_words(tensors["shared_score"])
            words[layout.SHARED_SCORE_MAP] = score.ctypes.data
            self._kept.append(score)
        scratch.fill(words)
        self._words = words

    @property
    def address(self) -> int:
        """The address of the words."""
        return self._words.ctypes.data


def expert_scratch_bytes(spec: ExpertsSpec, rows: int) -> int:
    """Bytes of `ExpertScratch`, without the few that do not grow with the rows."""
    return 4 * rows * (spec.count + 1 + 4 * spec.per_token + 2)


# ---- rotary embedding


class RotaryTables:
    """The cosines and sines of positions, and which of them each row of a batch uses.

    They grow with the longest context seen: those of all positions that a model knows would take
    hundreds of megabytes for some models.
    """

    def __init__(self, table: NDArray[np.int64], spec: DecoderSpec, max_model_len: int) -> None:
        self._table, self._spec, self._max_model_len = table, spec, max_model_len
        self._angles: dict[int, NDArray[np.float32]] = {}
        self._batch: tuple[NDArray[Any], ...] = ()  # what the words of a batch point to
        self.has_batch = False
        """Whether the table points to what an earlier batch brought."""
        self.length = 0
        """The number of positions that have angles."""
        self.extend(min(FIRST_ANGLES, max_model_len))
        self._reset()

    def extend(self, needed: int) -> None:
        """Have angles of at least `needed` positions. Twice as many as before, so that it is rare."""
        length = max(needed, min(self._max_model_len, 2 * self.length))
        for rope, cosine_word, sine_word in (
            (self._spec.rope, layout.COSINES, layout.SINES),
            (self._spec.local_rope, layout.LOCAL_COSINES, layout.LOCAL_SINES),
        ):
            if rope is not None:
                frequencies, scale = inverse_frequencies(
                    rope, self._spec.head_dim, self._max_model_len
                )
                cosines, sines = cosines_and_sines(frequencies, scale, length)
                for word, values in ((cosine_word, cosines), (sine_word, sines)):
                    self._angles[word] = np.ascontiguousarray(values)
                    self._table[word] = self._angles[word].ctypes.data
        self.length = length

    def fill(self, batch: Batch) -> None:
        """Take over the positions in time, height and width of a batch for M-RoPE, if it has some.

        If a row's three positions differ, its angles are a mixture of three rows of the tables. Then
        the batch gets tables of its own, with one row of angles for each row: so the kernels need
        not know about M-RoPE.
        """
        self._reset()
        positions, table = batch.rope_positions, self._table
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
                mrope_angles(self._angles[word], positions, self._spec.rope)
                for word in (layout.COSINES, layout.SINES)
            )
            index = np.arange(batch.num_rows, dtype=np.int32)
            self._batch = (index, cosines, sines)
            table[layout.COSINES], table[layout.SINES] = cosines.ctypes.data, sines.ctypes.data
        self.has_batch = True
        table[layout.ROPE_POSITIONS] = index.ctypes.data

    def _reset(self) -> None:
        """Point to the model's own tables again, and to the positions in the batch."""
        for word in (layout.COSINES, layout.SINES):
            self._table[word] = self._angles[word].ctypes.data
        self._table[layout.ROPE_POSITIONS] = self._table[layout.POSITIONS]
        self._batch, self.has_batch = (), False
