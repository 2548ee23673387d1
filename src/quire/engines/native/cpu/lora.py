"""What LoRA adapters add to linear maps: the second of their two products, and what is read of a run.

A run is a number of neighbouring rows with one adapter. `step` computes the small products
`h = x @ a.T` of a run in a phase of its own; here `h @ b + shift` is added to some columns of a
map's output, by the task that wrote them. Both sum each element in one order, whatever the runs.
"""

from __future__ import annotations

from quire.engines.native.cpu import layout, simd
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.layout import LANES, LORA_PANEL
from quire.engines.native.cpu.simd import get_float32, get_int64
from quire.engines.native.cpu.tiles import make_outer_tile

TALL = 4 if LANES < LORA_PANEL else 8  # rows of the tall tile: 8 sums hide each other's latency

_tall = make_outer_tile(TALL, LORA_PANEL // LANES, True, layout.KV_FLOAT32)
_flat = make_outer_tile(1, LORA_PANEL // LANES, True, layout.KV_FLOAT32)


@kernel
def run_entry(run: int, number: int) -> int:
    """The address of what a run's adapter has for the map `number`; see `layout`."""
    return get_int64(run, layout.RUN_ADAPTER) + 8 * (
        layout.FIRST_ENTRY + number * layout.LORA_WORDS
    )


@kernel
def _add_shift(shift: int, rows: int, out: int, columns: int, first: int, end: int) -> None:
    for row in range(rows):
        for column in range(first, end, LANES):
            count = min(LANES, end - column)
            place = out + 4 * (row * columns + column)
            total = simd.add(
                simd.load_part(place, count), simd.load_part(shift + 4 * column, count)
            )
            simd.store_part(place, total, count)


@kernel
def _add_whole_panel(h: int, rank: int, rows: int, panel: int, out: int, out_stride: int) -> None:
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
def _add_part_of_panel(
    h: int, rank: int, rows: int, panel: int, out: int, out_stride: int, columns: int
) -> None:
    """The same sums, of fewer columns than a panel has."""
    for row in range(rows):
        for column in range(0, columns, LANES):
            count = min(LANES, columns - column)
            place = out + row * out_stride + 4 * column
            total = simd.load_part(place, count)
            for k in range(rank):
                weights = simd.load_part(panel + 4 * (k * LORA_PANEL + column), count)
                total = simd.fma(simd.splat(get_float32(h, row * rank + k)), weights, total)
            simd.store_part(place, total, count)


@kernel
def add_product(
    entry: int, h: int, rows: int, out: int, columns: int, first: int, end: int
) -> None:
    """`out += h @ b + shift` in the columns `first` to `end - 1`: h (rows, rank), out (rows, columns).

    `entry` is the address of the LORA_WORDS of one map; b lies in panels of LORA_PANEL columns,
    each (rank, LORA_PANEL), the last one padded.
    """
    b, shift = get_int64(entry, layout.LORA_B), get_int64(entry, layout.LORA_SHIFT)
    if shift:
        _add_shift(shift, rows, out, columns, first, end)
    rank, column = get_int64(entry, layout.MAP_COLUMNS), first
    while b and column < end:
        inside = column % LORA_PANEL
        count = min(LORA_PANEL - inside, end - column)
        panel = b + 4 * (column // LORA_PANEL * rank * LORA_PANEL + inside)
        if count == LORA_PANEL:
            _add_whole_panel(h, rank, rows, panel, out + 4 * column, columns * 4)
        else:
            _add_part_of_panel(h, rank, rows, panel, out + 4 * column, columns * 4, count)
        column += count


@kernel
def add_products(
    runs: int, count: int, number: int, h: int, stride: int, out: int, columns: int, first: int,
    end: int,
) -> None:  # fmt: skip
    """`add_product` of the map `number` for each of `count` runs.

    A run's part of `h` begins `stride` bytes a row from its start.
    """
    for index in range(count):
        run = runs + 8 * layout.RUN_WORDS * index
        row = get_int64(run, layout.RUN_FIRST)
        add_product(run_entry(run, number), h + row * stride, get_int64(run, layout.RUN_ROWS),
                    out + row * columns * 4, columns, first, end)  # fmt: skip


@kernel
def add_lora(
    adapters: int, number: int, place: int, out: int, columns: int, first: int, end: int
) -> None:
    """Add what the batch's adapters have for the map `number` to some columns of its output.

    `adapters` is the address of the ADAPTER_WORDS, or 0 where no row has one; `place` says which of
    the phase's products this is.
    """
    if adapters:
        h = get_int64(adapters, layout.LORA_H) + place * get_int64(adapters, layout.LORA_H_BYTES)
        add_products(get_int64(adapters, layout.RUNS), get_int64(adapters, layout.RUN_COUNT),
                     number, h, get_int64(adapters, layout.LORA_H_STRIDE), out, columns, first,
                     end)  # fmt: skip
