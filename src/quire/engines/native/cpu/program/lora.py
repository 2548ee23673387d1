"""What LoRA adapters add to a step: `x @ a.T @ b` for linear maps, and their own embeddings and heads.

A run is a number of neighbouring rows with one adapter. The small products `h = x @ a.T` of all runs
are a phase of their own. `h @ b`, and the bias if there is one, is then added to some columns of a
map's output by the task that has just written them, before anything else reads them. Each element
is summed in one order, whatever the runs. None of this runs in a step whose rows have no adapter.

`reference.add_lora` is the same product on arrays.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import (
    INT,
    NOTHING,
    calling,
    kernel,
    outlined,
    pointer_to,
)
from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.layout import LANES, LORA_GRAIN, LORA_PANEL, LORA_PIECES
from quire.engines.native.cpu.kernels.linear import (
    linear_columns,
)
from quire.engines.native.cpu.kernels.rowwise import gather_rows, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_float32, get_int32
from quire.engines.native.cpu.kernels.tiles import make_outer_tile
from quire.engines.native.cpu.program.arguments import (
    LoraBatch,
    LoraEntry,
    LoraRun,
    Step,
)
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    take_task,
    wait_for_phase,
)

TALL = 4 if LANES < LORA_PANEL else 8  # rows of the tall tile: 8 sums hide each other's latency
_tall = make_outer_tile(TALL, LORA_PANEL // LANES, True, layout.KV_FLOAT32)
_flat = make_outer_tile(1, LORA_PANEL // LANES, True, layout.KV_FLOAT32)


# ---- the first product: h = x @ a.T


@kernel
def _has_lora(adapters: LoraBatch, entry: int, maps: int) -> bool:
    """Whether an adapter of the batch may have one of `maps` entries from `entry` on."""
    mask = adapters.mask
    if entry >= layout.FIRST_LAYER_ENTRY:  # the mask has the bits of one layer for all of them
        entry = layout.FIRST_LAYER_ENTRY + (entry - layout.FIRST_LAYER_ENTRY) % layout.LORA_MAPS
    return mask >> entry & ((1 << maps) - 1) != 0


@kernel
def _small_product(
    adapters: LoraBatch, run: LoraRun, entry: int, product: int, piece: int, pieces: int, x: int
) -> None:
    """One of `pieces` pieces of the columns of `h = x @ a.T`, for the rows of one run."""
    own, row = run.adapter.entries[entry], run.first
    if not own.b:
        return
    h = adapters.h + product * adapters.h_bytes
    first, end = task_range(piece, pieces, own.a.columns, LORA_GRAIN)
    linear_columns(x + row * own.a.depth * 4, 0, run.rows, own.a, h + row * adapters.h_stride, first,
                   end, NO)  # fmt: skip


@kernel
def _small_products(
    step: Step, adapters: LoraBatch, runs: Structs[LoraRun], count: int, entry: int, maps: int, x: int,
    phase: int,
) -> None:  # fmt: skip
    """The phase of the products of x with a, for `maps` entries from `entry` on and `count` runs."""
    counters = counters_of(step, phase)
    # With one run and one map there would be one task: the rank is cut, too, to occupy all threads.
    pieces = min(step.threads, LORA_PIECES)
    tasks = count * maps * pieces
    task = take_task(counters)
    while task < tasks:
        part = task // pieces
        product = part % maps
        _small_product(adapters, runs[part // maps], entry + product, product, task % pieces, pieces,
                       x)  # fmt: skip
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@outlined
def layer_products(step: Step, entry: int, maps: int, x: int, phase: int) -> None:
    """The small products of maps of a layer, if an adapter of the batch has some."""
    adapters = step.adapters
    if adapters and _has_lora(adapters, entry, maps):
        _small_products(step, adapters, adapters.runs, adapters.run_count, entry, maps, x, phase)


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
    entry: LoraEntry, h: int, rows: int, out: int, columns: int, first: int, end: int
) -> None:
    """`out += h @ b + bias` in the columns `first` to `end - 1`: h (rows, rank), out (rows, columns).

    b is stored in panels of LORA_PANEL columns, each (rank, LORA_PANEL), the last one padded, so that a
    panel is read in the order of memory.
    """
    if entry.bias:
        _add_bias(entry.bias, rows, out, columns, first, end)
    b = entry.b
    if not b:
        return
    rank, column = entry.a.columns, first
    while column < end:
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
    runs: Structs[LoraRun], count: int, entry: int, h: int, stride: int, out: int, columns: int,
    first: int, end: int,
) -> None:  # fmt: skip
    """`add_product` of one entry for each of `count` runs.

    In `h`, the part of a run that begins with row r begins at `r * stride`, since the largest rank
    of the batch gives the stride. Within its part, rows are the rank of its own adapter apart.
    """
    for index in range(count):
        run = runs[index]
        row = run.first
        add_product(run.adapter.entries[entry], h + row * stride, run.rows, out + row * columns * 4,
                    columns, first, end)  # fmt: skip


_add_products = calling(NOTHING, pointer_to(LoraRun, several=True), *[INT] * 8)


@outlined
def add_lora(
    adapters: LoraBatch | None,
    entry: int,
    product: int,
    out: int,
    columns: int,
    first: int,
    end: int,
) -> None:
    """Add what the batch's adapters have for one map to some columns of its output.

    `product` is the index of the map among those whose small products are one phase (q, k and v, or
    gate and up).
    """
    if adapters:
        h = adapters.h + product * adapters.h_bytes
        _add_products(adapters.kernel, adapters.runs, adapters.run_count, entry, h,
                      adapters.h_stride, out, columns, first, end)  # fmt: skip


# ---- experts, and heads of latents


@kernel
def _first_row_from(row: int, rows_of: int, first: int, count: int) -> int:
    """The first of `rows_of` (count,), from `first` on, that is at least `row`."""
    while first < count and get_int32(rows_of, first) < row:
        first += 1
    return first


@kernel
def add_inner_products(
    adapters: LoraBatch, h: int, entry: int, x: int, rows_of: int, row: int, count: int, out: int,
    columns: int, first: int, end: int,
) -> None:  # fmt: skip
    """`out += x @ a.T @ b` in some columns of out (count, columns), each row by its own adapter.

    Row i of x and out is row `rows_of[i]` of the batch, or row `row + i` if that is 0. They rise, so that
    the rows of a run are neighbours here, too. `h` is this thread's, of SCRATCH_ROWS rows: every task
    computes the small product for itself, which takes less time than a phase for each expert.
    """
    low = 0
    for index in range(adapters.run_count):
        run = adapters.runs[index]
        high = max(0, min(run.first + run.rows - row, count))
        if rows_of:
            low = _first_row_from(run.first, rows_of, low, count)
            high = _first_row_from(run.first + run.rows, rows_of, low, count)
        else:
            low = max(0, min(run.first - row, count))
        entries = run.adapter.inner_entries
        if entries and low < high:
            own, rows = entries[entry], high - low
            if own.b:
                depth = own.a.depth
                linear_columns(x + 4 * low * depth, 0, rows, own.a, h, 0, own.a.columns, NO)
            add_product(own, h, rows, out + 4 * low * columns, columns, first, end)
        low = high


_add_inner_products = calling(NOTHING, pointer_to(LoraBatch), *[INT] * 10)


@kernel
def add_inner_lora(
    adapters: LoraBatch | None, thread: int, entry: int, x: int, rows_of: int, row: int, count: int,
    out: int, columns: int, first: int, end: int,
) -> None:  # fmt: skip
    """`add_inner_products`, if an adapter of the batch has such entries."""
    if adapters and adapters.inner_kernel:
        h = adapters.thread_h + thread * adapters.thread_h_bytes
        _add_inner_products(adapters.inner_kernel, adapters, h, entry, x, rows_of, row,
                            count, out, columns, first, end)  # fmt: skip


# ---- embeddings


@kernel
def _adapt_rows(step: Step, adapters: LoraBatch, run: LoraRun, first: int, end: int) -> None:
    """`adapt_embeddings` of the rows `first` to `end - 1`, all of one run."""
    adapter, hidden = run.adapter, step.hidden
    rows, ids = end - first, step.token_ids + 4 * first
    out = step.residual + first * hidden * 4
    # The model's own rows are there already: looking them up in vain costs less than a test of each.
    if adapter.embeddings:
        gather_rows(0, 1, adapter.embeddings, adapter.is_bfloat16, hidden, ids, rows, out)
    entry = adapter.entries[layout.EMBEDDINGS_ENTRY]
    if entry.b:
        h = adapters.h + first * adapters.h_stride
        gather_rows(0, 1, entry.a.weight, NO, entry.a.columns, ids, rows, h)
        add_product(entry, h, rows, out, hidden, 0, hidden)


@kernel
def adapt_embeddings(task: int, tasks: int, step: Step, adapters: LoraBatch) -> None:
    """Replace the model's embeddings by those that adapters have whole, and add their products.

    An adapter of the embeddings has a as a table: looking up a token's row stands for `x @ a.T`.
    """
    # A task's rows may begin and end within a run.
    first, end = task_range(task, tasks, step.rows, 1)
    for index in range(adapters.run_count):
        run = adapters.runs[index]
        row = run.first
        low, high = max(first, row), min(end, row + run.rows)
        if low < high:
            _adapt_rows(step, adapters, run, low, high)


# ---- the head


@kernel
def head_products(step: Step, x: int, phase: int) -> None:
    """The small products of the head, for the rows whose logits are asked for."""
    adapters = step.adapters
    if adapters and _has_lora(adapters, layout.HEAD_ENTRY, 1):
        _small_products(step, adapters, adapters.head_runs, adapters.head_run_count,
                        layout.HEAD_ENTRY, 1, x, phase)  # fmt: skip


@kernel
def adapted_head(
    task: int, tasks: int, step: Step, adapters: LoraBatch, model_head: LinearMap, x: int,
    quantized: int,
) -> None:  # fmt: skip
    """Some columns of the logits, each row by the head of its adapter if that has one.

    `quantized` holds the rows of x as int8, if the model's own head takes them so.
    """
    stride = model_head.row_bytes
    out, vocab, hidden = step.logits, step.vocab, step.hidden
    first, end = task_range(task, tasks, vocab, layout.COLUMN_GRAIN)
    for index in range(adapters.head_count):
        part = adapters.heads[index]
        head, row = part.head if part.head else model_head, part.first
        linear_columns(x + row * hidden * 4, quantized + row * stride, part.rows, head,
                       out + row * vocab * 4, first, end, NO)  # fmt: skip
    if _has_lora(adapters, layout.HEAD_ENTRY, 1):
        _add_products(adapters.kernel, adapters.head_runs, adapters.head_run_count,
                      layout.HEAD_ENTRY, adapters.h, adapters.h_stride, out, vocab, first,
                      end)  # fmt: skip
