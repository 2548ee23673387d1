"""Batches written down by hand, and a model's logits computed in pieces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch, LoadedAdapter

Rows = tuple[Sequence[int], int, Sequence[int]]
"""One sequence of a batch: its new tokens, the position of the first, its block table."""


class CanRun(Protocol):
    """A runner, or the slow reference of one."""

    block_size: int
    num_state_slots: int

    def run(self, batch: Batch) -> NDArray[np.float32]: ...


def make_batch(
    rows: Sequence[Rows],
    block_size: int = 16,
    adapters: Sequence[LoadedAdapter | None] | None = None,
    state_slots: Sequence[int] | None = None,
    state_saves: Sequence[int] | None = None,
) -> Batch:
    """A batch whose every row wants logits."""
    width = max(len(table) for _, _, table in rows)
    positions = [np.arange(start, start + len(ids)) for ids, start, _ in rows]
    tables = [np.asarray(table) for _, _, table in rows]
    slots = [
        table[where // block_size] * block_size + where % block_size
        for table, where in zip(tables, positions, strict=True)
    ]
    counts = [len(ids) for ids, _, _ in rows]
    return Batch(
        token_ids=np.concatenate([np.asarray(ids) for ids, _, _ in rows]).astype(np.int32),
        positions=np.concatenate(positions).astype(np.int32),
        slots=np.concatenate(slots).astype(np.int64),
        query_start=np.cumsum([0, *counts]).astype(np.int32),
        context_lens=np.array([start + len(ids) for ids, start, _ in rows], np.int32),
        block_tables=np.array([[*t, *[0] * (width - len(t))] for t in tables], np.int32),
        logits_rows=np.arange(sum(counts), dtype=np.int32),
        adapters=adapters,
        state_slots=None if state_slots is None else np.array(state_slots, np.int32),
        state_saves=None if state_saves is None else np.array(state_saves, np.int32),
    )


def table_of(length: int, first: int = 0, block_size: int = 16) -> list[int]:
    """A table for `length` tokens, its blocks in descending order from `first` up."""
    count = -(-length // block_size)
    return list(range(first + count - 1, first - 1, -1))


def logits_of(
    runner: CanRun,
    ids: Sequence[int],
    chunks: Sequence[int] = (),
    first_block: int = 0,
    adapter: LoadedAdapter | None = None,
) -> NDArray[np.float32]:
    """The logits of every token, computed in chunks of the given sizes; the rest at once.

    A model with states keeps that of the text in slot 1.
    """
    slots = [1] if runner.num_state_slots else None
    table = table_of(len(ids), first_block, runner.block_size)
    edges = [0, *np.cumsum(chunks).tolist(), len(ids)]
    found = [
        runner.run(make_batch([(ids[a:b], a, table)], runner.block_size, [adapter], slots)).copy()
        for a, b in itertools.pairwise(edges)
        if a < b
    ]
    return np.concatenate(found)


def random_ids(length: int, seed: int = 0, vocabulary: int = 290) -> list[int]:
    """Token ids of the small random models."""
    return np.random.default_rng(seed).integers(3, vocabulary, length).tolist()
