"""One batch as compiled code reads it: checked, copied to fixed addresses, with its media and adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch, LoadedAdapter
from quire.engines.native.core.multimodal import MAX_ROPE_POSITION
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.memory.arrays import aligned_zeros
from quire.engines.native.cpu.program.machine_code import kernel_address
from quire.engines.native.cpu.weights.adapter import CpuAdapter

_UNSIGNED: dict[Any, Any] = {np.dtype(np.int32): np.uint32, np.dtype(np.int64): np.uint64}

# ---- checks


class RunnerLimits(Protocol):
    """The sizes of a runner that a batch must keep to."""

    block_size: int
    num_blocks: int
    vocab_size: int
    max_model_len: int
    max_batch_tokens: int
    hidden_size: int
    uses_mrope: bool


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
    _check_media(batch, limits)


def check_shapes(batch: Batch, limits: RunnerLimits) -> None:
    """Raise ValueError for lengths that do not agree, or are too large for the runner."""
    rows, sequences = len(batch.token_ids), len(batch.context_lens)
    if rows > limits.max_batch_tokens:
        raise ValueError(f"a batch of {rows} rows; the runner takes {limits.max_batch_tokens}")
    if len(batch.positions) != rows or len(batch.slots) != rows:
        raise ValueError("token_ids, positions and slots of a batch differ in length")
    if batch.adapters is not None and len(batch.adapters) != sequences:
        raise ValueError("adapters of a batch are not one for each sequence")
    if len(batch.query_start) != sequences + 1 or len(batch.block_tables) != sequences:
        raise ValueError("query_start and block_tables do not fit the number of sequences")
    if sequences > rows:
        raise ValueError("query_start does not cut the rows into sequences")
    if len(batch.logits_rows) + len(batch.hidden_rows) > limits.max_batch_tokens:
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


def _check_media(batch: Batch, limits: RunnerLimits) -> None:
    rows, embeds, positions = batch.embed_rows, batch.embeds, batch.rope_positions
    if len(rows) or embeds is not None:
        if embeds is None or embeds.shape != (len(rows), limits.hidden_size):
            raise ValueError("embeds of a batch are not (embed_rows, hidden_size)")
        _check_below("embed_rows", rows, batch.num_rows)
        if len(np.unique(rows)) != len(rows):
            raise ValueError("embed_rows of a batch name a row twice")
    if positions is not None:
        if not limits.uses_mrope or positions.shape != (3, batch.num_rows):
            raise ValueError("rope_positions of a batch are (3, T), for a model with M-RoPE")
        _check_below("rope_positions", positions, MAX_ROPE_POSITION)


def _check_below(name: str, values: NDArray[Any], limit: int) -> None:
    # Viewed as unsigned, a negative integer is a very large one: one pass instead of two.
    if values.size and np.maximum.reduce(values.view(_UNSIGNED[values.dtype]), axis=None) >= limit:
        raise ValueError(f"{name} of a batch must lie in 0..{limit - 1}")


# ---- the batch


class BatchInputs:
    """Memory for batches of up to `rows` rows, whose addresses stay in the runner's `table`.

    Copying a few small arrays takes less time than asking NumPy for the addresses of new ones in
    every step.
    """

    def __init__(self, table: NDArray[np.int64], rows: int) -> None:
        self._table = table
        self._token_ids = self._array(layout.TOKEN_IDS, rows, np.int32)
        self._positions = self._array(layout.POSITIONS, rows, np.int32)
        self._slots = self._array(layout.SLOTS, rows, np.int64)
        self._query_start = self._array(layout.QUERY_START, rows + 1, np.int32)
        self._context_lens = self._array(layout.CONTEXT_LENS, rows, np.int32)
        self._logits_rows = self._array(layout.LOGITS_ROWS, rows, np.int32)
        self._block_tables = self._array(layout.BLOCK_TABLES, 1024, np.int32)
        self._media: tuple[NDArray[Any], ...] = ()  # what EMBEDS and EMBED_INDEX point to

    def _array(self, word: int, size: int, dtype: Any) -> NDArray[Any]:
        array = aligned_zeros((size,), dtype)
        self._table[word] = array.ctypes.data
        return array

    def fill(self, batch: Batch) -> None:
        """Take over a batch whose shapes have been checked."""
        # In one function, without properties of the batch: it runs for every token.
        table, rows, sequences = self._table, len(batch.token_ids), len(batch.context_lens)
        logits, hidden = len(batch.logits_rows), len(batch.hidden_rows)
        table[layout.ROWS], table[layout.SEQUENCES] = rows, sequences
        table[layout.LOGITS_COUNT], table[layout.NORMED_COUNT] = logits, logits + hidden
        self._token_ids[:rows] = batch.token_ids
        self._positions[:rows] = batch.positions
        self._slots[:rows] = batch.slots
        self._query_start[: sequences + 1] = batch.query_start
        self._context_lens[:sequences] = batch.context_lens
        self._logits_rows[:logits] = batch.logits_rows
        if hidden:
            self._logits_rows[logits : logits + hidden] = batch.hidden_rows
        size, width = batch.block_tables.size, batch.block_tables.shape[1]
        table[layout.TABLE_WIDTH] = width
        if size > len(self._block_tables):
            # Twice as large as needed: tables grow with every block of every sequence.
            self._block_tables = self._array(layout.BLOCK_TABLES, 2 * size, np.int32)
        self._block_tables[:size] = batch.block_tables.ravel()
        if batch.embeds is not None:
            self._fill_media(batch, batch.embeds)
        elif self._media:
            table[layout.EMBED_INDEX] = 0
            self._media = ()

    def _fill_media(self, batch: Batch, embeds: NDArray[np.float32]) -> None:
        """Take over embeddings that the batch brings for some of its rows."""
        index = np.full(batch.num_rows, -1, np.int32)
        index[batch.embed_rows] = np.arange(len(batch.embed_rows), dtype=np.int32)
        values = np.ascontiguousarray(embeds, np.float32)
        self._media = (values, index)
        self._table[layout.EMBEDS] = values.ctypes.data
        self._table[layout.EMBED_INDEX] = index.ctypes.data


# ---- its adapters

_Run = tuple[Any, int, int]
"""Neighbouring rows with one adapter: the adapter or None, the first row, the number of rows."""


class BatchAdapters:
    """The tables of the adapters in one batch. It keeps alive what they point to."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._words = np.zeros(layout.ADAPTERS_WORDS, np.int64)
        self._products = np.zeros(0, np.float32)
        self._tables: list[NDArray[np.int64]] = []
        self._adapters: Sequence[LoadedAdapter | None] = ()
        self.logits_runs: list[_Run] = []
        """The runs of the rows of the logits; empty where no row has an adapter."""

    def fill(self, batch: Batch) -> int:
        """Take over a batch's adapters. Returns the address for ADAPTERS, 0 if no row has one.

        Raises:
            ValueError: another runner made an adapter.
        """
        adapters = batch.adapters
        if adapters is None or not any(adapters):
            return 0
        own = [adapter for adapter in adapters if isinstance(adapter, CpuAdapter)]
        if len(own) != sum(adapter is not None for adapter in adapters):
            raise ValueError("a batch names an adapter that this runner did not load")
        self._adapters, self._tables = adapters, []
        words = self._words
        runs = _row_runs(adapters, batch.query_start)
        words[layout.LORA_KERNEL] = kernel_address("lora")
        words[layout.RUNS], words[layout.RUN_COUNT] = self._runs(runs)
        # The rows of the logits are others than those of the batch, and so are their runs.
        heads = self.logits_runs = _logits_runs(adapters, batch)
        words[layout.HEAD_RUNS], words[layout.HEAD_RUN_COUNT] = self._runs(heads)
        words[layout.HEADS_OF_ROWS], words[layout.HEAD_COUNT] = self._heads(heads)
        words[layout.LORA_MASK] = np.bitwise_or.reduce([adapter.mask for adapter in own])
        self._make_products(max(adapter.largest_rank for adapter in own))
        return words.ctypes.data

    def release(self) -> None:
        """Let go of the adapters of the last batch, once no thread reads them any more."""
        self._adapters, self._tables, self.logits_runs = (), [], []

    def _runs(self, runs: list[_Run]) -> tuple[int, int]:
        """A table of the runs that have an adapter, none too long; its address and length."""
        return self._table(
            [
                (adapter.address, row, min(layout.LORA_RUN_ROWS, first + rows - row))
                for adapter, first, rows in runs
                if adapter is not None
                for row in range(first, first + rows, layout.LORA_RUN_ROWS)
            ]
        )

    def _heads(self, runs: list[_Run]) -> tuple[int, int]:
        """A table of the rows that share a head: that of an adapter, or 0 for the model's."""
        owners = [(run[0].head if run[0] else 0, run[1], run[2]) for run in runs]
        return self._table(
            [
                (head, same[0][1], sum(rows for _, _, rows in same))
                for head, group in groupby(owners, key=lambda run: run[0])
                for same in [list(group)]
            ]
        )

    def _table(self, rows: list[tuple[int, int, int]]) -> tuple[int, int]:
        table = np.array(rows, np.int64).reshape(-1, layout.RUN_WORDS)
        self._tables.append(table)
        return table.ctypes.data, len(table)

    def _make_products(self, rank: int) -> None:
        """Have memory for the small products of up to three maps of one phase."""
        floats = self._max_rows * rank
        if len(self._products) < 3 * floats:
            self._products = aligned_zeros((3 * floats,))
        self._words[layout.LORA_H] = self._products.ctypes.data
        self._words[layout.LORA_H_BYTES] = 4 * floats
        self._words[layout.LORA_H_STRIDE] = 4 * rank


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
