"""Whether a batch stays inside the arrays that compiled code follows its numbers into.

It is `batch_check.check_batch` without the words: that says what is wrong once this has found that
something is.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.simd import get_int32, get_int64


def _make_within(get: Any) -> Any:
    """`within(values, count, limit)`: whether so many numbers that `get` reads lie in 0..limit - 1."""

    @kernel
    def within(values: int, count: int, limit: int) -> bool:
        for place in range(count):
            value = get(values, place)
            if value < 0 or value >= limit:
                return False
        return True

    return within


_within, _slots_within = _make_within(get_int32), _make_within(get_int64)


@kernel
def is_sound(table: int) -> bool:
    """Whether all numbers of the batch that `table` describes are in range, and agree."""
    rows, sequences = get_int64(table, layout.ROWS), get_int64(table, layout.SEQUENCES)
    slots = get_int64(table, layout.NUM_BLOCKS) * get_int64(table, layout.BLOCK_SIZE)
    logits = get_int64(table, layout.NORMED_COUNT)
    width = get_int64(table, layout.TABLE_WIDTH)
    return (
        _within(get_int64(table, layout.TOKEN_IDS), rows, get_int64(table, layout.VOCAB))
        and _within(get_int64(table, layout.POSITIONS), rows, get_int64(table, layout.MAX_LEN))
        and _slots_within(get_int64(table, layout.SLOTS), rows, slots)
        and _within(get_int64(table, layout.LOGITS_ROWS), logits, rows)
        and _within(get_int64(table, layout.BLOCK_TABLES), sequences * width,
                    get_int64(table, layout.NUM_BLOCKS))
        and _cut_well(table, rows, sequences)
    )  # fmt: skip


@kernel
def _cut_well(table: int, rows: int, sequences: int) -> bool:
    """Whether each sequence has rows, at consecutive positions up to its length, and a block for each."""
    starts, lengths = get_int64(table, layout.QUERY_START), get_int64(table, layout.CONTEXT_LENS)
    positions = get_int64(table, layout.POSITIONS)
    most = get_int64(table, layout.TABLE_WIDTH) * get_int64(table, layout.BLOCK_SIZE)
    if get_int32(starts, 0) != 0 or get_int32(starts, sequences) != rows:
        return False
    for sequence in range(sequences):
        start, end = get_int32(starts, sequence), get_int32(starts, sequence + 1)
        length = get_int32(lengths, sequence)
        if end <= start or end > rows or length > most:
            return False
        for row in range(start, end):
            if get_int32(positions, row) != length - (end - row):
                return False
    return True
