"""What LoRA adapters add to a step: `x @ a.T @ b` for linear maps, and their own embeddings and heads.

A run is a number of neighbouring rows with one adapter. The small products `h = x @ a.T` of all runs
are a phase of their own. `h @ b`, and the bias if there is one, is then added to some columns of a
map's output by the task that has just written them, before anything else reads them. Each element
is summed in one order, whatever the runs. None of this runs in a step whose rows have no adapter.

`reference.add_lora` is the same product on arrays.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import INT, NOTHING, calling, kernel
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.layout import (
    LANES,
    LORA_GRAIN,
    LORA_PANEL,
    LORA_PIECES,
    WORD,
)
from quire.engines.native.cpu.kernels.linear import linear_columns, quantized_row_bytes
from quire.engines.native.cpu.kernels.rowwise import gather_rows, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_float32, get_int64
from quire.engines.native.cpu.kernels.tiles import make_outer_tile
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    take_task,
    wait_for_phase,
)

TALL = 4 if LANES < LORA_PANEL else 8  # rows of the tall tile: 8 sums hide each other's latency
Q, K, V, OUTPUT, GATE, UP, DOWN = range(len(layout.LINEARS))
"""The linear maps of a layer, as `layer_entry` counts them."""

_tall = make_outer_tile(TALL, LORA_PANEL // LANES, True, layout.KV_FLOAT32)
_flat = make_outer_tile(1, LORA_PANEL // LANES, True, layout.KV_FLOAT32)


@kernel
def layer_entry(table: int, layer: int, linear: int) -> int:
    """The index of the entry that adapters have for one of a layer's LINEARS."""
    layers = get_int64(table, layout.LAYER_TABLE)
    index = (layer - layers) // (WORD * layout.LAYER_WORDS)
    return layout.FIRST_LAYER_ENTRY + index * layout.LORA_MAPS + linear


@kernel
def _entry_address(run: int, entry: int) -> int:
    """The address of an entry of the adapter of a run: the LORA_WORDS of one map."""
    return get_int64(run, layout.RUN_ADAPTER) + WORD * (
        layout.FIRST_ENTRY + entry * layout.LORA_WORDS
    )


# ---- the first product: h = x @ a.T


@kernel
def _has_lora(adapters: int, entry: int, maps: int) -> bool:
    """Whether an adapter of the batch may have one of `maps` entries from `entry` on."""
    mask = get_int64(adapters, layout.LORA_MASK)
    if entry >= layout.FIRST_LAYER_ENTRY:  # the mask has the bits of one layer for all of them
        entry = layout.FIRST_LAYER_ENTRY + (entry - layout.FIRST_LAYER_ENTRY) % layout.LORA_MAPS
    return mask >> entry & ((1 << maps) - 1) != 0


@kernel
def _small_product(
    adapters: int, run: int, entry: int, product: int, piece: int, pieces: int, x: int
) -> None:
    """One of `pieces` pieces of the columns of `h = x @ a.T`, for the rows of one run."""
    words, row = _entry_address(run, entry), get_int64(run, layout.RUN_FIRST)
    rank, depth = get_int64(words, layout.MAP_COLUMNS), get_int64(words, layout.MAP_DEPTH)
    h = get_int64(adapters, layout.LORA_H) + product * get_int64(adapters, layout.LORA_H_BYTES)
    first, end = task_range(piece, pieces, rank, LORA_GRAIN)
    linear_columns(x + row * depth * 4, 0, get_int64(run, layout.RUN_ROWS), words,
                   h + row * get_int64(adapters, layout.LORA_H_STRIDE), first, end, NO)  # fmt: skip


@kernel
def _small_products(
    table: int, adapters: int, runs: int, count: int, entry: int, maps: int, x: int, phase: int
) -> None:
    """The phase of the products of x with a, for `maps` entries from `entry` on and `count` runs."""
    counters = counters_of(table, phase)
    # With one run and one map there would be one task: the rank is cut, too, to occupy all threads.
    pieces = min(get_int64(table, layout.THREADS), LORA_PIECES)
    tasks = count * maps * pieces
    task = take_task(counters)
    while task < tasks:
        part = task // pieces
        run = runs + WORD * layout.RUN_WORDS * (part // maps)
        product = part % maps
        _small_product(adapters, run, entry + product, product, task % pieces, pieces, x)
        task = next_task(counters)
    wait_for_phase(table, phase, tasks)


@kernel
def layer_products(table: int, entry: int, maps: int, x: int, phase: int) -> None:
    """The small products of maps of a layer, if an adapter of the batch has some."""
    adapters = get_int64(table, layout.ADAPTERS)
    if adapters and _has_lora(adapters, entry, maps):
        _small_products(table, adapters, get_int64(adapters, layout.RUNS),
                        get_int64(adapters, layout.RUN_COUNT), entry, maps, x, phase)  # fmt: skip


# ---- the second product: h @ b


@kernel
def _add_bias(bias: int, rows: int, out: int, columns: int, first: int, end: int) -> None:
    """Add a bias to some columns of out (rows, columns)."""
    for row in range(rows):
        for column in range(first, end, LANES):
            count = min(LANES, end - column)
            target = out + 4 * (row * columns + column)
            total = simd.add(
                simd.load_part(target, count), simd.load_part(bias + 4 * column, count)
            )
            simd.store_part(target, total, count)


@kernel
def _add_panel(h: int, rank: int, rows: int, panel: int, out: int, out_stride: int) -> None:
    """Add h (rows, rank) times one panel of b to the panel's columns of out."""
    row = 0
    while row + TALL <= rows:
        _tall(h + row * rank * 4, rank * 4, panel, LORA_PANEL * 4, rank, out + row * out_stride,
              out_stride, panel)  # fmt: skip
        row += TALL
    while row < rows:
        _flat(h + row * rank * 4, rank * 4, panel, LORA_PANEL * 4, rank, out + row * out_stride,
              out_stride, panel)  # fmt: skip
        row += 1


@kernel
def _add_partial_panel(
    h: int, rank: int, rows: int, panel: int, out: int, out_stride: int, columns: int
) -> None:
    """The same for fewer columns than a panel has, with each sum in the same order."""
    for row in range(rows):
        for column in range(0, columns, LANES):
            count = min(LANES, columns - column)
            target = out + row * out_stride + 4 * column
            total = simd.load_part(target, count)
            for k in range(rank):
                weights = simd.load_part(panel + 4 * (k * LORA_PANEL + column), count)
                total = simd.fma(simd.splat(get_float32(h, row * rank + k)), weights, total)
            simd.store_part(target, total, count)


@kernel
def add_product(
    entry: int, h: int, rows: int, out: int, columns: int, first: int, end: int
) -> None:
    """`out += h @ b + bias` in the columns `first` to `end - 1`: h (rows, rank), out (rows, columns).

    `entry` is the address of the LORA_WORDS of one map. b is stored in panels of LORA_PANEL columns,
    each (rank, LORA_PANEL), the last one padded, so that a panel is read in the order of memory.
    """
    b, bias = get_int64(entry, layout.LORA_B), get_int64(entry, layout.LORA_BIAS)
    if bias:
        _add_bias(bias, rows, out, columns, first, end)
    rank, column = get_int64(entry, layout.MAP_COLUMNS), first
    while b and column < end:
        inside = column % LORA_PANEL
        count = min(LORA_PANEL - inside, end - column)
        panel = b + 4 * (column // LORA_PANEL * rank * LORA_PANEL + inside)
        if count == LORA_PANEL:
            _add_panel(h, rank, rows, panel, out + 4 * column, columns * 4)
        else:
            _add_partial_panel(h, rank, rows, panel, out + 4 * column, columns * 4, count)
        column += count


@kernel
def add_products(
    runs: int, count: int, entry: int, h: int, stride: int, out: int, columns: int, first: int,
    end: int,
) -> None:  # fmt: skip
    """`add_product` of one entry for each of `count` runs.

    In `h`, the part of a run that begins with row r begins at `r * stride`, since the largest rank
    of the batch gives the stride. Within its part, rows are the rank of its own adapter apart.
    """
    for index in range(count):
        run = runs + WORD * layout.RUN_WORDS * index
        row = get_int64(run, layout.RUN_FIRST)
        add_product(_entry_address(run, entry), h + row * stride, get_int64(run, layout.RUN_ROWS),
                    out + row * columns * 4, columns, first, end)  # fmt: skip


_add_products = calling(NOTHING, *[INT] * 9)


@kernel
def add_lora(
    adapters: int, entry: int, product: int, out: int, columns: int, first: int, end: int
) -> None:
    """Add what the batch's adapters have for one map to some columns of its output.

    `adapters` is the address of the ADAPTERS_WORDS, 0 if no row has an adapter. `product` is the
    index of the map among those whose small products are one phase (q, k and v, or gate and up).
    """
    if adapters:
        h = get_int64(adapters, layout.LORA_H) + product * get_int64(adapters, layout.LORA_H_BYTES)
        _add_products(get_int64(adapters, layout.LORA_KERNEL), get_int64(adapters, layout.RUNS),
                      get_int64(adapters, layout.RUN_COUNT), entry, h,
                      get_int64(adapters, layout.LORA_H_STRIDE), out, columns, first,
                      end)  # fmt: skip


# ---- embeddings


@kernel
def _adapt_rows(table: int, adapters: int, run: int, first: int, end: int) -> None:
    """`adapt_embeddings` of the rows `first` to `end - 1`, all of one run."""
    adapter, hidden = get_int64(run, layout.RUN_ADAPTER), get_int64(table, layout.HIDDEN)
    rows, ids = end - first, get_int64(table, layout.TOKEN_IDS) + 4 * first
    out = get_int64(table, layout.RESIDUAL) + first * hidden * 4
    # The model's own rows are there already: looking them up in vain costs less than a test of each.
    own = get_int64(adapter, layout.ADAPTER_EMBEDDINGS)
    if own:
        is_bfloat16 = get_int64(adapter, layout.ADAPTER_EMBEDDINGS_BFLOAT16)
        gather_rows(0, 1, own, is_bfloat16, hidden, ids, rows, out)
    entry = _entry_address(run, layout.EMBEDDINGS_ENTRY)
    if get_int64(entry, layout.LORA_B):
        rank = get_int64(entry, layout.MAP_COLUMNS)
        h = get_int64(adapters, layout.LORA_H) + first * get_int64(adapters, layout.LORA_H_STRIDE)
        gather_rows(0, 1, get_int64(entry, layout.WEIGHT), NO, rank, ids, rows, h)
        add_product(entry, h, rows, out, hidden, 0, hidden)


@kernel
def adapt_embeddings(task: int, tasks: int, table: int) -> None:
    """Replace the model's embeddings by those that adapters have whole, and add their products.

    An adapter of the embeddings has a as a table: looking up a token's row stands for `x @ a.T`.
    """
    adapters = get_int64(table, layout.ADAPTERS)
    # A task's rows may begin and end within a run.
    first, end = task_range(task, tasks, get_int64(table, layout.ROWS), 1)
    for index in range(get_int64(adapters, layout.RUN_COUNT)):
        run = get_int64(adapters, layout.RUNS) + WORD * layout.RUN_WORDS * index
        row = get_int64(run, layout.RUN_FIRST)
        low, high = max(first, row), min(end, row + get_int64(run, layout.RUN_ROWS))
        if low < high:
            _adapt_rows(table, adapters, run, low, high)


# ---- the head


@kernel
def head_products(table: int, x: int, phase: int) -> None:
    """The small products of the head, for the rows whose logits are asked for."""
    adapters = get_int64(table, layout.ADAPTERS)
    if adapters and _has_lora(adapters, layout.HEAD_ENTRY, 1):
        _small_products(table, adapters, get_int64(adapters, layout.HEAD_RUNS),
                        get_int64(adapters, layout.HEAD_RUN_COUNT), layout.HEAD_ENTRY, 1, x,
                        phase)  # fmt: skip


@kernel
def adapted_head(task: int, tasks: int, table: int, x: int, quantized: int) -> None:
    """Some columns of the logits, each row by the head of its adapter if that has one.

    `quantized` holds the rows of x as int8, if the model's own head takes them so.
    """
    model_head, stride = get_int64(table, layout.HEAD_MAP), 0
    if get_int64(model_head, layout.KIND) >= layout.INT8:
        stride = quantized_row_bytes(get_int64(model_head, layout.QUANT_DEPTH),
                                     get_int64(model_head, layout.SPAN))  # fmt: skip
    adapters, out = get_int64(table, layout.ADAPTERS), get_int64(table, layout.LOGITS)
    vocab, hidden = get_int64(table, layout.VOCAB), get_int64(table, layout.HIDDEN)
    first, end = task_range(task, tasks, vocab, layout.COLUMN_GRAIN)
    for index in range(get_int64(adapters, layout.HEAD_COUNT)):
        part = get_int64(adapters, layout.HEADS_OF_ROWS) + WORD * layout.RUN_WORDS * index
        head, row = get_int64(part, layout.RUN_ADAPTER), get_int64(part, layout.RUN_FIRST)
        if not head:
            head = model_head
        linear_columns(x + row * hidden * 4, quantized + row * stride,
                       get_int64(part, layout.RUN_ROWS), head, out + row * vocab * 4, first, end,
                       NO)  # fmt: skip
    if _has_lora(adapters, layout.HEAD_ENTRY, 1):
        _add_products(get_int64(adapters, layout.LORA_KERNEL),
                      get_int64(adapters, layout.HEAD_RUNS),
                      get_int64(adapters, layout.HEAD_RUN_COUNT), layout.HEAD_ENTRY,
                      get_int64(adapters, layout.LORA_H), get_int64(adapters, layout.LORA_H_STRIDE),
                      out, vocab, first, end)  # fmt: skip
