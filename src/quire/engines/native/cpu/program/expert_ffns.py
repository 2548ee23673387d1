"""The FFNs of a sparse layer: the router's logits, and each expert's FFN for its rows.

Rows are grouped by expert, so that an expert's weights are read once for all of its rows. A row's sum
over its experts runs in the order of their indices, the shared expert last, whatever else is in the
batch. Adapters add to each product as soon as it is there.

`reference.experts` is the same on arrays.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.activations import activate_columns, gate_columns
from quire.engines.native.cpu.kernels.arguments import Experts, LinearMap
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES, SCRATCH_ROWS
from quire.engines.native.cpu.kernels.linear import (
    is_quantized,
    linear,
    linear_columns,
    quantize_for,
    quantized_map_of,
)
from quire.engines.native.cpu.kernels.rowwise import copy_row, task_range
from quire.engines.native.cpu.kernels.simd import NO, get_float32, get_int32, get_int64
from quire.engines.native.cpu.program.arguments import LoraBatch
from quire.engines.native.cpu.program.lora import add_inner_lora

_GATE, _UP, _DOWN = range(3)  # the maps of an expert


@kernel
def _expert_map(experts: Experts, expert: int, which: int) -> LinearMap:
    """The gate, up or down map of an expert."""
    return experts.maps[3 * expert + which]


@kernel
def _entry(experts: Experts, expert: int, which: int) -> int:
    """The entry that adapters have for a map of an expert."""
    return experts.first_entry + layout.FIRST_EXPERT_ENTRY + 3 * expert + which


# ---- the router


@kernel
def router_scores(
    task: int, tasks: int, thread: int, experts: Experts, x: int, quantized: int, rows: int,
    adapters: LoraBatch | None,
) -> None:  # fmt: skip
    """Columns of the router's logits for x (rows, hidden); the last task has the shared score too.

    `quantized` as in `linear`.
    """
    count, out, entry = experts.count, experts.router_scores, experts.first_entry
    linear(task, tasks, x, quantized, rows, experts.router, out, NO)
    first, end = task_range(task, tasks, count, COLUMN_GRAIN)
    add_inner_lora(
        adapters, thread, entry + layout.ROUTER_ENTRY, x, 0, 0, rows, out, count, first, end
    )
    score = experts.shared_score
    if score and task == tasks - 1:
        out = experts.shared_scores
        linear(0, 1, x, quantized, rows, score, out, NO)
        entry += layout.SHARED_SCORE_ENTRY
        add_inner_lora(adapters, thread, entry, x, 0, 0, rows, out, 1, 0, 1)


# ---- the experts


@kernel
def _gather(x: int, size: int, rows_of: int, count: int, out: int) -> int:
    """The address of `count` rows of x, one after another: x itself, or a copy at `out`.

    Rows that are neighbours already, as those of the shared expert, are not copied.
    """
    first = get_int32(rows_of, 0)
    if get_int32(rows_of, count - 1) - first == count - 1:
        return x + 4 * first * size
    for i in range(count):
        copy_row(x + 4 * get_int32(rows_of, i) * size, out + 4 * i * size, size)
    return out


@kernel
def _gather_weighted(x: int, size: int, rows_of: int, weights_of: int, count: int, out: int) -> int:
    """The same for rows that are multiplied by their weights: always a copy."""
    for i in range(count):
        source = x + 4 * get_int32(rows_of, i) * size
        target = out + 4 * i * size
        factor = simd.splat(get_float32(weights_of, i))
        for k in range(0, size, LANES):
            part = min(LANES, size - k)
            value = simd.multiply(simd.load_part(source + 4 * k, part), factor)
            simd.store_part(target + 4 * k, value, part)
    return out


@kernel
def _inputs(
    experts: Experts, expert: int, x: int, size: int, row: int, count: int, out: int
) -> int:
    """The address of what an expert gets for `count` grouped rows from `row` on; see `_gather`."""
    rows_of = experts.grouped_rows + 4 * row
    if experts.weights_inputs and expert < experts.count:
        weights_of = experts.grouped_weights + 4 * row
        return _gather_weighted(x, size, rows_of, weights_of, count, out)
    return _gather(x, size, rows_of, count, out)


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
def _needs_floats(gate: LinearMap, up: LinearMap, adapters: LoraBatch | None) -> bool:
    """Whether an expert's rows are read as floats although they are there as rounded ones."""
    if adapters:
        return True
    return not (is_quantized(gate) and is_quantized(up))


@kernel
def experts_gate(
    part: int, parts: int, group: int, groups: int, thread: int, experts: Experts, latents: int,
    x: int, rounded: int, hidden: int, gate: int, up: int, scratch: int, quantized: int,
    adapters: LoraBatch | None,
) -> None:  # fmt: skip
    """One of `parts` parts of the columns of gate and up, for every `groups`-th expert from `group`.

    `gate` receives what `experts_down` reads. Without gates, that is the activation of up.

    x is (rows, hidden), which the shared expert reads, and `latents` (rows, experts.width), which the others
    do: the same as x if they are not latents. `rounded` is the same rounded by `experts.input_map`, or 0: then
    each task rounds for itself. `gate` and `up` receive the values of the grouped rows. `scratch` has room for
    SCRATCH_ROWS of x, `quantized` for as many quantised ones.
    """
    starts = experts.starts
    expert = group
    while expert < experts.all:
        is_chosen = expert < experts.count
        inputs, size = latents if is_chosen else x, experts.width if is_chosen else hidden
        gate_map, up_map = _expert_map(experts, expert, _GATE), _expert_map(experts, expert, _UP)
        quantized_map = quantized_map_of(gate_map, up_map)
        columns = gate_map.columns
        first, end = task_range(part, parts, columns, COLUMN_GRAIN)
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        # Each thread gathers the rows for itself: they stay in its cache for both products.
        while row < last and first < end:
            count = min(SCRATCH_ROWS, last - row)
            rows_of = experts.grouped_rows + 4 * row
            shares = rounded != 0 and is_quantized(quantized_map)
            source, codes = 0, 0
            if not shares or _needs_floats(gate_map, up_map, adapters):
                source = _inputs(experts, expert, inputs, size, row, count, scratch)
            if shares:
                codes = _gather(rounded, quantized_map.row_bytes // 4, rows_of, count, quantized)
            else:
                codes = _quantized(quantized_map, source, count, quantized)
            offset = _gate_offset(experts, expert, row)
            up_out = (up if experts.is_gated else gate) + offset
            linear_columns(source, codes, count, up_map, up_out, first, end, NO)
            add_inner_lora(adapters, thread, _entry(experts, expert, _UP), source, rows_of, 0,
                           count, up_out, columns, first, end)  # fmt: skip
            if experts.is_gated:
                linear_columns(source, codes, count, gate_map, gate + offset, first, end, NO)
                add_inner_lora(adapters, thread, _entry(experts, expert, _GATE), source, rows_of, 0,
                               count, gate + offset, columns, first, end)  # fmt: skip
                gate_columns(experts.activation, gate + offset, up_out, count, columns, first, end)
            else:
                activate_columns(experts.activation, None, up_out, count, columns, first, end)
            row += count
        expert += groups


@kernel
def _has_rounded(down: LinearMap) -> bool:
    """Whether an expert's rounded rows have the place of its values of `up`: see `round_gated`."""
    return is_quantized(down) and down.row_bytes <= 4 * down.depth


@kernel
def _rounded_rows(experts: Experts, expert: int, up: int, row: int) -> int:
    """The address of an expert's grouped row `row` as `round_gated` leaves it."""
    begin, stride = get_int64(experts.starts, expert), _expert_map(experts, expert, _DOWN).row_bytes
    return up + _gate_offset(experts, expert, begin) + stride * (row - begin)


@kernel
def round_gated(task: int, tasks: int, experts: Experts, gate: int, up: int) -> None:
    """Round some of the grouped rows that `experts_gate` left in `gate`, for the down maps that take them so.

    They take the place of the values of `up`, which nobody needs any more; an expert's lie one after
    another.
    """
    starts = experts.starts
    first, end = task_range(task, tasks, get_int64(starts, experts.all), 1)
    for expert in range(experts.all):
        low = max(first, get_int64(starts, expert))
        high = min(end, get_int64(starts, expert + 1))
        down_map = _expert_map(experts, expert, _DOWN)
        if low < high and _has_rounded(down_map):
            quantize_for(down_map, gate + _gate_offset(experts, expert, low), 0, high - low,
                         _rounded_rows(experts, expert, up, low))  # fmt: skip


@kernel
def experts_down(
    task: int, tasks: int, thread: int, experts: Experts, hidden: int, gate: int, rounded: int,
    latents: int, out: int, scratch: int, quantized: int, adapters: LoraBatch | None,
) -> None:  # fmt: skip
    """Add the weighted outputs of all experts to some columns of out (rows, hidden).

    Those of chosen experts are added to `latents` (rows, experts.width): the same as out if they are not
    latents. Inputs that were weighted leave outputs as they are.

    A task has its columns of every expert, and adds the experts one after another: so no two threads
    add to one number, and the order of the sum is fixed. `gate` as `experts_gate` left it,
    `rounded` as `round_gated` did, or 0: then each task rounds for itself. `scratch` has room for
    SCRATCH_ROWS of out, `quantized` for as many quantised rows of the widest FFN.
    """
    starts, rows_of = experts.starts, experts.grouped_rows
    weights_of = experts.grouped_weights
    for expert in range(experts.all):
        is_chosen = expert < experts.count
        total, size = latents if is_chosen else out, experts.width if is_chosen else hidden
        first, end = task_range(task, tasks, size, COLUMN_GRAIN)
        row, last = get_int64(starts, expert), get_int64(starts, expert + 1)
        down_map = _expert_map(experts, expert, _DOWN)
        while row < last:
            count = min(SCRATCH_ROWS, last - row)
            source = gate + _gate_offset(experts, expert, row)
            codes = 0
            if rounded != 0 and _has_rounded(down_map):
                codes = _rounded_rows(experts, expert, rounded, row)
            else:
                codes = _quantized(down_map, source, count, quantized)
            linear_columns(source, codes, count, down_map, scratch, first, end, NO)
            add_inner_lora(adapters, thread, _entry(experts, expert, _DOWN), source,
                           rows_of + 4 * row, 0, count, scratch, size, first, end)  # fmt: skip
            # The product lies in scratch, since rows of different experts add to one row.
            for i in range(count):
                target = total + 4 * size * get_int32(rows_of, row + i)
                weight = 1.0
                if not experts.weights_inputs:
                    weight = get_float32(weights_of, row + i)
                _add_weighted(scratch + 4 * size * i, weight, target, first, end)
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
