"""One step of a decoder as one compiled call per thread: every layer, with barriers between phases.

`layout` names the words of the tables that it reads.
"""

from __future__ import annotations

from quire.native.cpu import layout
from quire.native.cpu.attention import attention, plan_tiles
from quire.native.cpu.jit import kernel
from quire.native.cpu.kernels import (
    NO,
    YES,
    gated_ffn,
    gather_rows,
    linear,
    rms_norm,
    rotate_and_store,
)
from quire.native.cpu.simd import get_float32, get_int64, put_int64
from quire.native.cpu.sync import barrier

_WORD = 8


@kernel
def _map(
    thread: int, table: int, words: int, x: int, depth: int, out: int, columns: int, accumulate: int
) -> None:
    """The linear map whose three words lie at `words`, on all rows."""
    linear(thread, get_int64(table, layout.THREADS), x, get_int64(table, layout.ROWS), depth,
           get_int64(words, 0), get_int64(words, 1), get_int64(words, 2), out, columns,
           accumulate)  # fmt: skip


@kernel
def _norm(thread: int, table: int, weight: int) -> None:
    """The norm of the residual stream."""
    rms_norm(thread, get_int64(table, layout.THREADS), get_int64(table, layout.RESIDUAL),
             get_int64(table, layout.ROWS), get_int64(table, layout.HIDDEN), weight,
             get_float32(table, 2 * layout.EPS), get_int64(table, layout.NORMED))  # fmt: skip


@kernel
def _wait(table: int) -> None:
    barrier(get_int64(table, layout.SYNC), get_int64(table, layout.THREADS))


@kernel
def _project(thread: int, table: int, layer: int) -> None:
    """Queries, keys and values of the normed rows."""
    normed, hidden = get_int64(table, layout.NORMED), get_int64(table, layout.HIDDEN)
    size = get_int64(table, layout.HEAD_DIM)
    q_size = get_int64(table, layout.HEADS) * size
    kv_size = get_int64(table, layout.KV_HEADS) * size
    _map(thread, table, layer + _WORD * layout.Q_MAP, normed, hidden,
         get_int64(table, layout.QUERIES), q_size, NO)  # fmt: skip
    _map(thread, table, layer + _WORD * layout.K_MAP, normed, hidden,
         get_int64(table, layout.KEYS), kv_size, NO)  # fmt: skip
    _map(thread, table, layer + _WORD * layout.V_MAP, normed, hidden,
         get_int64(table, layout.VALUES), kv_size, NO)  # fmt: skip


@kernel
def _rotate_and_store(thread: int, table: int, layer: int) -> None:
    rotate_and_store(
        thread,
        get_int64(table, layout.THREADS),
        get_int64(table, layout.QUERIES),
        get_int64(table, layout.KEYS),
        get_int64(table, layout.VALUES),
        get_int64(table, layout.ROWS),
        get_int64(table, layout.HEADS),
        get_int64(table, layout.KV_HEADS),
        get_int64(table, layout.HEAD_DIM),
        get_int64(layer, layout.Q_NORM),
        get_int64(layer, layout.K_NORM),
        get_float32(table, 2 * layout.EPS),
        get_float32(table, 2 * layout.SCALE),
        get_int64(table, layout.POSITIONS),
        get_int64(table, layout.SLOTS),
        get_int64(table, layout.COSINES),
        get_int64(table, layout.SINES),
        get_int64(table, layout.BLOCK_SIZE),
        get_int64(layer, layout.K_CACHE),
        get_int64(layer, layout.V_CACHE),
    )


@kernel
def _attend(thread: int, table: int, layer: int, number: int) -> None:
    attention(
        get_int64(table, layout.QUERIES),
        get_int64(table, layout.HEADS),
        get_int64(table, layout.KV_HEADS),
        get_int64(table, layout.HEAD_DIM),
        get_int64(table, layout.POSITIONS),
        get_int64(table, layout.BLOCK_TABLES),
        get_int64(table, layout.TABLE_WIDTH),
        get_int64(table, layout.BLOCK_SIZE),
        get_int64(layer, layout.K_CACHE),
        get_int64(layer, layout.V_CACHE),
        get_int64(layer, layout.WINDOW),
        get_int64(table, layout.TILES),
        get_int64(table, layout.TILE_COUNT),
        get_int64(table, layout.COUNTERS) + _WORD * number,
        get_int64(table, layout.MIXED),
        get_int64(table, layout.SCRATCH) + thread * get_int64(table, layout.SCRATCH_BYTES),
    )


@kernel
def _layer(thread: int, table: int, layer: int, number: int) -> None:
    """One layer; `layer` is the address of its row, `number` counts from 0."""
    threads, rows = get_int64(table, layout.THREADS), get_int64(table, layout.ROWS)
    hidden, ffn = get_int64(table, layout.HIDDEN), get_int64(table, layout.FFN)
    residual, normed = get_int64(table, layout.RESIDUAL), get_int64(table, layout.NORMED)
    gate, up = get_int64(table, layout.GATE), get_int64(table, layout.UP)
    q_size = get_int64(table, layout.HEADS) * get_int64(table, layout.HEAD_DIM)

    _norm(thread, table, get_int64(layer, layout.ATTENTION_NORM))
    _wait(table)
    _project(thread, table, layer)
    _wait(table)
    _rotate_and_store(thread, table, layer)
    _wait(table)
    _attend(thread, table, layer, number)
    _wait(table)
    _map(thread, table, layer + _WORD * layout.O_MAP, get_int64(table, layout.MIXED), q_size,
         residual, hidden, YES)  # fmt: skip
    _wait(table)
    _norm(thread, table, get_int64(layer, layout.FFN_NORM))
    _wait(table)
    gated_ffn(thread, threads, normed, rows, hidden, layer + _WORD * layout.GATE_MAP, gate, up,
              ffn)  # fmt: skip
    _wait(table)
    _map(thread, table, layer + _WORD * layout.DOWN_MAP, gate, ffn, residual, hidden, YES)
    _wait(table)


@kernel
def _start(thread: int, table: int) -> None:
    """Embeddings of the batch's tokens, and the tiles of attention."""
    threads = get_int64(table, layout.THREADS)
    if thread == threads - 1:
        group = get_int64(table, layout.HEADS) // get_int64(table, layout.KV_HEADS)
        count = plan_tiles(get_int64(table, layout.QUERY_START),
                           get_int64(table, layout.SEQUENCES), group,
                           get_int64(table, layout.TILES))  # fmt: skip
        put_int64(table, layout.TILE_COUNT, count)
    gather_rows(thread, threads, get_int64(table, layout.EMBEDDINGS),
                get_int64(table, layout.EMBEDDINGS_NARROW), get_int64(table, layout.HIDDEN),
                get_int64(table, layout.TOKEN_IDS), get_int64(table, layout.ROWS),
                get_int64(table, layout.RESIDUAL))  # fmt: skip


@kernel
def _finish(thread: int, table: int) -> None:
    """The last norm and the head, for the rows whose logits are wanted."""
    threads, count = get_int64(table, layout.THREADS), get_int64(table, layout.LOGITS_COUNT)
    hidden, normed = get_int64(table, layout.HIDDEN), get_int64(table, layout.NORMED)
    gather_rows(thread, threads, get_int64(table, layout.RESIDUAL), NO, hidden,
                get_int64(table, layout.LOGITS_ROWS), count, normed)  # fmt: skip
    # The same share of rows as the gather's: no barrier between.
    rms_norm(thread, threads, normed, count, hidden, get_int64(table, layout.FINAL_NORM),
             get_float32(table, 2 * layout.EPS), normed)  # fmt: skip
    _wait(table)
    linear(thread, threads, normed, count, hidden, get_int64(table, layout.HEAD),
           get_int64(table, layout.HEAD_NARROW), NO, get_int64(table, layout.LOGITS),
           get_int64(table, layout.VOCAB), NO)  # fmt: skip
    _wait(table)


@kernel
def step(thread: int, table: int) -> None:
    """Run the batch that `table` (the address of `layout`'s words) describes, as one of its threads."""
    _start(thread, table)
    _wait(table)
    layers = get_int64(table, layout.LAYER_TABLE)
    for number in range(get_int64(table, layout.LAYERS)):
        _layer(thread, table, layers + _WORD * layout.LAYER_WORDS * number, number)
    _finish(thread, table)
