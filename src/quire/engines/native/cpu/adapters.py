"""LoRA adapters in memory as the compiled step reads them, and the tables of those in one batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.batch import Batch, LoadedAdapter
from quire.engines.native.cpu import layout
from quire.engines.native.cpu.layout import LORA_PANEL
from quire.engines.native.cpu.lora_weights import LoraWeights, MapChange
from quire.engines.native.cpu.memory import aligned_zeros

Words = NDArray[np.int64]
_RunOf = tuple[Any, int, int]  # what the rows have, the first of them, how many


class CpuAdapter:
    """One adapter, packed; nothing of it changes once it is made. Satisfies `LoadedAdapter`."""

    def __init__(self, weights: LoraWeights) -> None:
        self.number = weights.adapter.number
        self.largest_rank = 0
        self.mask = 0  # of LORA_MASK
        self.head = 0  # the address of the map of its own head, or 0
        self._arrays: list[NDArray[Any]] = []  # everything whose address is in a table
        entries = layout.FIRST_LAYER_ENTRY + layout.LORA_MAPS * len(weights.layers)
        self._table = np.zeros(layout.FIRST_ENTRY + entries * layout.LORA_WORDS, np.int64)
        self._entries = self._table[layout.FIRST_ENTRY :].reshape(entries, layout.LORA_WORDS)
        self._fill_tables(weights)
        for number, layer in enumerate(weights.layers):
            for place, role in enumerate(layout.LINEARS):
                if role in layer:
                    entry = layout.FIRST_LAYER_ENTRY + layout.LORA_MAPS * number + place
                    self._fill(entry, layer[role])

    @property
    def address(self) -> int:
        """Of its table."""
        return self._table.ctypes.data

    @property
    def nbytes(self) -> int:
        """Bytes of its weights."""
        return sum(array.nbytes for array in self._arrays)

    def _keep(self, array: NDArray[Any]) -> int:
        aligned = aligned_zeros(array.shape, array.dtype)
        aligned[...] = array
        self._arrays.append(aligned)
        return aligned.ctypes.data

    def _fill_tables(self, weights: LoraWeights) -> None:
        own = weights.whole.get("embeddings")
        if own is not None:
            self._table[layout.OWN_EMBEDDINGS] = self._keep(own)
            self._table[layout.OWN_EMBEDDINGS_NARROW] = own.dtype == np.uint16
        head = weights.whole.get("head")
        if head is not None:
            words = np.zeros(layout.MAP_WORDS, np.int64)
            self._fill_map(words, head)
            self.head = self._keep(words)
        if "embeddings" in weights.tables:
            self._fill(layout.EMBEDDINGS_ENTRY, weights.tables["embeddings"], transposed=True)
        if "head" in weights.tables:
            self._fill(layout.HEAD_ENTRY, weights.tables["head"])

    def _fill_map(self, words: Words, weight: NDArray[Any]) -> None:
        words[layout.WEIGHT] = self._keep(weight)
        words[layout.KIND] = layout.BFLOAT16 if weight.dtype == np.uint16 else layout.FLOAT32
        words[layout.MAP_COLUMNS], words[layout.MAP_DEPTH] = weight.shape

    def _fill(self, number: int, change: MapChange, *, transposed: bool = False) -> None:
        """Enter one map; `transposed` keeps a as a table of tokens."""
        words = self._entries[number]
        if change.a is not None and change.b is not None:
            self._fill_map(words, change.a.T if transposed else change.a)
            words[layout.MAP_COLUMNS] = change.rank
            words[layout.LORA_B] = self._keep(_panels(change.b))
            self.largest_rank = max(self.largest_rank, change.rank)
        if change.shift is not None:
            words[layout.LORA_SHIFT] = self._keep(change.shift)
        place = number - layout.FIRST_LAYER_ENTRY
        bit = layout.FIRST_LAYER_ENTRY + place % layout.LORA_MAPS if place >= 0 else number
        self.mask |= 1 << bit


def _panels(b: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rank, columns) as (panels, rank, LORA_PANEL), with zeros after the last column."""
    rank, columns = b.shape
    count = -(-columns // LORA_PANEL)
    wide = np.zeros((rank, count * LORA_PANEL), np.float32)
    wide[:, :columns] = b
    return np.ascontiguousarray(wide.reshape(rank, count, LORA_PANEL).transpose(1, 0, 2))


class BatchAdapters:
    """The table of one batch's adapters; it keeps alive what it points to."""

    def __init__(self, max_rows: int) -> None:
        self._max_rows = max_rows
        self._words = np.zeros(layout.ADAPTERS_WORDS, np.int64)
        self._room = np.zeros(0, np.float32)
        self._tables: list[Words] = []
        self._adapters: Sequence[LoadedAdapter | None] = ()

    def fill(self, batch: Batch) -> int:
        """Take a batch's adapters. Returns the address for ADAPTERS, 0 where no row has one.

        Raises ValueError for an adapter that another runner made.
        """
        adapters = batch.adapters
        if adapters is None or not any(adapters):
            return 0
        known = [adapter for adapter in adapters if isinstance(adapter, CpuAdapter)]
        if len(known) != sum(adapter is not None for adapter in adapters):
            raise ValueError("a batch names an adapter that this runner did not load")
        self._adapters, self._tables = adapters, []
        words = self._words
        runs = _row_runs(adapters, batch.query_start)
        words[layout.RUNS], words[layout.RUN_COUNT] = self._runs(runs)
        heads = _logits_runs(adapters, batch)
        words[layout.HEAD_RUNS], words[layout.HEAD_RUN_COUNT] = self._runs(heads)
        words[layout.HEADS_OF_ROWS], words[layout.HEAD_COUNT] = self._heads(heads)
        words[layout.LORA_MASK] = np.bitwise_or.reduce([adapter.mask for adapter in known])
        self._make_room(max(adapter.largest_rank for adapter in known))
        return words.ctypes.data

    def forget(self) -> None:
        """Let go of the adapters of the last batch, which no thread reads any more."""
        self._adapters, self._tables = (), []

    def _runs(self, runs: list[_RunOf]) -> tuple[int, int]:
        """The address and the number of those runs that have an adapter, none too long."""
        return self._table(
            [
                (adapter.address, row, min(layout.LORA_RUN_ROWS, first + rows - row))
                for adapter, first, rows in runs
                if adapter is not None
                for row in range(first, first + rows, layout.LORA_RUN_ROWS)
            ]
        )

    def _heads(self, runs: list[_RunOf]) -> tuple[int, int]:
        """The same of rows that share a head: an adapter's own one, or 0 for the model's."""
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

    def _make_room(self, rank: int) -> None:
        """Room for the small products of up to three maps of one phase."""
        floats = self._max_rows * rank
        if len(self._room) < 3 * floats:
            self._room = aligned_zeros((3 * floats,))
        self._words[layout.LORA_H] = self._room.ctypes.data
        self._words[layout.LORA_H_BYTES] = 4 * floats
        self._words[layout.LORA_H_STRIDE] = 4 * rank


def _row_runs(
    adapters: Sequence[LoadedAdapter | None], query_start: NDArray[np.int32]
) -> list[_RunOf]:
    """Neighbouring rows with one adapter."""
    starts = query_start.tolist()
    return list(_merged(zip(adapters, starts[:-1], np.diff(query_start).tolist(), strict=True)))


def _logits_runs(adapters: Sequence[LoadedAdapter | None], batch: Batch) -> list[_RunOf]:
    """The same of the rows of the logits."""
    owners = np.searchsorted(batch.query_start, batch.logits_rows, side="right") - 1
    rows = ((adapters[owner], row, 1) for row, owner in enumerate(owners.tolist()))
    return list(_merged(rows))


def _merged(runs: Any) -> Iterator[_RunOf]:
    for _, group in groupby(runs, key=lambda run: id(run[0])):
        same = list(group)
        yield same[0][0], same[0][1], sum(rows for _, _, rows in same)
