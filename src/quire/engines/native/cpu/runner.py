"""The runner: a model's weights, its paged KV cache, and one compiled call a thread for each step."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.engines.native.batch import Batch
from quire.engines.native.cpu import layout
from quire.engines.native.cpu.adapters import BatchAdapters, CpuAdapter
from quire.engines.native.cpu.batch_check import check_batch, check_shapes
from quire.engines.native.cpu.batch_room import BatchRoom
from quire.engines.native.cpu.expert_tables import ExpertScratch, ExpertTable
from quire.engines.native.cpu.huge_pages import huge_zeros, in_huge_pages
from quire.engines.native.cpu.layout import (
    kv_head_bytes,
    num_phases,
    padded,
    scratch_floats,
    tiles_needed,
)
from quire.engines.native.cpu.lora_weights import lora_weights
from quire.engines.native.cpu.machine_code import StepFunction
from quire.engines.native.cpu.memory import KV_KINDS, KvDtype, aligned_zeros
from quire.engines.native.cpu.packed import PackedMatrix, Tensor
from quire.engines.native.cpu.team import Team
from quire.engines.native.cpu.weights import Weights, embedding_scale
from quire.engines.native.models.rope import cosines_and_sines, inverse_frequencies, turned_angles
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import EngineClosedError

_ACTIVATIONS = {"silu": layout.SILU, "gelu_tanh": layout.GELU_TANH}
FIRST_ANGLES = 1024  # positions whose cosines are made at the start; more when they are met


class CpuRunner:
    """A decoder on the CPU; satisfies `quire.engines.native.batch.Runner`. Usable from any thread.

    A row's logits are bitwise the same whatever else is in the batch, however its prompt was cut
    into chunks, and whatever the number of threads.
    """

    weights_bytes: int = 0
    """For people; `load_model` says it."""

    def __init__(
        self,
        weights: Weights,
        step: StepFunction,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int = 16,
        num_threads: int = 1,
        max_batch_tokens: int = 2048,
        kv_dtype: KvDtype = "float32",
    ) -> None:
        spec = weights.spec
        self.block_size, self.num_blocks = block_size, num_blocks
        self.vocab_size, self.max_model_len = spec.vocab_size, max_model_len
        self.max_batch_tokens, self.num_threads = max_batch_tokens, num_threads
        self.hidden_size, self.uses_mrope = spec.hidden_size, bool(spec.rope.sections)
        self._spec = spec
        self._lock, self._process = threading.Lock(), os.getpid()
        self._table = np.zeros(layout.TABLE_WORDS, np.int64)
        # Everything whose address is in a table; it lives as long as they do.
        self._arrays: dict[str, NDArray[Any]] = {}
        self._expert_tables: list[ExpertTable] = []
        heads, size = spec.num_kv_heads, spec.head_dim
        kind = self._table[layout.KV_KIND] = KV_KINDS[kv_dtype]
        self._keys, self._values = (
            huge_zeros(
                (spec.num_layers, heads, num_blocks, kv_head_bytes(kind, width, block_size)),
                np.uint8,
            )
            for width in (size, padded(size))
        )
        self.kv_cache_bytes = self._keys.nbytes + self._values.nbytes
        self._weights: Weights | None = weights
        self._layers = self._fill_layers(weights)
        self._fill_model(weights)
        self._fill_scratch(weights)
        self._extend_angles(min(FIRST_ANGLES, max_model_len))
        self._adapters = BatchAdapters(max_batch_tokens)
        self._room = BatchRoom(self._table, max_batch_tokens)
        self._team = Team(num_threads, step, self._table)
        self._mover: threading.Thread | None = None
        self._finalizer = weakref.finalize(self, self._team.close)

    # ---- the tables

    def _keep(self, name: str, array: NDArray[Any]) -> int:
        self._arrays[name] = array
        return array.ctypes.data

    def _fill_layers(self, weights: Weights) -> NDArray[np.int64]:
        table = np.zeros((weights.spec.num_layers, layout.LAYER_WORDS), np.int64)
        experts = weights.spec.experts
        scratch = ExpertScratch(experts, self.max_batch_tokens) if experts else None
        for number, (row, tensors) in enumerate(zip(table, weights.layers, strict=True)):
            row[layout.WINDOW] = weights.spec.windows[number]
            for word, role in (
                (layout.ATTENTION_NORM, "attention_norm"), (layout.FFN_NORM, "ffn_norm"),
                (layout.Q_NORM, "q_norm"), (layout.K_NORM, "k_norm"),
                (layout.POST_ATTENTION_NORM, "post_attention_norm"),
                (layout.POST_FFN_NORM, "post_ffn_norm"),
            ):  # fmt: skip
                row[word] = _address(tensors.get(role))
            row[layout.ROPE] = _rope_word(weights.spec, number)
            row[layout.K_CACHE] = self._keys[number].ctypes.data
            row[layout.V_CACHE] = self._values[number].ctypes.data
            if scratch and experts and experts.sparse[number]:
                sparse = ExpertTable(experts, tensors, self._linear_map, scratch)
                self._expert_tables.append(sparse)
                row[layout.EXPERTS] = sparse.address
            for i, role in enumerate(layout.LINEARS):
                if role not in tensors:  # the layer has experts instead
                    continue
                words = self._linear_map(tensors[role], tensors.get(f"{role}_bias"))
                row[layout.FIRST_LINEAR + i] = self._keep(f"map {number} {role}", words)
        return table

    def _linear_map(
        self, weight: Tensor, bias: NDArray[np.float32] | None = None
    ) -> NDArray[np.int64]:
        """The words of one linear map."""
        words = np.zeros(layout.MAP_WORDS, np.int64)
        words[layout.BIAS] = _address(bias)
        words[layout.MAP_COLUMNS], words[layout.MAP_DEPTH] = weight.shape
        if not isinstance(weight, PackedMatrix):
            words[layout.WEIGHT] = _address(weight)
            words[layout.KIND] = layout.BFLOAT16 if _narrow(weight) else layout.FLOAT32
            return words
        words[layout.KIND] = layout.INT8 if weight.bits == 8 else layout.INT4
        words[layout.WEIGHT], words[layout.SCALES] = _address(weight.codes), _address(weight.scales)
        words[layout.ZEROS] = _address(weight.zeros)
        words[layout.SPAN], words[layout.REPEAT] = weight.span, weight.repeat
        words[layout.QUANT_DEPTH] = weight.packed_depth
        words.view(np.float32)[2 * layout.UNIT_SCALE] = weight.unit
        return words

    def _fill_model(self, weights: Weights) -> None:
        spec, table, tensors = weights.spec, self._table, weights.tensors
        table[layout.LAYERS], table[layout.HIDDEN] = spec.num_layers, spec.hidden_size
        table[layout.FFN], table[layout.VOCAB] = spec.ffn_size, spec.vocab_size
        table[layout.HEADS], table[layout.KV_HEADS] = spec.num_heads, spec.num_kv_heads
        table[layout.HEAD_DIM], table[layout.BLOCK_SIZE] = spec.head_dim, self.block_size
        table[layout.NUM_BLOCKS], table[layout.MAX_LEN] = self.num_blocks, self.max_model_len
        table.view(np.float32)[2 * layout.EPS] = spec.norm_eps
        table.view(np.float32)[2 * layout.SCALE] = spec.attention_scale
        table.view(np.float32)[2 * layout.UNIT] = 1
        for word, value in (
            (layout.EMBEDDING_SCALE, embedding_scale(weights)),
            (layout.RESIDUAL_SCALE, spec.residual_scale),
            (layout.LOGITS_SCALE, spec.logits_scale),
            (layout.ATTENTION_CAP, spec.attention_cap), (layout.LOGITS_CAP, spec.logits_cap),
        ):  # fmt: skip
            table.view(np.float32)[2 * word] = value
        table[layout.ROTARY_DIM], table[layout.INTERLEAVED] = spec.rotary_dim, spec.interleaved_rope
        table[layout.WIDTH_NORMS] = spec.width_norms
        table[layout.ACTIVATION] = _ACTIVATIONS[spec.activation]
        table[layout.EMBEDDINGS] = _address(tensors["embeddings"])
        table[layout.EMBEDDINGS_NARROW] = _narrow(tensors["embeddings"])
        table[layout.FINAL_NORM] = _address(tensors["final_norm"])
        if "head" in tensors:  # a reward model has none
            table[layout.HEAD_MAP] = self._keep("head map", self._linear_map(tensors["head"]))
        table[layout.LAYER_TABLE] = self._layers.ctypes.data

    def _fill_scratch(self, weights: Weights) -> None:
        spec, rows = self._spec, self.max_batch_tokens
        for word, columns in (
            (layout.RESIDUAL, spec.hidden_size), (layout.NORMED, spec.hidden_size),
            (layout.QUERIES, spec.q_size), (layout.KEYS, spec.kv_size),
            (layout.VALUES, spec.kv_size), (layout.MIXED, spec.q_size),
            (layout.GATE, spec.ffn_width), (layout.UP, spec.ffn_width),
        ):  # fmt: skip
            self._table[word] = self._keep(f"scratch {word}", aligned_zeros((rows, columns)))
        group = spec.num_heads // spec.num_kv_heads
        floats = scratch_floats(group, spec.head_dim, spec.hidden_size)
        floats, whole = -(-floats // 16) * 16, _quantized_row_bytes(weights)
        own = aligned_zeros((self.num_threads, floats + layout.OWN_ROWS * whole // 4))
        self._table[layout.OWN_QUANTIZED] = 4 * floats
        self._table[layout.QUANTIZED] = self._keep("whole", aligned_zeros((rows, whole), np.uint8))
        self._table[layout.SCRATCH] = self._keep("own", own)
        self._table[layout.SCRATCH_BYTES] = own.strides[0]
        self._table[layout.LOGITS] = self._keep("logits", aligned_zeros((8, spec.vocab_size)))
        # A sequence has at least one row, so there are no more sequences than rows.
        tiles = np.zeros((tiles_needed(rows, rows, group), 3), np.int64)
        self._table[layout.TILES] = self._keep("tiles", tiles)
        counters = aligned_zeros((num_phases(spec.num_layers) * layout.PHASE_BYTES // 8,), np.int64)
        self._table[layout.COUNTERS] = self._keep("counters", counters)

    def _need_angles(self, batch: Batch) -> None:
        """Have the angles of all places of a batch, whose lengths may still be wrong."""
        if batch.rope_positions is None:
            needed = min(int(batch.context_lens.max(initial=0)), self.max_model_len)
        else:
            needed = int(batch.rope_positions.max(initial=0)) + 1
        if needed > self._num_angles:
            self._extend_angles(max(needed, min(self.max_model_len, 2 * self._num_angles)))

    def _extend_angles(self, length: int) -> None:
        spec, table = self._spec, self._table
        for rope, cosine_word, sine_word in (
            (spec.rope, layout.COSINES, layout.SINES),
            (spec.local_rope, layout.LOCAL_COSINES, layout.LOCAL_SINES),
        ):
            if rope is not None:
                frequencies, scale = inverse_frequencies(rope, spec.head_dim, self.max_model_len)
                cosines, sines = cosines_and_sines(frequencies, scale, length)
                for word, values in ((cosine_word, cosines), (sine_word, sines)):
                    table[word] = self._keep(f"angles {word}", np.ascontiguousarray(values))
        self._turned = False
        self._num_angles = length

    def _own_lock(self) -> threading.Lock:
        """The lock; a new one in a forked child, where nobody would open one that was closed."""
        if os.getpid() != self._process:
            self._lock, self._process = threading.Lock(), os.getpid()
        return self._lock

    # ---- the runner's protocol

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Run the model over one batch; see `Runner`.

        Raises ValueError for a batch that is too large or points outside the cache or the
        vocabulary, EngineClosedError after `close`.
        """
        with self._own_lock():
            if self._weights is None:
                raise EngineClosedError("the runner was closed")
            plain = not batch.adapters and not batch.has_media
            (check_shapes if plain else check_batch)(batch, self)  # the step checks the rest
            if len(batch.logits_rows) and not self._table[layout.HEAD_MAP]:
                raise ValueError("logits are wanted of a model that was loaded without its head")
            self._team.settle()
            self._need_angles(batch)
            logits = self._fill_batch(batch)
            if batch.num_rows:
                self._team.run()
                if self._mover is None:
                    self._move_weights()
                if self._table[layout.UNSOUND]:
                    check_batch(batch, self)
                    raise ValueError("a batch points outside the runner's arrays")
            if self._table[layout.ADAPTERS]:
                self._team.settle()
                self._adapters.forget()
            return logits

    def _move_weights(self) -> None:
        """Let the weights be copied into huge pages, while steps go on.

        It begins after the first step, which a start waits for.
        """
        self._mover = threading.Thread(
            target=_move, args=(weakref.ref(self),), name="quire-weights", daemon=True
        )
        self._mover.start()

    def _adopt(self, old: Weights, new: Weights) -> None:
        """Compute with equal weights from the next step on."""
        with self._own_lock():
            if self._weights is old:
                self._team.settle()
                self._expert_tables.clear()
                self._layers = self._fill_layers(new)
                self._fill_model(new)
                self._weights = new

    def _fill_batch(self, batch: Batch) -> NDArray[np.float32]:
        self._room.fill(batch)
        self._fill_turns(batch)
        self._fill_given(batch)
        self._table[layout.ADAPTERS] = self._adapters.fill(batch)
        self._arrays["counters"].fill(0)
        count, room = len(batch.logits_rows), self._arrays["logits"]
        if len(room) < count:
            room = aligned_zeros((1 << (count - 1).bit_length(), self.vocab_size))
            self._table[layout.LOGITS] = self._keep("logits", room)
        return room[:count]

    def _fill_turns(self, batch: Batch) -> None:
        """By which angles each row turns.

        Where its three places differ, the batch brings its own table, a row of it for each row.
        """
        table, places = self._table, batch.rope_positions
        if places is not None and not (places == places[0]).all():
            for word in (layout.COSINES, layout.SINES):
                angles = turned_angles(self._arrays[f"angles {word}"], places, self._spec.rope)
                table[word] = self._keep(f"batch {word}", angles)
            self._turned = True
            turns = np.arange(batch.num_rows, dtype=np.int32)
        else:
            if self._turned:
                for word in (layout.COSINES, layout.SINES):
                    table[word] = self._arrays[f"angles {word}"].ctypes.data
                self._turned = False
            if places is None:
                table[layout.ROPE_POSITIONS] = table[layout.POSITIONS]
                return
            turns = places[0]
        kept = np.ascontiguousarray(turns, np.int32)
        table[layout.ROPE_POSITIONS] = self._keep("batch turns", kept)

    def _fill_given(self, batch: Batch) -> None:
        """Which rows have an embedding of their own, and where it is."""
        if batch.embeds is None:
            self._table[layout.GIVEN_PLACES] = 0
            return
        places = np.full(batch.num_rows, -1, np.int32)
        places[batch.embed_rows] = np.arange(len(batch.embed_rows), dtype=np.int32)
        given = np.ascontiguousarray(batch.embeds, np.float32)
        self._table[layout.GIVEN] = self._keep("batch given", given)
        self._table[layout.GIVEN_PLACES] = self._keep("batch given places", places)

    def load_adapter(self, adapter: Adapter) -> CpuAdapter:
        """Read an adapter for batches to come; see `Runner`. Steps go on meanwhile.

        Raises AdapterError, OutOfMemoryError, or EngineClosedError after `close`.
        """
        weights = self._weights
        if weights is None:
            raise EngineClosedError("the runner was closed")
        return CpuAdapter(lora_weights(adapter, weights))

    def time_phases(self) -> NDArray[np.int64]:
        """Let every step to come write the clock at each phase's end: (phases,) in ticks, 0 for none.

        `layout` numbers the phases.
        """
        times = np.zeros(num_phases(self._spec.num_layers), np.int64)
        with self._own_lock():
            self._team.settle()
            self._table[layout.TIMES] = self._keep("times", times)
        return times

    @property
    def hidden(self) -> NDArray[np.float32]:
        """The hidden states that the last batch wanted; see `Runner`."""
        first, end = self._table[layout.LOGITS_COUNT], self._table[layout.NORMED_COUNT]
        return self._arrays[f"scratch {layout.NORMED}"][first:end]

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of the KV cache, `(source, destination)` each, in order."""
        with self._own_lock():
            if self._weights is None:
                raise EngineClosedError("the runner was closed")
            for source, destination in pairs:
                for cache in (self._keys, self._values):
                    cache[:, :, destination] = cache[:, :, source]

    def close(self) -> None:
        """End the threads and let go of the weights and the cache. May be called again."""
        with self._own_lock():
            self._team.close()
            self._weights = None
            self._arrays.clear()
            self._expert_tables.clear()
            self._keys = self._values = np.zeros((0, 0), np.float32)


def _move(reference: weakref.ref[CpuRunner]) -> None:
    runner = reference()
    weights = runner._weights if runner else None  # pyright: ignore[reportPrivateUsage]
    del runner  # nothing keeps alive what is forgotten meanwhile
    moved = in_huge_pages(weights) if weights else None
    runner = reference()
    if runner is not None and weights is not None and moved is not weights and moved is not None:
        runner._adopt(weights, moved)  # pyright: ignore[reportPrivateUsage]


def _quantized_row_bytes(weights: Weights) -> int:
    """Bytes for a row of the widest input in whole numbers; a cache line where nothing wants it."""
    wanted = [
        layout.quantized_row_bytes(one.packed_depth, one.span)
        for one in weights.all_tensors()
        if isinstance(one, PackedMatrix)
    ]
    return max(wanted, default=layout.LINE)


def _rope_word(spec: DecoderSpec, layer: int) -> int:
    """Which angles turn a layer's queries and keys."""
    rope = spec.rope_of(layer)
    if rope is None:
        return layout.NO_ROPE
    return layout.LOCAL_ROPE if rope is spec.local_rope else layout.GLOBAL_ROPE


def _address(array: NDArray[Any] | None) -> int:
    """Where a contiguous array begins; 0 for none."""
    if array is None:
        return 0
    assert array.flags.c_contiguous
    return array.ctypes.data


def _narrow(array: NDArray[Any]) -> int:
    """1 for bfloat16, which is held as uint16."""
    return int(array.dtype == np.uint16)
