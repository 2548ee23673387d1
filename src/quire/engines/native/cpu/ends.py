"""What comes before a step's layers and after them: the embeddings, and the head."""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.attention import plan_tiles
from quire.engines.native.cpu.check import is_sound
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import (
    NO,
    YES,
    bend_logits,
    gather_rows,
    linear,
    place_rows,
    rms_norm,
    scale_rows,
)
from quire.engines.native.cpu.lora_step import adapt_embeddings, adapted_head, head_products
from quire.engines.native.cpu.phases import ONE, counters_of, next_task, split, wait_for_phase
from quire.engines.native.cpu.rows import quantize_phase, whole_rows
from quire.engines.native.cpu.simd import get_float32, get_int64, put_int64
from quire.engines.native.cpu.sync import finish_task, take_task


@kernel
def check(table: int) -> bool:
    """Whether the batch is sound; one thread looks, and says so in the table."""
    counters = counters_of(table, layout.CHECK_PHASE)
    if take_task(counters) == 0:
        put_int64(table, layout.UNSOUND, NO if is_sound(table) else YES)
        finish_task(counters)
    wait_for_phase(table, layout.CHECK_PHASE, ONE)
    return get_int64(table, layout.UNSOUND) == 0


@kernel
def embed(table: int) -> None:
    """The embeddings of the batch's tokens or those it brings; as the last task attention's tiles."""
    rows, scale = get_int64(table, layout.ROWS), get_float32(table, 2 * layout.EMBEDDING_SCALE)
    counters, parts = counters_of(table, layout.EMBED_PHASE), split(table, rows)
    task = take_task(counters)
    while task <= parts:
        if task == parts:
            group = get_int64(table, layout.HEADS) // get_int64(table, layout.KV_HEADS)
            count = plan_tiles(get_int64(table, layout.QUERY_START),
                               get_int64(table, layout.SEQUENCES), group,
                               get_int64(table, layout.TILES))  # fmt: skip
            put_int64(table, layout.TILE_COUNT, count)
        else:
            gather_rows(task, parts, get_int64(table, layout.EMBEDDINGS),
                        get_int64(table, layout.EMBEDDINGS_NARROW),
                        get_int64(table, layout.HIDDEN), get_int64(table, layout.TOKEN_IDS),
                        rows, get_int64(table, layout.RESIDUAL))  # fmt: skip
            if get_int64(table, layout.ADAPTERS):
                adapt_embeddings(task, parts, table)
            if scale != 1:
                scale_rows(task, parts, get_int64(table, layout.RESIDUAL), rows,
                           get_int64(table, layout.HIDDEN), scale)  # fmt: skip
            if get_int64(table, layout.GIVEN_PLACES):
                place_rows(task, parts, get_int64(table, layout.GIVEN),
                           get_int64(table, layout.HIDDEN),
                           get_int64(table, layout.GIVEN_PLACES), rows,
                           get_int64(table, layout.RESIDUAL))  # fmt: skip
        task = next_task(counters)
    wait_for_phase(table, layout.EMBED_PHASE, parts + 1)


@kernel
def compute_logits(thread: int, table: int, phase: int) -> None:
    """The last norm for the rows whose logits or hidden states are wanted, the head for the former."""
    count, hidden = get_int64(table, layout.NORMED_COUNT), get_int64(table, layout.HIDDEN)
    normed, vocab = get_int64(table, layout.NORMED), get_int64(table, layout.VOCAB)
    counters = counters_of(table, phase + layout.LAST_NORM_PHASE)
    tasks = split(table, count)
    task = take_task(counters)
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
    counters, tasks = counters_of(table, phase), split(table, vocab // layout.COLUMN_GRAIN + 1)
    task = take_task(counters)
    whole = whole_rows(thread, table, head, normed, count) if task < tasks else 0
    while task < tasks:
        if get_int64(table, layout.ADAPTERS):
            adapted_head(task, tasks, table, normed, whole)
        else:
            linear(task, tasks, normed, whole, count, head, get_int64(table, layout.LOGITS),
                   NO)  # fmt: skip
        if scale != 1 or cap != 0:
            bend_logits(task, tasks, get_int64(table, layout.LOGITS), count, vocab, scale, cap)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)
