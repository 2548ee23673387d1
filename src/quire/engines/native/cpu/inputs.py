"""One batch as compiled code reads it: checked, copied to fixed addresses, with its media and adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch, LoadedAdapter
from quire.engines.native.core.multimodal import MAX_ROPE_POSITION, MediaLimits
from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.program.arguments import HeadRun, LoraBatch, LoraRun, Step
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.adapter import CpuAdapter
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.spec import DecoderSpec

_UNSIGNED: dict[Any, Any] = {np.dtype(np.int32): np.uint32, np.dtype(np.int64): np.uint64}

# ---- checks


class RunnerLimits(Protocol):
    """The sizes of a runner that a batch must keep to."""

    block_size: int
    num_blocks: int
    vocab_size: int
    max_model_len: int
    max_batch_tokens: int
    media_limits: MediaLimits
    num_state_slots: int


def media_limits(spec: DecoderSpec) -> MediaLimits:
    """What media a decoder takes."""
    return MediaLimits(
        spec.hidden_size,
        uses_mrope=spec.uses_mrope,
        deep_layers=spec.media.deep_layers,
        whole_tokens=spec.media.whole_tokens,
    )


def check_batch(batch: Batch, limits: RunnerLimits) -> None:
    """Check all that compiled code relies on before it follows a batch's numbers into memory.

    The compiled step checks most of it for itself (`program.step.is_valid_batch`), in less time but
    without a word about what is wrong.

    Raises:
        ValueError: the batch does not fit the runner, which is a fault of the scheduler.
    """
    check_shapes(batch, limits)
    rows, starts = batch.num_rows, batch.query_start
    if starts[0] != 0 or starts[-1] != rows or (starts[1:] <= starts[:-1]).any():
        raise ValueError("query_start does not cut the rows into sequences")
    _check_below("token_ids", batch.token_ids, limits.vocab_size)
    _check_below("positions", batch.positions, limits.max_model_len)
    _check_below("slots", batch.slots, limits.num_blocks * limits.block_size)
    _check_below("block_tables", batch.block_tables, limits.num_blocks)
    _check_below("logits_rows", batch.logits_rows, rows)
    _check_below("hidden_rows", batch.hidden_rows, rows)
    if rows:
        _check_positions(batch, limits.block_size)
    if batch.state_slots is not None:
        _check_below("state_slots", batch.state_slots, limits.num_state_slots)
        if len(np.unique(batch.state_slots)) != batch.num_sequences:
            raise ValueError("two sequences of a batch have one slot")
    if batch.state_saves is not None:
        _check_below("state_saves", batch.state_saves + 1, limits.num_state_slots + 1)
    _check_media(batch, limits.media_limits)


def check_shapes(batch: Batch, limits: RunnerLimits) -> None:
    """Raise ValueError for lengths that do not agree, or are too large for the runner."""
    rows, sequences = len(batch.token_ids), len(batch.context_lens)
    most = limits.max_batch_tokens + limits.media_limits.whole_tokens
    if rows > most:
        raise ValueError(f"a batch of {rows} rows; the runner takes {most}")
    if len(batch.positions) != rows or len(batch.slots) != rows:
        raise ValueError("token_ids, positions and slots of a batch differ in length")
    if batch.adapters is not None and len(batch.adapters) != sequences:
        raise ValueError("adapters of a batch are not one for each sequence")
    slots, saves = batch.state_slots, batch.state_saves
    if (slots is not None) != (limits.num_state_slots > 0):
        raise ValueError("state_slots of a batch are for models with states, and for all of them")
    if slots is not None and len(slots) != sequences:
        raise ValueError("state_slots of a batch are not one for each sequence")
    if saves is not None and (slots is None or len(saves) != rows):
        raise ValueError("state_saves of a batch are not one for each row of a model with states")
    if len(batch.query_start) != sequences + 1 or len(batch.block_tables) != sequences:
        raise ValueError("query_start and block_tables do not fit the number of sequences")
    if sequences > rows:
        raise ValueError("query_start does not cut the rows into sequences")
    if len(batch.logits_rows) + len(batch.hidden_rows) > most:
        raise ValueError("logits and hidden states of more rows than the runner takes")


def _check_positions(batch: Batch, block_size: int) -> None:
    last = batch.query_start[1:] - 1
    lengths = batch.context_lens
    if (batch.positions[last] + 1 != lengths).any():
        raise ValueError("context_lens are not one more than each sequence's last position")
    steps = batch.positions[1:] - batch.positions[:-1]
    steps[last[:-1]] = 1
    if (steps != 1).any():
        raise ValueError("positions of a sequence are not consecutive")
    if lengths.max() > batch.block_tables.shape[1] * block_size:
        raise ValueError("a block table is shorter than its sequence")


def _check_media(batch: Batch, limits: MediaLimits) -> None:
    rows, embeds, positions = batch.embed_rows, batch.embeds, batch.rope_positions
    if len(rows) or embeds is not None:
        if embeds is None or embeds.shape != (len(rows), limits.hidden_size):
            raise ValueError("embeds of a batch are not (embed_rows, hidden_size)")
        _check_below("embed_rows", rows, batch.num_rows)
        if len(np.unique(rows)) != len(rows):
            raise ValueError("embed_rows of a batch name a row twice")
    deep = batch.deep_embeds
    wanted = (limits.deep_layers, len(rows), limits.hidden_size)
    if (deep is None) != (embeds is None or not limits.deep_layers) or (
        deep is not None and deep.shape != wanted
    ):
        raise ValueError(
            "deep_embeds of a batch are (layers, embed_rows, hidden_size), with embeds"
        )
    if batch.last_seen is not None:
        _check_last_seen(batch, batch.last_seen, limits)
    if positions is not None:
        if not limits.uses_mrope or positions.shape != (3, batch.num_rows):
            raise ValueError("rope_positions of a batch are (3, T), for a model with M-RoPE")
        _check_below("rope_positions", positions, MAX_ROPE_POSITION)


def _check_last_seen(batch: Batch, last_seen: NDArray[np.int32], limits: MediaLimits) -> None:
    if not limits.whole_tokens or batch.embeds is None or last_seen.shape != batch.positions.shape:
        raise ValueError("last_seen of a batch is (T,), for a model with whole media, with embeds")
    counts = np.diff(batch.query_start)
    if (last_seen < batch.positions).any() or (
        last_seen >= np.repeat(batch.context_lens, counts)
    ).any():
        raise ValueError("last_seen of a batch lies before a row, or behind its sequence")
    falls = last_seen[1:] < last_seen[:-1]
    falls[batch.query_start[1:-1] - 1] = False
    if falls.any():
        raise ValueError("last_seen of a sequence falls from one row to the next")


def _check_below(name: str, values: NDArray[Any], limit: int) -> None:
    # Viewed as unsigned, a negative integer is a very large one: one pass instead of two.
    if values.size and np.maximum.reduce(values.view(_UNSIGNED[values.dtype]), axis=None) >= limit:
        raise ValueError(f"{name} of a batch must lie in 0..{limit - 1}")


# ---- the batch


class BatchInputs:
    """Memory for batches of up to `rows` rows, whose addresses stay in the runner's `step`.

    Copying a few small arrays takes less time than asking NumPy for the addresses of new ones in
    every step.
    """

    def __init__(self, step: Step, rows: int) -> None:
        self._step = step
        self._token_ids = self._array("token_ids", rows, np.int32)
        self._positions = self._array("positions", rows, np.int32)
        self._slots = self._array("slots", rows, np.int64)
        self._query_start = self._array("query_start", rows + 1, np.int32)
        self._context_lens = self._array("context_lens", rows, np.int32)
        self._logits_rows = self._array("logits_rows", rows, np.int32)
        self._block_tables = self._array("block_tables", 1024, np.int32)
        has_states = step.num_slots > 0
        self._state_slots = self._array("state_slots", rows * has_states, np.int32)
        self._state_saves = aligned_zeros((rows * has_states,), np.int32)
        step.last_seen = step.positions
        self._media: tuple[Any, ...] = ()  # what media's fields of the step point to

    def _array(self, field: str, size: int, dtype: Any) -> NDArray[Any]:
        array = aligned_zeros((size,), dtype)
        setattr(self._step, field, address_of(array))
        return array

    def fill(self, batch: Batch) -> None:
        """Take over a batch whose shapes have been checked."""
        # In one function, without properties of the batch: it runs for every token.
        step, rows, sequences = self._step, len(batch.token_ids), len(batch.context_lens)
        logits, hidden = len(batch.logits_rows), len(batch.hidden_rows)
        step.rows, step.sequences = rows, sequences
        step.logits_count, step.normed_count = logits, logits + hidden
        self._token_ids[:rows] = batch.token_ids
        self._positions[:rows] = batch.positions
        self._slots[:rows] = batch.slots
        self._query_start[: sequences + 1] = batch.query_start
        self._context_lens[:sequences] = batch.context_lens
        self._logits_rows[:logits] = batch.logits_rows
        if hidden:
            self._logits_rows[logits : logits + hidden] = batch.hidden_rows
        size, width = batch.block_tables.size, batch.block_tables.shape[1]
        step.table_width = width
        if size > len(self._block_tables):
            # Twice as large as needed: tables grow with every block of every sequence.
            self._block_tables = self._array("block_tables", 2 * size, np.int32)
        self._block_tables[:size] = batch.block_tables.ravel()
        if batch.state_slots is not None:
            self._state_slots[:sequences] = batch.state_slots
            step.state_saves = 0
            if batch.state_saves is not None:
                self._state_saves[:rows] = batch.state_saves
                step.state_saves = address_of(self._state_saves)
        if batch.embeds is not None:
            self._fill_media(batch, batch.embeds)
        elif self._media:
            step.embed_index = step.deep_embeds = 0
            step.last_seen = step.positions
            self._media = ()

    def _fill_media(self, batch: Batch, embeds: NDArray[np.float32]) -> None:
        """Take over what the batch brings for its rows of media, and how far they see."""
        step, count = self._step, len(batch.embed_rows)
        index = np.full(batch.num_rows, -1, np.int32)
        index[batch.embed_rows] = np.arange(count, dtype=np.int32)
        values, deep, last_seen = np.ascontiguousarray(embeds), batch.deep_embeds, batch.last_seen
        deep = None if deep is None else np.ascontiguousarray(deep)
        last_seen = None if last_seen is None else np.ascontiguousarray(last_seen)
        self._media = (values, index, deep, last_seen)
        step.embeds, step.embed_index = address_of(values), address_of(index)
        step.deep_embeds, step.embed_count = address_of(deep), count
        step.last_seen = step.positions if last_seen is None else address_of(last_seen)


# ---- its adapters

_Run = tuple[Any, int, int]
"""Neighbouring rows with one adapter: the adapter or None, the first row, the number of rows."""


class BatchAdapters:
    """The adapters in one batch, as compiled code reads them."""

    def __init__(self, max_rows: int, num_threads: int) -> None:
        self._max_rows, self._num_threads = max_rows, num_threads
        self._struct = LoraBatch()
        self._products = np.zeros(0, np.float32)
        self._thread_products = np.zeros(0, np.float32)
        self._adapters: Sequence[LoadedAdapter | None] = ()
        self.logits_runs: list[_Run] = []
        """The runs of the rows of the logits; empty where no row has an adapter."""

    def fill(self, batch: Batch) -> LoraBatch | None:
        """Take over a batch's adapters; None if no row has one.

        Raises:
            ValueError: another runner made an adapter.
        """
        adapters = batch.adapters
        if adapters is None or not any(adapters):
            return None
        own = [adapter for adapter in adapters if isinstance(adapter, CpuAdapter)]
        if len(own) != sum(adapter is not None for adapter in adapters):
            raise ValueError("a batch names an adapter that this runner did not load")
        self._adapters = adapters
        struct = self._struct
        runs = _row_runs(adapters, batch.query_start)
        struct.kernel = kernel_address("lora")
        struct.runs = _lora_runs(runs)
        struct.run_count = len(struct.runs)
        # The rows of the logits are others than those of the batch, and so are their runs.
        heads = self.logits_runs = _logits_runs(adapters, batch)
        struct.head_runs = _lora_runs(heads)
        struct.head_run_count = len(struct.head_runs)
        struct.heads = _head_runs(heads)
        struct.head_count = len(struct.heads)
        struct.mask = np.bitwise_or.reduce([adapter.mask for adapter in own])
        rank = max(adapter.largest_rank for adapter in own)
        self._make_products(rank)
        has_inner = any(adapter.has_inner for adapter in own)
        struct.inner_kernel = kernel_address("lora_inner") if has_inner else 0
        if has_inner:
            self._make_thread_products(rank)
        return struct

    def release(self) -> None:
        """Let go of the adapters of the last batch, once no thread reads them any more."""
        self._adapters, self.logits_runs, self._struct = (), [], LoraBatch()

    def _make_products(self, rank: int) -> None:
        """Have memory for the small products of the maps of one phase."""
        floats = self._max_rows * rank
        if len(self._products) < layout.LORA_MAPS_OF_INPUT * floats:
            self._products = aligned_zeros((layout.LORA_MAPS_OF_INPUT * floats,))
        self._struct.h = address_of(self._products)
        self._struct.h_bytes, self._struct.h_stride = 4 * floats, 4 * rank

    def _make_thread_products(self, rank: int) -> None:
        """Have memory for the small products that each thread computes for itself."""
        floats = -(-layout.SCRATCH_ROWS * rank // 16) * 16  # whole cache lines
        if len(self._thread_products) < self._num_threads * floats:
            self._thread_products = aligned_zeros((self._num_threads * floats,))
        self._struct.thread_h = address_of(self._thread_products)
        self._struct.thread_h_bytes = 4 * floats


def _lora_runs(runs: list[_Run]) -> Structs[LoraRun]:
    """The runs that have an adapter, none too long."""
    parts = [
        (adapter, row, min(layout.LORA_RUN_ROWS, first + rows - row))
        for adapter, first, rows in runs
        if adapter is not None
        for row in range(first, first + rows, layout.LORA_RUN_ROWS)
    ]
    made = Structs(LoraRun, len(parts))
    made.fill("adapter", [adapter.struct.address for adapter, _, _ in parts])
    made.fill("first", [first for _, first, _ in parts])
    made.fill("rows", [rows for _, _, rows in parts])
    return made


def _head_runs(runs: list[_Run]) -> Structs[HeadRun]:
    """The rows that share a head: that of an adapter, or None for the model's."""
    owners = [(run[0].head if run[0] else None, run[1], run[2]) for run in runs]
    parts = [list(group) for _, group in groupby(owners, key=lambda run: id(run[0]))]
    made = Structs(HeadRun, len(parts))
    for run, same in zip(made, parts, strict=True):
        run.head, run.first, run.rows = same[0][0], same[0][1], sum(rows for _, _, rows in same)
    return made


def _row_runs(
    adapters: Sequence[LoadedAdapter | None], query_start: NDArray[np.int32]
) -> list[_Run]:
    """The runs of the batch's rows."""
    starts = query_start.tolist()
    return list(_merged(zip(adapters, starts[:-1], np.diff(query_start).tolist(), strict=True)))


def _logits_runs(adapters: Sequence[LoadedAdapter | None], batch: Batch) -> list[_Run]:
    """The runs of the rows whose logits are asked for, by their index among those."""
    owners = np.searchsorted(batch.query_start, batch.logits_rows, side="right") - 1
    rows = ((adapters[owner], row, 1) for row, owner in enumerate(owners.tolist()))
    return list(_merged(rows))


def _merged(runs: Any) -> Iterator[_Run]:
    """Runs of the same adapter that follow each other, made one."""
    # By identity: two requests with one adapter hold the same object.
    for _, group in groupby(runs, key=lambda run: id(run[0])):
        same = list(group)
        yield same[0][0], same[0][1], sum(rows for _, _, rows in same)
