"""What must hold of a batch before compiled code follows its numbers into memory."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.batch import Batch
from quire.engines.native.multimodal import MAX_ROPE_POSITION

_UNSIGNED: dict[Any, Any] = {np.dtype(np.int32): np.uint32, np.dtype(np.int64): np.uint64}


class Limits(Protocol):
    """The sizes of a runner that a batch must keep to."""

    block_size: int
    num_blocks: int
    vocab_size: int
    max_model_len: int
    max_batch_tokens: int
    hidden_size: int
    uses_mrope: bool


def check_batch(batch: Batch, limits: Limits) -> None:
    """Raise ValueError for a batch that does not fit the runner: a fault of the scheduler."""
    check_shapes(batch, limits)
    rows, starts = batch.num_rows, batch.query_start
    if starts[0] != 0 or starts[-1] != rows or (starts[1:] <= starts[:-1]).any():
        raise ValueError("query_start does not cut the rows into sequences")
    _below("token_ids", batch.token_ids, limits.vocab_size)
    _below("positions", batch.positions, limits.max_model_len)
    _below("slots", batch.slots, limits.num_blocks * limits.block_size)
    _below("block_tables", batch.block_tables, limits.num_blocks)
    _below("logits_rows", batch.logits_rows, rows)
    _below("hidden_rows", batch.hidden_rows, rows)
    if rows:
        _check_positions(batch, limits.block_size)
    _check_media(batch, limits)


def _check_media(batch: Batch, limits: Limits) -> None:
    rows, embeds, positions = batch.embed_rows, batch.embeds, batch.rope_positions
    if len(rows) or embeds is not None:
        if embeds is None or embeds.shape != (len(rows), limits.hidden_size):
            raise ValueError("embeds of a batch are not (embed_rows, hidden_size)")
        _below("embed_rows", rows, batch.num_rows)
        if len(np.unique(rows)) != len(rows):
            raise ValueError("embed_rows of a batch name a row twice")
    if positions is not None:
        if not limits.uses_mrope or positions.shape != (3, batch.num_rows):
            raise ValueError("rope_positions of a batch are (3, T), for a model with M-RoPE")
        _below("rope_positions", positions, MAX_ROPE_POSITION)


def check_shapes(batch: Batch, limits: Limits) -> None:
    """Raise ValueError where lengths do not agree, or are too large for the runner."""
    rows, sequences = batch.num_rows, batch.num_sequences
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


def _below(name: str, values: NDArray[Any], limit: int) -> None:
    # Seen as unsigned, a negative number is a very large one: one pass instead of two.
    if values.size and np.maximum.reduce(values.view(_UNSIGNED[values.dtype]), axis=None) >= limit:
        raise ValueError(f"{name} of a batch must lie in 0..{limit - 1}")
