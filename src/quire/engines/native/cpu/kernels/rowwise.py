"""Kernels that treat each row by itself: norms, embedding rows, sums, logit caps, rotary embedding.

A kernel that takes `(task, tasks, ...)` does one of so many parts of the work. A row's result
depends neither on the other rows nor on the number of tasks or threads. `reference` has each of
these functions in plain NumPy: the same name, on arrays instead of addresses and sizes, for all rows
at once. The tests compare them.
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
from quire.engines.native.cpu.kernels import simd
from quire.engines.native.cpu.kernels.activations import soft_cap
from quire.engines.native.cpu.kernels.arguments import Norm
from quire.engines.native.cpu.kernels.layout import COLUMN_GRAIN, LANES


@kernel
def task_range(task: int, tasks: int, count: int, grain: int) -> tuple[int, int]:
    """The part of `range(count)` that belongs to one of `tasks` tasks, in whole grains."""
    grains = (count + grain - 1) // grain
    first = grains * task // tasks * grain
    end = grains * (task + 1) // tasks * grain
    return min(first, count), min(end, count)


@kernel
def normalise_row(x: int, weight: int, out: int, size: int, eps: float) -> None:
    """RMS norm of `size` floats at address `x`, which may be `out`."""
    total = simd.splat(0.0)
    # Masked loads and stores take longer than plain ones: only the last register of a row has a mask.
    full = size // LANES * LANES
    for k in range(0, full, LANES):
        value = simd.load(x + 4 * k)
        total = simd.fma(value, value, total)
    rest = size - full
    if rest:  # the missing lanes are 0, and add nothing to the sum
        value = simd.load_part(x + 4 * full, rest)
        total = simd.fma(value, value, total)
    mean = simd.sum_lanes(total) / float(size)
    scale = simd.divide(simd.splat(1.0), simd.sqrt(simd.splat(mean + eps)))
    for k in range(0, full, LANES):
        value = simd.multiply(simd.load(x + 4 * k), scale)
        simd.store(out + 4 * k, simd.multiply(simd.load(weight + 4 * k), value))
    if rest:
        value = simd.multiply(simd.load_part(x + 4 * full, rest), scale)
        value = simd.multiply(simd.load_part(weight + 4 * full, rest), value)
        simd.store_part(out + 4 * full, value, rest)


_layer_norm = calling(NOTHING, pointer_to(Norm), INT, INT, INT, INT)


@outlined
def norm_row(norm: Norm, head: int, x: int, out: int, size: int) -> None:
    """The norm of `size` floats at address `x`, which may be `out`; those of a head have its weights.

    By the root of the mean square, `x / sqrt(mean(x^2) + eps) * weight`; as a layer norm,
    `(x - mean(x)) / sqrt(variance(x) + eps) * weight + bias`.
    """
    offset = head * norm.stride
    # By address: most models do without, and need not compile it into each operation.
    if norm.kernel:
        _layer_norm(norm.kernel, norm, offset, x, out, size)
    else:
        normalise_row(x, norm.weight + offset, out, size, norm.eps)


@outlined
def norm_rows(task: int, tasks: int, norm: Norm, x: int, rows: int, size: int, out: int) -> None:
    """`norm_row` of each of (rows, size)."""
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        offset = row * size * 4
        norm_row(norm, 0, x + offset, out + offset, size)


@outlined
def copy_row(source: int, target: int, size: int) -> None:
    """Copy `size` floats from one address to another."""
    full = size // LANES * LANES
    rest = size - full
    for k in range(0, full, LANES):
        simd.store(target + 4 * k, simd.load(source + 4 * k))
    if rest:
        simd.store_part(target + 4 * full, simd.load_part(source + 4 * full, rest), rest)


@kernel
def gather_rows(
    task: int, tasks: int, table: int, bfloat16: int, size: int, indices: int, rows: int, out: int
) -> None:
    """`out[t] = table[indices[t]]` for (n, size) of float32, or of bfloat16 if that flag is set."""
    first, end = task_range(task, tasks, rows, 1)
    full = size // LANES * LANES
    rest = size - full
    for row in range(first, end):
        index = simd.get_int32(indices, row)
        target = out + row * size * 4
        if bfloat16:
            source = table + index * size * 2
            for k in range(0, full, LANES):
                simd.store(target + 4 * k, simd.load_bfloat16(source + 2 * k))
            if rest:
                value = simd.load_bfloat16_part(source + 2 * full, rest)
                simd.store_part(target + 4 * full, value, rest)
        else:
            copy_row(table + index * size * 4, target, size)


@kernel
def replace_rows(
    task: int, tasks: int, values: int, size: int, indices: int, rows: int, out: int
) -> None:
    """`out[t] = values[indices[t]]` for (n, size) of float32, where the index is not negative.

    So the features of a picture or sound replace the embeddings of its placeholder tokens.
    """
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        index = simd.get_int32(indices, row)
        if index >= 0:
            copy_row(values + index * size * 4, out + row * size * 4, size)


@kernel
def add_chosen_rows(
    task: int, tasks: int, values: int, size: int, indices: int, rows: int, out: int
) -> None:
    """`out[t] += values[indices[t]]` for (n, size) of float32, where the index is not negative."""
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        index = simd.get_int32(indices, row)
        if index >= 0:
            add_rows(0, 1, values + index * size * 4, 1, size, 1.0, out + row * size * 4)


@kernel
def add_table_rows(
    task: int, tasks: int, table: int, size: int, indices: int, rows: int, out: int
) -> None:
    """`out[t] += table[indices[t]]` for (n, size) of float32."""
    first, end = task_range(task, tasks, rows, 1)
    for row in range(first, end):
        source = table + simd.get_int32(indices, row) * size * 4
        add_rows(0, 1, source, 1, size, 1.0, out + row * size * 4)


@outlined
def clip_columns(x: int, rows: int, columns: int, first: int, end: int, limit: float) -> None:
    """Keep the columns `first` to `end - 1` of x (rows, columns) within plus and minus `limit`."""
    most, least = simd.splat(limit), simd.splat(-limit)
    for row in range(rows):
        for column in range(first, end, LANES):
            count = min(LANES, end - column)
            target = x + 4 * (row * columns + column)
            value = simd.maximum(least, simd.load_part(target, count))  # in this order NaN stays
            simd.store_part(target, simd.minimum(most, value), count)


@outlined
def scale_rows(task: int, tasks: int, x: int, rows: int, size: int, scale: float) -> None:
    """`x[t] *= scale` for (rows, size)."""
    first, end = task_range(task, tasks, rows, 1)
    # Without a cap, `soft_cap` multiplies by the scale and does nothing else.
    soft_cap(x + first * size * 4, (end - first) * size, scale, 0.0)


@outlined
def add_rows(task: int, tasks: int, x: int, rows: int, size: int, scale: float, out: int) -> None:
    """`out[t] += x[t] * scale` for (rows, size)."""
    first, end = task_range(task, tasks, rows, 1)
    factor = simd.splat(scale)
    # The rows of a task are one run of memory: only its very last register is masked.
    for k in range(first * size, end * size, LANES):
        count = min(LANES, end * size - k)
        value = simd.multiply(simd.load_part(x + 4 * k, count), factor)
        value = simd.add(simd.load_part(out + 4 * k, count), value)
        simd.store_part(out + 4 * k, value, count)


@kernel
def clear_columns(x: int, rows: int, columns: int, first: int, end: int) -> None:
    """Make the columns `first` to `end - 1` of (rows, columns) 0."""
    zero = simd.splat(0.0)
    for row in range(rows):
        for k in range(first, end, LANES):
            simd.store_part(x + 4 * (row * columns + k), zero, min(LANES, end - k))


@kernel
def copy_columns(source: int, target: int, rows: int, columns: int, first: int, end: int) -> None:
    """Copy the columns `first` to `end - 1` of (rows, columns)."""
    for row in range(rows):
        offset = 4 * (row * columns + first)
        copy_row(source + offset, target + offset, end - first)


@kernel
def multiply_columns(
    x: int, x_stride: int, y: int, y_stride: int, rows: int, first: int, end: int, out: int,
    out_stride: int,
) -> None:  # fmt: skip
    """`out = x * y` in the columns `first` to `end - 1`; rows of each are so many bytes apart.

    With a stride of 0, y is one row for all.
    """
    for row in range(rows):
        a, b, target = x + row * x_stride, y + row * y_stride, out + row * out_stride
        for k in range(first, end, LANES):
            count = min(LANES, end - k)
            value = simd.multiply(
                simd.load_part(a + 4 * k, count), simd.load_part(b + 4 * k, count)
            )
            simd.store_part(target + 4 * k, value, count)


@outlined
def scale_columns(x: int, stride: int, rows: int, first: int, end: int, scale: float) -> None:
    """`x *= scale` in the columns `first` to `end - 1`; rows are so many bytes apart."""
    for row in range(rows):
        soft_cap(x + row * stride + 4 * first, end - first, scale, 0.0)


@kernel
def scale_and_soft_cap(
    task: int, tasks: int, logits: int, rows: int, columns: int, scale: float, cap: float
) -> None:
    """Scale and cap logits (rows, columns): `cap * tanh(x * scale / cap)`.

    A task has the same columns as in `linear`, so that it caps what it has just computed, while
    that is still in its cache.
    """
    first, end = task_range(task, tasks, columns, COLUMN_GRAIN)
    for row in range(rows):
        soft_cap(logits + 4 * (row * columns + first), end - first, scale, cap)


# ---- rotary embedding


@kernel
def _rotate_halves(x: int, cosines: int, sines: int, half: int, scale: float) -> None:
    """Rotate each pair (x[i], x[i + half]) of the head at address `x`, and scale it."""
    factor = simd.splat(scale)
    for i in range(0, half, LANES):
        count = min(LANES, half - i)
        low, high = x + 4 * i, x + 4 * (i + half)
        first, second = simd.load_part(low, count), simd.load_part(high, count)
        c, s = simd.load_part(cosines + 4 * i, count), simd.load_part(sines + 4 * i, count)
        rotated = simd.subtract(simd.multiply(first, c), simd.multiply(second, s))
        simd.store_part(low, simd.multiply(rotated, factor), count)
        rotated = simd.add(simd.multiply(second, c), simd.multiply(first, s))
        simd.store_part(high, simd.multiply(rotated, factor), count)


@outlined
def _rotate_interleaved(x: int, cosines: int, sines: int, half: int, scale: float) -> None:
    """Rotate each pair (x[2 i], x[2 i + 1]) of the head at address `x`, and scale it."""
    # Pair by pair: on a register, the lanes would have to be shuffled apart and together again.
    factor = scale
    for i in range(half):
        first, second = simd.get_float32(x, 2 * i), simd.get_float32(x, 2 * i + 1)
        c, s = simd.get_float32(cosines, i), simd.get_float32(sines, i)
        simd.put_float32(x, 2 * i, (first * c - second * s) * factor)
        simd.put_float32(x, 2 * i + 1, (second * c + first * s) * factor)


@outlined
def rotate_heads(
    x: int, rows: int, heads: int, size: int, first: int, end: int, norm: Norm | None,
    norm_last: int, scale: float, positions: int, cosines: int, sines: int, rotary: int,
    interleaved: int,
) -> None:  # fmt: skip
    """Norm, rotary embedding and scale of the heads `first` to `end - 1`, in place.

    x is (rows, heads, size), of which the first `rotary` dimensions are rotated: as neighbouring
    pairs if `interleaved`, else as the two halves of a head. The norm comes first, or after the
    rotary embedding if `norm_last`. Cosines and sines are (positions, rotary / 2), or 0 for no
    rotary embedding.
    """
    rotated = rotary if cosines else 0
    is_last = norm_last if norm else 0
    early_scale = 1.0 if is_last else scale
    for row in range(rows):
        angles = simd.get_int32(positions, row) * (rotary // 2) * 4
        for head in range(first, end):
            address = x + (row * heads + head) * size * 4
            if norm and not is_last:
                norm_row(norm, head, address, address, size)
            if rotated and interleaved:
                _rotate_interleaved(
                    address, cosines + angles, sines + angles, rotary // 2, early_scale
                )
            elif rotated:
                _rotate_halves(address, cosines + angles, sines + angles, rotary // 2, early_scale)
            if is_last:
                norm_row(norm, head, address, address, size)
                soft_cap(address, size, scale, 0.0)
            elif rotated < size:  # these dimensions have nothing but the scale
                soft_cap(address + 4 * rotated, size - rotated, scale, 0.0)
