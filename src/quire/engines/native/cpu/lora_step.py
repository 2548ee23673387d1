"""The parts of a step that LoRA adapters bring: a phase of small products, own embeddings and heads.

None of it runs in a step in which no row has an adapter.
"""

from __future__ import annotations

from quire.engines.native.cpu import layout
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, gather_rows, linear_columns, share
from quire.engines.native.cpu.layout import LORA_GRAIN, LORA_PIECES
from quire.engines.native.cpu.lora import add_product, add_products, run_entry
from quire.engines.native.cpu.phases import ONE, counters_of, next_task, wait_for_phase
from quire.engines.native.cpu.quantized import quantized_row_bytes
from quire.engines.native.cpu.simd import get_int64
from quire.engines.native.cpu.sync import take_task


@kernel
def has_lora(adapters: int, number: int, maps: int) -> bool:
    """Whether an adapter of the batch has something for one of `maps` maps from `number` on."""
    mask = get_int64(adapters, layout.LORA_MASK)
    if number >= layout.FIRST_LAYER_ENTRY:
        number = layout.FIRST_LAYER_ENTRY + (number - layout.FIRST_LAYER_ENTRY) % layout.LORA_MAPS
    return mask >> number & ((ONE << maps) - 1) != 0


@kernel
def _small_product(
    adapters: int, run: int, number: int, place: int, piece: int, pieces: int, x: int
) -> None:
    """Some columns of `h = x @ a.T` for the rows of one run."""
    entry, row = run_entry(run, number), get_int64(run, layout.RUN_FIRST)
    rank, depth = get_int64(entry, layout.MAP_COLUMNS), get_int64(entry, layout.MAP_DEPTH)
    h = get_int64(adapters, layout.LORA_H) + place * get_int64(adapters, layout.LORA_H_BYTES)
    first, end = share(piece, pieces, rank, LORA_GRAIN)
    linear_columns(x + row * depth * 4, NO, get_int64(run, layout.RUN_ROWS), entry,
                   h + row * get_int64(adapters, layout.LORA_H_STRIDE), first, end, NO)  # fmt: skip


@kernel
def small_products(
    table: int, adapters: int, runs: int, count: int, number: int, maps: int, x: int, phase: int
) -> None:
    """The phase of the products of x with the a of `maps` maps from `number` on, for `count` runs."""
    counters = counters_of(table, phase)
    pieces = min(get_int64(table, layout.THREADS), LORA_PIECES)
    tasks = count * maps * pieces
    task = take_task(counters)
    while task < tasks:
        part = task // pieces
        run = runs + 8 * layout.RUN_WORDS * (part // maps)
        place = part % maps
        _small_product(adapters, run, number + place, place, task % pieces, pieces, x)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def layer_products(table: int, number: int, maps: int, x: int, phase: int) -> None:
    """`small_products` of maps in a layer, where an adapter of the batch has some."""
    adapters = get_int64(table, layout.ADAPTERS)
    if adapters and has_lora(adapters, number, maps):
        small_products(table, adapters, get_int64(adapters, layout.RUNS),
                       get_int64(adapters, layout.RUN_COUNT), number, maps, x, phase)  # fmt: skip


# ---- embeddings


@kernel
def _adapt_rows(table: int, adapters: int, run: int, first: int, end: int) -> None:
    """The rows `first` to `end - 1`, all of one run."""
    adapter, hidden = get_int64(run, layout.RUN_ADAPTER), get_int64(table, layout.HIDDEN)
    rows, ids = end - first, get_int64(table, layout.TOKEN_IDS) + 4 * first
    out = get_int64(table, layout.RESIDUAL) + first * hidden * 4
    own = get_int64(adapter, layout.OWN_EMBEDDINGS)
    if own:
        gather_rows(NO, ONE, own, get_int64(adapter, layout.OWN_EMBEDDINGS_NARROW), hidden, ids,
                    rows, out)  # fmt: skip
    entry = run_entry(run, layout.EMBEDDINGS_ENTRY)
    if get_int64(entry, layout.LORA_B):
        rank = get_int64(entry, layout.MAP_COLUMNS)
        h = get_int64(adapters, layout.LORA_H) + first * get_int64(adapters, layout.LORA_H_STRIDE)
        gather_rows(NO, ONE, get_int64(entry, layout.WEIGHT), NO, rank, ids, rows, h)
        add_product(entry, h, rows, out, hidden, NO, hidden)


@kernel
def adapt_embeddings(task: int, tasks: int, table: int) -> None:
    """Put the adapters' own embeddings in the place of the model's, and add their products."""
    adapters = get_int64(table, layout.ADAPTERS)
    first, end = share(task, tasks, get_int64(table, layout.ROWS), ONE)
    for index in range(get_int64(adapters, layout.RUN_COUNT)):
        run = get_int64(adapters, layout.RUNS) + 8 * layout.RUN_WORDS * index
        row = get_int64(run, layout.RUN_FIRST)
        low, high = max(first, row), min(end, row + get_int64(run, layout.RUN_ROWS))
        if low < high:
            _adapt_rows(table, adapters, run, low, high)


# ---- the head


@kernel
def head_products(table: int, x: int, phase: int) -> None:
    """`small_products` of the head, for the rows whose logits are wanted."""
    adapters = get_int64(table, layout.ADAPTERS)
    if adapters and has_lora(adapters, layout.HEAD_ENTRY, ONE):
        small_products(table, adapters, get_int64(adapters, layout.HEAD_RUNS),
                       get_int64(adapters, layout.HEAD_RUN_COUNT), layout.HEAD_ENTRY, ONE, x,
                       phase)  # fmt: skip


@kernel
def adapted_head(task: int, tasks: int, table: int, x: int, whole: int) -> None:
    """Some columns of the logits, each row by its adapter's own head where it has one.

    `whole` has the rows of x in whole numbers, where the model's own head wants them.
    """
    model_head, stride = get_int64(table, layout.HEAD_MAP), 0
    if get_int64(model_head, layout.KIND) >= layout.INT8:
        stride = quantized_row_bytes(get_int64(model_head, layout.QUANT_DEPTH),
                                     get_int64(model_head, layout.SPAN))  # fmt: skip
    adapters, out = get_int64(table, layout.ADAPTERS), get_int64(table, layout.LOGITS)
    vocab, hidden = get_int64(table, layout.VOCAB), get_int64(table, layout.HIDDEN)
    first, end = share(task, tasks, vocab, layout.COLUMN_GRAIN)
    for index in range(get_int64(adapters, layout.HEAD_COUNT)):
        part = get_int64(adapters, layout.HEADS_OF_ROWS) + 8 * layout.RUN_WORDS * index
        head, row = get_int64(part, layout.RUN_ADAPTER), get_int64(part, layout.RUN_FIRST)
        if not head:
            head = model_head
        linear_columns(x + row * hidden * 4, whole + row * stride, get_int64(part, layout.RUN_ROWS),
                       head, out + row * vocab * 4, first, end, NO)  # fmt: skip
    if has_lora(adapters, layout.HEAD_ENTRY, ONE):
        add_products(get_int64(adapters, layout.HEAD_RUNS),
                     get_int64(adapters, layout.HEAD_RUN_COUNT), layout.HEAD_ENTRY,
                     get_int64(adapters, layout.LORA_H), get_int64(adapters, layout.LORA_H_STRIDE),
                     out, vocab, first, end)  # fmt: skip
