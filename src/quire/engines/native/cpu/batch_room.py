"""Where compiled code finds a batch: arrays whose addresses stand in the runner's table for good."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.batch import Batch
from quire.engines.native.cpu import layout
from quire.engines.native.cpu.memory import aligned_zeros


class BatchRoom:
    """Room for batches of up to `rows` rows in the runner's `table`.

    To copy small arrays is cheaper than to look up the addresses of new ones in every step.
    """

    def __init__(self, table: NDArray[np.int64], rows: int) -> None:
        self._table = table
        self._token_ids = self._room(layout.TOKEN_IDS, rows, np.int32)
        self._positions = self._room(layout.POSITIONS, rows, np.int32)
        self._slots = self._room(layout.SLOTS, rows, np.int64)
        self._query_start = self._room(layout.QUERY_START, rows + 1, np.int32)
        self._context_lens = self._room(layout.CONTEXT_LENS, rows, np.int32)
        self._logits_rows = self._room(layout.LOGITS_ROWS, rows, np.int32)
        self._block_tables = self._room(layout.BLOCK_TABLES, 1024, np.int32)

    def _room(self, word: int, size: int, dtype: Any) -> NDArray[Any]:
        room = aligned_zeros((size,), dtype)
        self._table[word] = room.ctypes.data
        return room

    def fill(self, batch: Batch) -> None:
        """Take over a batch whose shapes have been checked."""
        table, rows, sequences = self._table, batch.num_rows, batch.num_sequences
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
            self._block_tables = self._room(layout.BLOCK_TABLES, 2 * size, np.int32)
        self._block_tables[:size] = batch.block_tables.ravel()
