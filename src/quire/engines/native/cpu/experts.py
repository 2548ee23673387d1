"""The kernels of a sparse FFN: which experts a row goes to, and each expert's part for its rows.

`table` is the address of one layer's words (`layout.EXPERT_COUNT` and on). Rows are grouped by
expert, so that an expert's weights are read once for all of its rows. A row's sum over its experts
runs in the order of their numbers, the shared one last, whatever else is in the batch.
"""

from __future__ import annotations

import numpy as np

from quire.engines.native.cpu import layout, simd
from quire.engines.native.cpu.curves import gelu_gate
from quire.engines.native.cpu.jit import kernel
from quire.engines.native.cpu.kernels import NO, YES, linear, linear_columns, share, silu_gate
from quire.engines.native.cpu.layout import COLUMN_GRAIN, LANES, OWN_ROWS
from quire.engines.native.cpu.quantized import quantize_rows
from quire.engines.native.cpu.simd import get_float32, get_int32, get_int64, put_float32, put_int32

_WORD = 8
_TAKEN = np.float32(-1)  # below every probability


@kernel
def _expert_map(table: int, expert: int, which: int) -> int:
    """One of the three maps of an expert: 0 gate, 1 up, 2 down."""
    maps = get_int64(table, layout.EXPERT_MAPS)
    return maps + _WORD * layout.MAP_WORDS * (3 * expert + which)


@kernel
def router_scores(task: int, tasks: int, table: int, x: int, whole: int, rows: int) -> None:
    """Columns of the router's logits of x (rows, hidden); the last task has the shared score too.

    `whole` as in `linear`.
    """
    linear(task, tasks, x, whole, rows, get_int64(table, layout.ROUTER_MAP),
           get_int64(table, layout.ROUTER_SCORES), NO)  # fmt: skip
    score = get_int64(table, layout.SHARED_SCORE_MAP)
    if score and task == tasks - 1:
        linear(NO, YES, x, whole, rows, score, get_int64(table, layout.SHARED_SCORES), NO)


@kernel
def softmax_row(x: int, size: int) -> None:
    """`x = exp(x - max(x)) / sum`, in place, of `size` floats. NaN anywhere makes all of it NaN."""
    top = simd.NEGATIVE_INFINITY
    for i in range(size):
        top = max(top, get_float32(x, i))
    highest, total = simd.splat(top), simd.splat(np.float32(0))
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        value = simd.exp(simd.subtract(simd.load_part(x + 4 * i, count), highest))
        simd.store_part(x + 4 * i, value, count)
        total = simd.add(total, simd.keep_range(value, NO, count, np.float32(0)))
    scale = simd.splat(simd.sum_lanes(total))
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        value = simd.divide(simd.load_part(x + 4 * i, count), scale)
        simd.store_part(x + 4 * i, value, count)


@kernel
def take_largest(x: int, size: int) -> int:
    """The place of the largest of the probabilities that are not yet taken, the first among equals.

    NaN comes last, so that there is a place while fewer than `size` are taken.
    """
    best, place = _TAKEN, -1
    for i in range(size):
        value = get_float32(x, i)
        if value > best:
            best, place = value, i
    if place < 0:
        place = 0
        while get_float32(x, place) == _TAKEN:
            place += 1
    return place


@kernel
def choose_experts(task: int, tasks: int, table: int, rows: int) -> None:
    """Some rows' experts and their weights, from the router's scores, by falling probability."""
    count, chosen = get_int64(table, layout.EXPERT_COUNT), get_int64(table, layout.PER_TOKEN)
    first, end = share(task, tasks, rows, YES)
    for row in range(first, end):
        scores = get_int64(table, layout.ROUTER_SCORES) + 4 * row * count
        experts = get_int64(table, layout.CHOSEN) + 4 * row * chosen
        weights = get_int64(table, layout.CHOSEN_WEIGHTS) + 4 * row * chosen
        softmax_row(scores, count)
        total = np.float32(0)
        for rank in range(chosen):
            expert = take_largest(scores, count)
            weight = get_float32(scores, expert)
            put_float32(scores, expert, _TAKEN)
            put_int32(experts, rank, np.int32(expert))
            put_float32(weights, rank, weight)
            total += weight
        if get_int64(table, layout.NORMALISED):
            for rank in range(chosen):
                put_float32(weights, rank, get_float32(weights, rank) / total)


@kernel
def group_rows(table: int, rows: int) -> None:
    """Sort (row, weight) by expert, rows rising in each; the shared expert has every row.

    `EXPERT_STARTS` then has where each expert's rows begin, and where the last ends.
    """
    count, chosen = get_int64(table, layout.EXPERT_COUNT), get_int64(table, layout.PER_TOKEN)
    starts, experts = get_int64(table, layout.EXPERT_STARTS), get_int64(table, layout.CHOSEN)
    rows_of, weights_of = (
        get_int64(table, layout.GROUPED_ROWS),
        get_int64(table, layout.GROUPED_WEIGHTS),
    )
    weights = get_int64(table, layout.CHOSEN_WEIGHTS)
    for expert in range(count + 2):
        simd.put_int64(starts, expert, 0)
    # Counted two places on, summed up, and each moved one place back while its rows are written.
    for i in range(rows * chosen):
        place = np.int64(get_int32(experts, i)) + 2
        simd.put_int64(starts, place, get_int64(starts, place) + 1)
    for expert in range(2, count + 2):
        before = get_int64(starts, expert - 1)
        simd.put_int64(starts, expert, get_int64(starts, expert) + before)
    for i in range(rows * chosen):
        place = np.int64(get_int32(experts, i)) + 1
        at = get_int64(starts, place)
        put_int32(rows_of, at, np.int32(i // chosen))
        put_float32(weights_of, at, get_float32(weights, i))
        simd.put_int64(starts, place, at + 1)
    if get_int64(table, layout.SHARED_SCORE_MAP):
        _group_shared(table, rows)


@kernel
def _group_shared(table: int, rows: int) -> None:
    """All rows for the shared expert, each weighted by the sigmoid of its score."""
    count, chosen = get_int64(table, layout.EXPERT_COUNT), get_int64(table, layout.PER_TOKEN)
    rows_of = get_int64(table, layout.GROUPED_ROWS) + 4 * rows * chosen
    weights_of = get_int64(table, layout.GROUPED_WEIGHTS) + 4 * rows * chosen
    scores = get_int64(table, layout.SHARED_SCORES)
    one = np.float32(1)
    for row in range(rows):
        falling = simd.first_lane(simd.exp(simd.splat(-get_float32(scores, row))))
        put_int32(rows_of, row, np.int32(row))
        put_float32(weights_of, row, one / (one + falling))
    simd.put_int64(get_int64(table, layout.EXPERT_STARTS), count + 1, rows * (chosen + 1))


@kernel
def _gather(x: int, size: int, rows_of: int, count: int, out: int) -> int:
    """Where the `count` rows of x lie in a row: where they are, or copied to `out`."""
    first = int(np.int64(get_int32(rows_of, 0)))
    if np.int64(get_int32(rows_of, count - 1)) - first == count - 1:
        return x + 4 * first * size
    for i in range(count):
        source = x + 4 * np.int64(get_int32(rows_of, i)) * size
        target = out + 4 * i * size
        for k in range(0, size, LANES):
            part = min(LANES, size - k)
            simd.store_part(target + 4 * k, simd.load_part(source + 4 * k, part), part)
    return out


@kernel
def _quantized(linear_map: int, x: int, rows: int, out: int) -> int:
    """Where the rows of x are in whole numbers: written to `out` if the map wants them so, else 0."""
    if get_int64(linear_map, layout.KIND) < layout.INT8:
        return 0
    quantize_rows(NO, rows, x, get_int64(linear_map, layout.MAP_DEPTH),
                  get_int64(linear_map, layout.QUANT_DEPTH), get_int64(linear_map, layout.SPAN),
                  out)  # fmt: skip
    return out


@kernel
def _hidden_rows(table: int, expert: int, first: int) -> int:
    """Bytes before the first half's values of an expert's grouped row `first`.

    Each expert's rows are as wide as its FFN; all but the shared one, the last, are equally wide.
    """
    width = get_int64(table, layout.EXPERT_FFN)
    if expert < get_int64(table, layout.EXPERT_COUNT):
        return 4 * width * first
    begin = get_int64(get_int64(table, layout.EXPERT_STARTS), expert)
    shared = get_int64(_expert_map(table, expert, NO), layout.MAP_COLUMNS)
    return 4 * (width * begin + shared * (first - begin))


@kernel
def experts_gate(
    part: int, parts: int, group: int, groups: int, table: int, x: int, hidden: int, gate: int,
    up: int, activation: int, scratch: int, whole: int,
) -> None:  # fmt: skip
    """Columns of the gated first half, one of `parts`, of every `groups`-th expert from `group` on.

    x (rows, hidden); `gate` and `up` hold the grouped rows' values; `activation` as in `gated_ffn`;
    `scratch` has room for OWN_ROWS of x, `whole` for so many in whole numbers.
    """
    starts = get_int64(table, layout.EXPERT_STARTS)
    rows_of = get_int64(table, layout.GROUPED_ROWS)
    expert = group
    while expert < get_int64(table, layout.ALL_EXPERTS):
        gate_map, up_map = _expert_map(table, expert, NO), _expert_map(table, expert, YES)
        maps = gate_map if get_int64(gate_map, layout.KIND) >= layout.INT8 else up_map
        columns = get_int64(gate_map, layout.MAP_COLUMNS)
        first, end = share(part, parts, columns, COLUMN_GRAIN)
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        while row < last and first < end:
            count = min(OWN_ROWS, last - row)
            source = _gather(x, hidden, rows_of + 4 * row, count, scratch)
            offset = _hidden_rows(table, expert, row)
            numbers = _quantized(maps, source, count, whole)
            linear_columns(source, numbers, count, gate_map, gate + offset, first, end, NO)
            linear_columns(source, numbers, count, up_map, up + offset, first, end, NO)
            if activation == layout.GELU_TANH:
                gelu_gate(gate + offset, up + offset, count, columns, first, end)
            else:
                silu_gate(gate + offset, up + offset, count, columns, first, end)
            row += count
        expert += groups


@kernel
def experts_down(
    task: int, tasks: int, table: int, hidden: int, gate: int, out: int, scratch: int, whole: int
) -> None:
    """Add the experts' weighted second halves to some columns of out (rows, hidden).

    `gate` as `experts_gate` made it; `scratch` has room for OWN_ROWS of out, `whole` for so many of
    the widest FFN in whole numbers.
    """
    starts, rows_of = (
        get_int64(table, layout.EXPERT_STARTS),
        get_int64(table, layout.GROUPED_ROWS),
    )
    weights_of = get_int64(table, layout.GROUPED_WEIGHTS)
    first, end = share(task, tasks, hidden, COLUMN_GRAIN)
    for expert in range(get_int64(table, layout.ALL_EXPERTS)):
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        down_map = _expert_map(table, expert, YES + YES)
        while row < last:
            count = min(OWN_ROWS, last - row)
            source = gate + _hidden_rows(table, expert, row)
            numbers = _quantized(down_map, source, count, whole)
            linear_columns(source, numbers, count, down_map, scratch, first, end, NO)
            for i in range(count):
                target = out + 4 * hidden * np.int64(get_int32(rows_of, row + i))
                weight = get_float32(weights_of, row + i)
                _add_weighted(scratch + 4 * hidden * i, weight, target, first, end)
            row += count


@kernel
def _add_weighted(x: int, weight: float, out: int, first: int, end: int) -> None:
    """`out += weight * x` in the columns `first` to `end - 1`."""
    factor = simd.splat(np.float32(weight))
    for k in range(first, end, LANES):
        count = min(LANES, end - k)
        value = simd.multiply(simd.load_part(x + 4 * k, count), factor)
        value = simd.add(simd.load_part(out + 4 * k, count), value)
        simd.store_part(out + 4 * k, value, count)
