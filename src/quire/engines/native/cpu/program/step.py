"""One step of a decoder: a single compiled call for each thread, over all operations of its program.

A step is the check of the batch, and then a list of operations (see `decoder`), each a kernel
`operation(thread, step, arguments, phase)` that is compiled by itself. An operation is one or more phases
(see `phases`). There is no Python in between: the phases of a single token last a few microseconds each,
hardly longer than a call from Python.
"""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import INT, NOTHING, calling, kernel, pointer_to
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.attention import plan_tiles
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN
from quire.engines.native.cpu.kernels.linear import linear
from quire.engines.native.cpu.kernels.rowwise import (
    add_table_rows,
    gather_rows,
    norm_rows,
    replace_rows,
    scale_and_soft_cap,
    scale_rows,
)
from quire.engines.native.cpu.kernels.simd import NO, get_int32, get_int64
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import Head, Step, TokenEmbeddings
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
def is_valid_batch(step: Step) -> bool:
    """Whether the batch stays inside the arrays into which its numbers point, and is consistent.

    It is `inputs.check_batch` without the error texts: that one says what is wrong, once this has
    found that something is.
    """
    rows, sequences = step.rows, step.sequences
    slots = step.num_blocks * step.block_size
    return (
        _all_below(step.token_ids, rows, step.vocab)
        and _all_below(step.positions, rows, step.max_len)
        and _slots_below(step.slots, rows, slots)
        and _all_below(step.logits_rows, step.normed_count, rows)
        and _all_below(step.block_tables, sequences * step.table_width, step.num_blocks)
        and _sequences_valid(step, rows, sequences)
        and _states_valid(step, rows, sequences)
    )


@kernel
def _states_valid(step: Step, rows: int, sequences: int) -> bool:
    """Whether each sequence has a slot for its state, if the model has states."""
    if step.num_slots == 0:
        return True
    if not _all_below(step.state_slots, sequences, step.num_slots):
        return False
    if step.state_saves:
        for row in range(rows):
            slot = get_int32(step.state_saves, row)
            if slot < -1 or slot >= step.num_slots:
                return False
    return True


@kernel
def _sequences_valid(step: Step, rows: int, sequences: int) -> bool:
    """Whether each sequence has rows, at consecutive positions up to its length, and blocks for it."""
    starts, lengths = step.query_start, step.context_lens
    positions = step.positions
    most = step.table_width * step.block_size
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
def _check(step: Step) -> bool:
    """Check the batch in one thread, before any thread follows its numbers into memory.

    NumPy would take some microseconds for each array of the batch, in every step.
    """
    counters = counters_of(step, arguments.CHECK_PHASE)
    if take_task(counters) == 0:
        step.is_invalid = not is_valid_batch(step)
        finish_task(counters)
    wait_for_phase(step, arguments.CHECK_PHASE, 1)
    return not step.is_invalid


# ---- before and after the layers


_read_rows = calling(NOTHING, INT, INT, pointer_to(LinearMap), INT, INT, INT)


@kernel
def embed(thread: int, step: Step, own: TokenEmbeddings, phase: int) -> None:
    """The residual stream = the embeddings of the batch; the last task plans the tiles of attention."""
    rows, hidden, x = step.rows, step.hidden, step.residual
    counters, parts = counters_of(step, phase), num_tasks(step, rows)
    task = take_task(counters)
    while task <= parts:
        if task == parts:  # attention is the first to need the tiles
            step.tile_count = plan_tiles(step.query_start, step.sequences, step.group, step.tiles)
        else:
            if own.table:
                gather_rows(
                    task, parts, own.table, own.is_bfloat16, hidden, step.token_ids, rows, x
                )
            else:
                _read_rows(own.reader, task, parts, own.packed, step.token_ids, rows, x)
            if step.adapters:
                adapt_embeddings(task, parts, step, step.adapters)
            if own.scale != 1:
                scale_rows(task, parts, x, rows, hidden, own.scale)
            if own.positions:
                add_table_rows(task, parts, own.positions, hidden, step.positions, rows, x)
            if own.norm:
                norm_rows(task, parts, own.norm, x, rows, hidden, x)
            # Features of media come last: the scale is for the embeddings of tokens alone.
            if step.embed_index:
                replace_rows(task, parts, step.embeds, hidden, step.embed_index, rows, x)
        task = next_task(counters)
    wait_for_phase(step, phase, parts + 1)


@kernel
def logits(thread: int, step: Step, own: Head, first_phase: int) -> None:
    """`step.normed` = the rows whose logits or hidden states are asked for, and the logits."""
    count, hidden, vocab, normed = step.normed_count, step.hidden, step.vocab, step.normed
    phase = first_phase + arguments.LAST_NORM
    counters, tasks = counters_of(step, phase), num_tasks(step, count)
    task = take_task(counters)
    # Only rows that are asked for are normed: of a prompt chunk that is one, or none.
    while task < tasks:
        gather_rows(task, tasks, step.residual, NO, hidden, step.logits_rows, count, normed)
        if own.norm:
            norm_rows(task, tasks, own.norm, normed, count, hidden, normed)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)
    count, head = step.logits_count, own.linear
    if count == 0 or not head:
        return
    quantize_phase(step, head, normed, count, first_phase + arguments.HEAD_ROWS)
    head_products(step, normed, first_phase + arguments.HEAD_LORA)
    phase = first_phase + arguments.HEAD_COLUMNS
    counters, tasks = counters_of(step, phase), num_tasks(step, vocab // COLUMN_GRAIN + 1)
    task = take_task(counters)
    quantized = quantized_rows(thread, step, head, normed, count) if task < tasks else 0
    while task < tasks:
        if step.adapters:
            adapted_head(task, tasks, step, step.adapters, head, normed, quantized)
        else:
            linear(task, tasks, normed, quantized, count, head, step.logits, NO)
        if own.scale != 1 or own.cap != 0:  # few models have either
            scale_and_soft_cap(task, tasks, step.logits, count, vocab, own.scale, own.cap)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- the step


_operate = calling(NOTHING, INT, pointer_to(Step), INT, INT)


@kernel
def _compute(thread: int, step: Step) -> None:
    """All operations of a step, as one of its threads."""
    if not _check(step):
        return
    for index in range(step.program_length):
        one = step.program[index]
        _operate(one.kernel, thread, step, one.arguments, one.phase)


@kernel
def run_step(thread: int, step: Step) -> None:
    """Run the program on the batch that `step` describes, as one of its threads.

    When thread 0 returns, the results are there. The other threads need not have come, and may still
    be on their way out. They stay inside for the next step, if it comes soon.
    """
    sync, done = step.sync, 0
    # Thread 0 is the caller's: the step is open only while that one is inside.
    if thread == 0:
        if enter(sync):
            _compute(thread, step)
            leave(sync, True)
        return
    while wait_for_step(sync, thread, done):
        if enter(sync):
            done = current_step(sync, done)
            _compute(thread, step)
            leave(sync, False)
