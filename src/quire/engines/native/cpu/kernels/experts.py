"""The kernels of a sparse FFN: the experts of each row, and each expert's FFN for its rows.

Rows are grouped by expert, so that an expert's weights are read once for all of its rows. A row's sum
over its experts runs in the order of their indices, the shared expert last, whatever else is in the
batch.

`reference.choose_experts` and `reference.experts` are the same on arrays.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.activations import gate_columns
from quire.engines.native.cpu.kernels.arguments import Experts, LinearMap
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES, SCRATCH_ROWS
from quire.engines.native.cpu.kernels.linear import (
    is_quantized,
    linear,
    linear_columns,
    quantize_for,
    quantized_map_of,
)
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.cpu.kernels.simd import (
    NO,
    get_float32,
    get_int32,
    get_int64,
    put_float32,
    put_int32,
)

_CHOSEN = -1.0  # marks a probability as chosen: it is below all others
_GATE, _UP, _DOWN = 0, 1, 2  # the three maps of an expert


@kernel
def _expert_map(experts: Experts, expert: int, which: int) -> LinearMap:
    """The gate, up or down map of an expert."""
    return experts.maps[3 * expert + which]


@kernel
def router_scores(
    task: int, tasks: int, experts: Experts, x: int, quantized: int, rows: int
) -> None:
    """Columns of the router's logits for x (rows, hidden); the last task has the shared score too.

    `quantized` as in `linear`.
    """
    linear(task, tasks, x, quantized, rows, experts.router, experts.router_scores, NO)
    score = experts.shared_score
    if score and task == tasks - 1:
        linear(0, 1, x, quantized, rows, score, experts.shared_scores, NO)


@kernel
def softmax_row(x: int, size: int) -> None:
    """`x = exp(x - max(x)) / sum`, in place, for `size` floats. One NaN makes all of them NaN."""
    top = simd.NEGATIVE_INFINITY
    for i in range(size):
        top = max(top, get_float32(x, i))
    highest, total = simd.splat(top), simd.splat(0.0)
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        value = simd.exp(simd.subtract(simd.load_part(x + 4 * i, count), highest))
        simd.store_part(x + 4 * i, value, count)
        # The missing lanes were loaded as 0, and exp(0 - max) must not count.
        total = simd.add(total, simd.keep_range(value, 0, count, 0.0))
    scale = simd.splat(simd.sum_lanes(total))
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        value = simd.divide(simd.load_part(x + 4 * i, count), scale)
        simd.store_part(x + 4 * i, value, count)


@kernel
def next_largest(x: int, size: int) -> int:
    """The index of the largest probability that is not yet chosen, the first among equals.

    NaN comes last. So there is an index as long as fewer than `size` are chosen, even if the scores
    are not numbers, and later kernels never follow an index that does not exist.
    """
    best, index = _CHOSEN, -1
    for i in range(size):
        value = get_float32(x, i)
        if value > best:
            best, index = value, i
    if index < 0:
        index = 0
        while get_float32(x, index) == _CHOSEN:
            index += 1
    return index


@kernel
def choose_experts(task: int, tasks: int, experts: Experts, rows: int) -> None:
    """Choose the experts of some rows and their weights, the most probable first."""
    count, chosen = experts.count, experts.per_token
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        scores = experts.router_scores + 4 * row * count
        ids = experts.chosen + 4 * row * chosen
        weights = experts.chosen_weights + 4 * row * chosen
        softmax_row(scores, count)
        total = 0.0
        for rank in range(chosen):
            expert = next_largest(scores, count)
            weight = get_float32(scores, expert)
            put_float32(scores, expert, _CHOSEN)
            put_int32(ids, rank, expert)
            put_float32(weights, rank, weight)
            total += weight
        if experts.is_normalised:
            for rank in range(chosen):
                put_float32(weights, rank, get_float32(weights, rank) / total)


@kernel
def group_rows(experts: Experts, rows: int) -> None:
    """Sort (row, weight) by expert, the rows of an expert in rising order: a counting sort.

    The shared expert has every row. `starts` then holds where each expert's rows begin, and
    where the last expert's end.
    """
    count, chosen = experts.count, experts.per_token
    starts, ids = experts.starts, experts.chosen
    rows_of, weights_of = experts.grouped_rows, experts.grouped_weights
    weights = experts.chosen_weights
    for expert in range(count + 2):
        simd.put_int64(starts, expert, 0)
    # An expert's rows are counted two entries further on. After the sums, the entry after its own
    # holds where its rows begin; writing its rows moves that to where they end, which is where the
    # next expert's begin.
    for i in range(rows * chosen):
        entry = get_int32(ids, i) + 2
        simd.put_int64(starts, entry, get_int64(starts, entry) + 1)
    for expert in range(2, count + 2):
        before = get_int64(starts, expert - 1)
        simd.put_int64(starts, expert, get_int64(starts, expert) + before)
    for i in range(rows * chosen):
        entry = get_int32(ids, i) + 1
        target = get_int64(starts, entry)
        put_int32(rows_of, target, i // chosen)
        put_float32(weights_of, target, get_float32(weights, i))
        simd.put_int64(starts, entry, target + 1)
    if experts.shared_score:
        _group_shared(experts, rows)


@kernel
def _group_shared(experts: Experts, rows: int) -> None:
    """Give the shared expert all rows, each weighted by the sigmoid of its score."""
    count, chosen = experts.count, experts.per_token
    rows_of = experts.grouped_rows + 4 * rows * chosen
    weights_of = experts.grouped_weights + 4 * rows * chosen
    scores = experts.shared_scores
    one = 1.0
    for row in range(rows):
        power = simd.first_lane(simd.exp(simd.splat(-get_float32(scores, row))))
        put_int32(rows_of, row, row)
        put_float32(weights_of, row, one / (one + power))
    simd.put_int64(experts.starts, count + 1, rows * (chosen + 1))


@kernel
def _gather(x: int, size: int, rows_of: int, count: int, out: int) -> int:
    """The address of `count` rows of x, one after another: x itself, or a copy at `out`.

    Rows that are neighbours already, as those of the shared expert, are not copied.
    """
    first = get_int32(rows_of, 0)
    if get_int32(rows_of, count - 1) - first == count - 1:
        return x + 4 * first * size
    for i in range(count):
        source = x + 4 * get_int32(rows_of, i) * size
        target = out + 4 * i * size
        for k in range(0, size, LANES):
            part = min(LANES, size - k)
            simd.store_part(target + 4 * k, simd.load_part(source + 4 * k, part), part)
    return out


@kernel
def _quantized(linear_map: LinearMap, x: int, rows: int, out: int) -> int:
    """The address of the quantised rows of x, written to `out`; 0 if the map takes floats."""
    if not is_quantized(linear_map):
        return 0
    quantize_for(linear_map, x, 0, rows, out)
    return out


@kernel
def _gate_offset(experts: Experts, expert: int, first: int) -> int:
    """The offset in bytes of an expert's grouped row `first` among the gate and up values.

    An expert's rows are as wide as its FFN. All experts are equally wide but the shared one, which
    comes last.
    """
    width = experts.ffn
    if expert < experts.count:
        return 4 * width * first
    begin = get_int64(experts.starts, expert)
    shared = _expert_map(experts, expert, _GATE).columns
    return 4 * (width * begin + shared * (first - begin))


@kernel
def experts_gate(
    part: int, parts: int, group: int, groups: int, experts: Experts, x: int, hidden: int, gate: int,
    up: int, scratch: int, quantized: int,
) -> None:  # fmt: skip
    """One of `parts` parts of the columns of gate and up, for every `groups`-th expert from `group`.

    x is (rows, hidden); `gate` and `up` receive the values of the grouped rows. `scratch` has room for
    SCRATCH_ROWS of x, `quantized` for as many quantised ones.
    """
    starts = experts.starts
    rows_of = experts.grouped_rows
    expert = group
    while expert < experts.all:
        gate_map, up_map = _expert_map(experts, expert, _GATE), _expert_map(experts, expert, _UP)
        quantized_map = quantized_map_of(gate_map, up_map)
        columns = gate_map.columns
        first, end = task_range(part, parts, columns, COLUMN_GRAIN)
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        # Each thread gathers the rows for itself: they stay in its cache for both products.
        while row < last and first < end:
            count = min(SCRATCH_ROWS, last - row)
            source = _gather(x, hidden, rows_of + 4 * row, count, scratch)
            offset = _gate_offset(experts, expert, row)
            codes = _quantized(quantized_map, source, count, quantized)
            linear_columns(source, codes, count, gate_map, gate + offset, first, end, NO)
            linear_columns(source, codes, count, up_map, up + offset, first, end, NO)
            gate_columns(experts.activation, gate + offset, up + offset, count, columns, first, end)
            row += count
        expert += groups


@kernel
def experts_down(
    task: int, tasks: int, experts: Experts, hidden: int, gate: int, out: int, scratch: int,
    quantized: int,
) -> None:  # fmt: skip
    """Add the weighted outputs of all experts to some columns of out (rows, hidden).

    A task has its columns of every expert, and adds the experts one after another: so no two threads
    add to one number, and the order of the sum is fixed. `gate` as `experts_gate` left it; `scratch`
    has room for SCRATCH_ROWS of out, `quantized` for as many quantised rows of the widest FFN.
    """
    starts, rows_of = experts.starts, experts.grouped_rows
    weights_of = experts.grouped_weights
    first, end = task_range(task, tasks, hidden, COLUMN_GRAIN)
    for expert in range(experts.all):
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        down_map = _expert_map(experts, expert, _DOWN)
        while row < last:
            count = min(SCRATCH_ROWS, last - row)
            source = gate + _gate_offset(experts, expert, row)
            codes = _quantized(down_map, source, count, quantized)
            linear_columns(source, codes, count, down_map, scratch, first, end, NO)
            # The product lies in scratch, since rows of different experts add to one row of out.
            for i in range(count):
                target = out + 4 * hidden * get_int32(rows_of, row + i)
                weight = get_float32(weights_of, row + i)
                _add_weighted(scratch + 4 * hidden * i, weight, target, first, end)
            row += count


@kernel
def _add_weighted(x: int, weight: float, out: int, first: int, end: int) -> None:
    """`out += weight * x` in the columns `first` to `end - 1`."""
    factor = simd.splat(weight)
    for k in range(first, end, LANES):
        count = min(LANES, end - k)
        value = simd.multiply(simd.load_part(x + 4 * k, count), factor)
        value = simd.add(simd.load_part(out + 4 * k, count), value)
        simd.store_part(out + 4 * k, value, count)
