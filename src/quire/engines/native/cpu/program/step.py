"""One step of a decoder: a single compiled call for each thread, over all operations of its program.

A step is the check of the batch, and then a list of operations (see `decoder`), each a kernel
`operation(thread, table, layer, phase)` that is compiled by itself. An operation is one or more phases (see
`phases`). There is no Python in between: the phases of a single token last a few microseconds each, hardly
longer than a call from Python.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import INT, NOTHING, calling, kernel
from quire.engines.native.cpu.kernels import layout
from quire.engines.native.cpu.kernels.attention import plan_tiles
from quire.engines.native.cpu.kernels.layout import WORD
from quire.engines.native.cpu.kernels.linear import linear
from quire.engines.native.cpu.kernels.rowwise import (
    gather_rows,
    replace_rows,
    rms_norm,
    scale_and_soft_cap,
    scale_rows,
)
from quire.engines.native.cpu.kernels.simd import (
    NO,
    YES,
    get_float32,
    get_int32,
    get_int64,
    put_int64,
)
from quire.engines.native.cpu.program.linear_phases import quantize_phase, quantized_rows
from quire.engines.native.cpu.program.lora import adapt_embeddings, adapted_head, head_products
from quire.engines.native.cpu.program.phases import (
    counters_of,
    current_step,
    enter,
    finish_task,
    leave,
    next_task,
    num_tasks,
    take_task,
    wait_for_phase,
    wait_for_step,
)

# ---- the check of the batch


def _make_all_below(get: Any) -> Any:
    """`all_below(values, count, limit)`: whether all integers, read by `get`, are in 0..limit - 1."""

    @kernel
    def all_below(values: int, count: int, limit: int) -> bool:
        for index in range(count):
            value = get(values, index)
            if value < 0 or value >= limit:
                return False
        return True

    return all_below


_all_below, _slots_below = _make_all_below(get_int32), _make_all_below(get_int64)


@kernel
def is_valid_batch(table: int) -> bool:
    """Whether the batch stays inside the arrays into which its numbers point, and is consistent.

    It is `inputs.check_batch` without the error texts: that one says what is wrong, once this has
    found that something is.
    """
    rows, sequences = get_int64(table, layout.ROWS), get_int64(table, layout.SEQUENCES)
    slots = get_int64(table, layout.NUM_BLOCKS) * get_int64(table, layout.BLOCK_SIZE)
    logits = get_int64(table, layout.NORMED_COUNT)
    width = get_int64(table, layout.TABLE_WIDTH)
    return (
        _all_below(get_int64(table, layout.TOKEN_IDS), rows, get_int64(table, layout.VOCAB))
        and _all_below(get_int64(table, layout.POSITIONS), rows, get_int64(table, layout.MAX_LEN))
        and _slots_below(get_int64(table, layout.SLOTS), rows, slots)
        and _all_below(get_int64(table, layout.LOGITS_ROWS), logits, rows)
        and _all_below(get_int64(table, layout.BLOCK_TABLES), sequences * width,
                       get_int64(table, layout.NUM_BLOCKS))
        and _sequences_valid(table, rows, sequences)
    )  # fmt: skip


@kernel
def _sequences_valid(table: int, rows: int, sequences: int) -> bool:
    """Whether each sequence has rows, at consecutive positions up to its length, and blocks for it."""
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


@kernel
def _check(table: int) -> bool:
    """Check the batch in one thread, before any thread follows its numbers into memory.

    NumPy would take some microseconds for each array of the batch, in every step.
    """
    counters = counters_of(table, layout.CHECK_PHASE)
    if take_task(counters) == 0:
        put_int64(table, layout.INVALID_BATCH, NO if is_valid_batch(table) else YES)
        finish_task(counters)
    wait_for_phase(table, layout.CHECK_PHASE, 1)
    return get_int64(table, layout.INVALID_BATCH) == 0


# ---- before and after the layers


@kernel
def embed(thread: int, table: int, layer: int, phase: int) -> None:
    """RESIDUAL = the embeddings of the batch; the last task plans the tiles of attention."""
    rows, scale = get_int64(table, layout.ROWS), get_float32(table, 2 * layout.EMBEDDING_SCALE)
    counters, parts = counters_of(table, layout.EMBED_PHASE), num_tasks(table, rows)
    task = take_task(counters)
    while task <= parts:
        if task == parts:  # attention is the first to need the tiles
            group = get_int64(table, layout.HEADS) // get_int64(table, layout.KV_HEADS)
            count = plan_tiles(get_int64(table, layout.QUERY_START),
                               get_int64(table, layout.SEQUENCES), group,
                               get_int64(table, layout.TILES))  # fmt: skip
            put_int64(table, layout.TILE_COUNT, count)
        else:
            gather_rows(task, parts, get_int64(table, layout.EMBEDDINGS),
                        get_int64(table, layout.EMBEDDINGS_BFLOAT16),
                        get_int64(table, layout.HIDDEN), get_int64(table, layout.TOKEN_IDS),
                        rows, get_int64(table, layout.RESIDUAL))  # fmt: skip
            if get_int64(table, layout.ADAPTERS):
                adapt_embeddings(task, parts, table)
            if scale != 1:
                scale_rows(task, parts, get_int64(table, layout.RESIDUAL), rows,
                           get_int64(table, layout.HIDDEN), scale)  # fmt: skip
            # Features of media come last: the scale is for the embeddings of tokens alone.
            if get_int64(table, layout.EMBED_INDEX):
                replace_rows(task, parts, get_int64(table, layout.EMBEDS),
                             get_int64(table, layout.HIDDEN),
                             get_int64(table, layout.EMBED_INDEX), rows,
                             get_int64(table, layout.RESIDUAL))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, layout.EMBED_PHASE, parts + 1)


@kernel
def logits(thread: int, table: int, layer: int, phase: int) -> None:
    """NORMED = the rows whose logits or hidden states are asked for; LOGITS = those of the former."""
    count, hidden = get_int64(table, layout.NORMED_COUNT), get_int64(table, layout.HIDDEN)
    normed, vocab = get_int64(table, layout.NORMED), get_int64(table, layout.VOCAB)
    counters = counters_of(table, phase + layout.LAST_NORM_PHASE)
    tasks = num_tasks(table, count)
    task = take_task(counters)
    # Only rows that are asked for are normed: of a prompt chunk that is one, or none.
    while task < tasks:
        gather_rows(task, tasks, get_int64(table, layout.RESIDUAL), NO, hidden,
                    get_int64(table, layout.LOGITS_ROWS), count, normed)  # fmt: skip
        rms_norm(task, tasks, normed, count, hidden, get_int64(table, layout.FINAL_NORM),
                 get_float32(table, 2 * layout.EPS), normed)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase + layout.LAST_NORM_PHASE, tasks)
    count = get_int64(table, layout.LOGITS_COUNT)
    if count == 0:
        return
    head = get_int64(table, layout.HEAD_MAP)
    quantize_phase(table, head, normed, count, phase + layout.HEAD_ROWS_PHASE)
    head_products(table, normed, phase + layout.LORA_HEAD_PHASE)
    phase += layout.HEAD_PHASE
    scale = get_float32(table, 2 * layout.LOGITS_SCALE)
    cap = get_float32(table, 2 * layout.LOGITS_CAP)
    counters, tasks = counters_of(table, phase), num_tasks(table, vocab // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    quantized = quantized_rows(thread, table, head, normed, count) if task < tasks else 0
    while task < tasks:
        if get_int64(table, layout.ADAPTERS):
            adapted_head(task, tasks, table, normed, quantized)
        else:
            linear(task, tasks, normed, quantized, count, head, get_int64(table, layout.LOGITS),
                   NO)  # fmt: skip
        if scale != 1 or cap != 0:  # few models have either
            scale_and_soft_cap(task, tasks, get_int64(table, layout.LOGITS), count, vocab, scale,
                               cap)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


# ---- the step


_operate = calling(NOTHING, INT, INT, INT, INT)


@kernel
def _compute(thread: int, table: int) -> None:
    """All operations of a step, as one of its threads."""
    if not _check(table):
        return
    operation = get_int64(table, layout.PROGRAM)
    for _ in range(get_int64(table, layout.PROGRAM_LENGTH)):
        _operate(get_int64(operation, layout.OP_KERNEL), thread, table,
                 get_int64(operation, layout.OP_LAYER),
                 get_int64(operation, layout.OP_PHASE))  # fmt: skip
        operation += WORD * layout.OP_WORDS


@kernel
def step(thread: int, table: int) -> None:
    """Run the batch that `table` (the address of `layout`'s words) describes, as one of its threads.

    When thread 0 returns, the results are there. The other threads need not have come, and may still
    be on their way out. They stay inside for the next step, if it comes soon.
    """
    sync, done = get_int64(table, layout.SYNC), 0
    # Thread 0 is the caller's: the step is open only while that one is inside.
    if thread == 0:
        if enter(sync):
            _compute(thread, table)
            leave(sync, True)
        return
    while wait_for_step(sync, thread, done):
        if enter(sync):
            done = current_step(sync, done)
            _compute(thread, table)
            leave(sync, False)
