"""The routing of a sparse FFN: the experts of each row, their weights, and the rows of each expert.

`reference.choose_experts` is the same on arrays.
"""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.arguments import Experts
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.cpu.kernels.simd import (
    get_float32,
    get_int32,
    get_int64,
    put_float32,
    put_int32,
)

# ---- scores


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
def sigmoid_row(x: int, size: int) -> None:
    """`x = 1 / (1 + exp(-x))`, in place, for `size` floats."""
    zero, one = simd.splat(0.0), simd.splat(1.0)
    for i in range(0, size, LANES):
        count = min(LANES, size - i)
        power = simd.exp(simd.subtract(zero, simd.load_part(x + 4 * i, count)))
        simd.store_part(x + 4 * i, simd.divide(one, simd.add(one, power)), count)


# ---- the choice


@kernel
def next_largest(x: int, size: int, ids: int, rank: int) -> int:
    """The index of the largest score, the first among equals; scores that were chosen are -inf.

    NaN and -inf come last: the first index that is not among the `rank` that were chosen, in `ids`. So
    there is an index as long as fewer than `size` are chosen, even if the scores are not numbers, and
    later kernels never follow an index that does not exist.
    """
    best, index = simd.NEGATIVE_INFINITY, -1
    for i in range(size):
        value = get_float32(x, i)
        if value > best:
            best, index = value, i
    if index < 0:
        index = 0
        while _is_among(index, ids, rank):
            index += 1
    return index


@kernel
def _is_among(index: int, ids: int, count: int) -> bool:
    """Whether an index is one of the first `count` of `ids`."""
    rank = 0
    while rank < count and get_int32(ids, rank) != index:
        rank += 1
    return rank < count


@kernel
def _group_score(x: int, size: int, best_only: bool) -> float:
    """How good a group of `size` experts is: the sum of its two best scores, or its best one."""
    best, second = simd.NEGATIVE_INFINITY, simd.NEGATIVE_INFINITY
    for i in range(size):
        value = get_float32(x, i)
        if value > best:
            second, best = best, value
        elif value > second:
            second = value
    return best if best_only or size == 1 else best + second


@kernel
def _leave_groups_out(experts: Experts, choice: int, scores: int) -> None:
    """Make the scores of all groups but the best ones -inf. `scores` receives those of the groups."""
    groups = experts.groups
    size = experts.count // groups
    for group in range(groups):
        score = _group_score(choice + 4 * group * size, size, experts.is_best_only)
        put_float32(scores, group, score)
    for group in range(groups):
        own, better = get_float32(scores, group), 0
        for other in range(groups):
            score = get_float32(scores, other)
            # Among equals, the first is the best.
            if score > own or (score == own and other < group):
                better += 1
        if better >= experts.chosen_groups:
            for i in range(group * size, (group + 1) * size):
                put_float32(choice, i, simd.NEGATIVE_INFINITY)


@kernel
def _choice_of(experts: Experts, scores: int, row: int) -> int:
    """The address of what a row's experts are chosen by: its scores, or a copy that was corrected."""
    choice, count, correction = experts.choice, experts.count, experts.correction
    if not choice:
        return scores
    choice += 4 * row * count
    for i in range(count):
        bias = get_float32(correction, i) if correction else 0.0
        put_float32(choice, i, get_float32(scores, i) + bias)
    if experts.groups > 1:
        _leave_groups_out(experts, choice, experts.group_scores + 4 * row * experts.groups)
    return choice


@kernel
def _sigmoid(value: float) -> float:
    one = 1.0
    return one / (one + simd.first_lane(simd.exp(simd.splat(-value))))


@kernel
def choose_experts(task: int, tasks: int, experts: Experts, rows: int) -> None:
    """Choose the experts of some rows and their weights, the best first."""
    count, chosen, kind = experts.count, experts.per_token, experts.scores
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        scores = experts.router_scores + 4 * row * count
        ids = experts.chosen + 4 * row * chosen
        weights = experts.chosen_weights + 4 * row * chosen
        if kind == layout.SOFTMAX:
            softmax_row(scores, count)
        elif kind == layout.SIGMOID:
            sigmoid_row(scores, count)
        choice = _choice_of(experts, scores, row)
        total = 0.0
        for rank in range(chosen):
            expert = next_largest(choice, count, ids, rank)
            weight = get_float32(scores, expert)
            if kind == layout.SIGMOID_OF_CHOSEN:
                weight = _sigmoid(weight)
            put_float32(choice, expert, simd.NEGATIVE_INFINITY)
            put_int32(ids, rank, expert)
            put_float32(weights, rank, weight)
            total += weight
        if total < experts.least_sum:
            total = experts.least_sum
        for rank in range(chosen):
            weight = get_float32(weights, rank)
            if experts.is_normalised:
                weight = weight / total
            weight = weight * experts.scale
            if experts.expert_scales:
                weight = weight * get_float32(experts.expert_scales, get_int32(ids, rank))
            put_float32(weights, rank, weight)


# ---- the rows of each expert


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
    if experts.all > count:
        _group_shared(experts, rows)


@kernel
def _group_shared(experts: Experts, rows: int) -> None:
    """Give the shared expert all rows, each weighted by the sigmoid of its score if it has one."""
    count, chosen = experts.count, experts.per_token
    rows_of = experts.grouped_rows + 4 * rows * chosen
    weights_of = experts.grouped_weights + 4 * rows * chosen
    scores = experts.shared_scores
    for row in range(rows):
        weight = 1.0
        if experts.shared_score:
            weight = _sigmoid(get_float32(scores, row))
        put_int32(rows_of, row, row)
        put_float32(weights_of, row, weight)
    simd.put_int64(experts.starts, count + 1, rows * (chosen + 1))
