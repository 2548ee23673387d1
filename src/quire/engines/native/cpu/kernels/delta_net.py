"""The gated delta rule (arXiv 2412.06464): a head's state is a matrix that forgets, and learns pairs.

For each row, with a key k and a query q of length 1, a value v, a decay d and a rate b:

    S = d * S;   S = S + k (b * (v - k S));   out = q S / sqrt(key size)

In Kimi Delta Attention (arXiv 2510.26692) each dimension of a key, a row of S, has a decay of its own.

Queries, keys and values have passed a causal convolution with SiLU. Rows are taken one after another, of a
prompt too: so a row's result is bitwise the same however a prompt is cut into chunks. A slice of a state, of COLUMNS
value dimensions, stays in a core's first-level cache meanwhile, and each slice is a task of its own.

`reference.delta_net` is the same on arrays.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from quire.engines.native.cpu.compiler.language import FLOAT, INT, NOTHING, kernel, primitive
from quire.engines.native.cpu.kernels import layout, simd
from quire.engines.native.cpu.kernels.activations import (
    multiply_by_sigmoid,
    multiply_by_silu,
    sigmoid,
    softplus,
)
from quire.engines.native.cpu.kernels.arguments import DeltaNet
from quire.engines.native.cpu.kernels.builders import (
    FLOAT32,
    INT64,
    build_fma,
    build_load,
    build_pointer,
    build_splat,
    constant_vector,
)
from quire.engines.native.cpu.kernels.layout import LANES
from quire.engines.native.cpu.kernels.rowwise import copy_row, normalise_row, task_range
from quire.engines.native.cpu.kernels.simd import get_float32, get_int32
from quire.engines.native.cpu.kernels.tiles import build_loop, make_outer_tile
from quire.engines.native.models.layers.delta_net import SLICE

COLUMNS = SLICE  # value dimensions of a slice
SCRATCH_FLOATS = 3 * COLUMNS  # that `delta_slice` needs; `kimi_delta_slice` needs a key besides
_REGISTERS = COLUMNS // LANES
_L2_EPS = 1e-6


# ---- what the rule reads


@kernel
def _normalise_length(x: int, size: int, scale: float) -> None:
    """`x *= scale / sqrt(sum(x^2) + eps)` for `size` floats."""
    total = simd.splat(0.0)
    for k in range(0, size, LANES):
        value = simd.load_part(x + 4 * k, min(LANES, size - k))
        total = simd.fma(value, value, total)
    length = simd.sqrt(simd.splat(simd.sum_lanes(total) + _L2_EPS))
    factor = simd.divide(simd.splat(scale), length)
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        simd.store_part(x + 4 * k, simd.multiply(simd.load_part(x + 4 * k, count), factor), count)


@kernel
def normalise_lengths(
    x: int, rows: int, heads: int, size: int, first: int, end: int, scale: float
) -> None:
    """Give the heads `first` to `end - 1` of x (rows, heads, size) the length `scale`, in place."""
    for row in range(rows):
        for head in range(first, end):
            _normalise_length(x + 4 * (row * heads + head) * size, size, scale)


@kernel
def query_length(own: DeltaNet) -> float:
    """The length of queries, which keeps what they find of one size: 1 / sqrt(key size)."""
    root = simd.sqrt(simd.splat(float(own.key_size)))
    return simd.first_lane(simd.divide(simd.splat(1.0), root))


@kernel
def finish_rates(own: DeltaNet, x: int, rows: int) -> None:
    """`x = scale * sigmoid(x)` for (rows, value heads)."""
    size, scale = rows * own.value_heads, simd.splat(own.rate_scale)
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        value = simd.multiply(sigmoid(simd.load_part(x + 4 * k, count)), scale)
        simd.store_part(x + 4 * k, value, count)


@kernel
def finish_decays(own: DeltaNet, x: int, rows: int) -> None:
    """`x = exp(-exp(A_log) * softplus(x + bias))` for (rows, value heads)."""
    heads, zero = own.value_heads, simd.splat(0.0)
    for head in range(0, heads, LANES):
        count = min(LANES, heads - head)
        speed = simd.exp(simd.load_part(own.log_decay + 4 * head, count))
        bias = simd.load_part(own.step_bias + 4 * head, count)
        for row in range(rows):
            place = x + 4 * (row * heads + head)
            step = softplus(simd.add(simd.load_part(place, count), bias))
            decay = simd.exp_negative(simd.subtract(zero, simd.multiply(speed, step)))
            simd.store_part(place, decay, count)


@kernel
def finish_key_decays(own: DeltaNet, x: int, first: int, end: int) -> None:
    """The same for the heads `first` to `end - 1` of (rows * heads, key size), each with its own biases."""
    heads, size, zero = own.value_heads, own.key_size, simd.splat(0.0)
    for unit in range(first, end):
        head = unit % heads
        speed = simd.exp(simd.splat(get_float32(own.log_decay, head)))
        for k in range(0, size, LANES):
            count, place = min(LANES, size - k), x + 4 * (unit * size + k)
            bias = simd.load_part(own.step_bias + 4 * (head * size + k), count)
            step = softplus(simd.add(simd.load_part(place, count), bias))
            decay = simd.exp_negative(simd.subtract(zero, simd.multiply(speed, step)))
            simd.store_part(place, decay, count)


# ---- the rule

_recall = make_outer_tile(1, _REGISTERS, False, layout.KV_FLOAT32)


def _make_learn(recalls: bool, by_key: bool) -> Any:
    """One row of a slice: `learn(state, size, decay, key, change, query, out, next_key, next_decay, recalled)`.

    `state = decay * state + key x change`, then `out = query @ state`: key and query are (size,), change
    and out (COLUMNS,), the state is (size, COLUMNS). If it `recalls`, then also
    `recalled = next_key @ state` while the state is in registers: what the next row begins with.

    `by_key`, the decay is the address of one for each dimension of the key, and so is `next_decay`, with which
    the next key is multiplied: what it recalls is of the state that has faded. Else that is not read.
    """

    @primitive(NOTHING, INT, INT, INT if by_key else FLOAT, *[INT] * 7)
    def learn(
        builder: ir.IRBuilder, state: Any, size: Any, decay: Any, key: Any, change: Any, query: Any,
        out: Any, next_key: Any, next_decay: Any, recalled: Any,
    ) -> None:  # fmt: skip
        offsets = [INT64(4 * LANES * one) for one in range(_REGISTERS)]
        changes = [build_load(builder, builder.add(change, offset)) for offset in offsets]
        readers, targets = ([query, next_key], [out, recalled]) if recalls else ([query], [out])

        def scalar(address: Any, index: Any) -> Any:
            source = builder.add(address, builder.mul(index, INT64(4)))
            value = builder.load(build_pointer(builder, source, FLOAT32), align=4)
            return build_splat(builder, value)

        one_decay = None if by_key else build_splat(builder, decay)

        def step(index: Any, sums: list[Any]) -> list[Any]:
            row = builder.add(state, builder.mul(index, INT64(4 * COLUMNS)))
            weight, read = scalar(key, index), [scalar(one, index) for one in readers]
            decays = scalar(decay, index) if by_key else one_decay
            if by_key and recalls:
                read[1] = builder.fmul(read[1], scalar(next_decay, index))
            result = list(sums)
            for one, offset in enumerate(offsets):
                place = builder.add(row, offset)
                value = builder.fmul(build_load(builder, place), decays)
                value = build_fma(builder, weight, changes[one], value)
                builder.store(value, build_pointer(builder, place, value.type), align=4)
                for which, factor in enumerate(read):
                    place_of = which * _REGISTERS + one
                    result[place_of] = build_fma(builder, factor, value, result[place_of])
            return result

        zero = constant_vector(0.0)
        sums = build_loop(builder, size, [zero] * (_REGISTERS * len(readers)), step)
        for which, target in enumerate(targets):
            for one, offset in enumerate(offsets):
                value = sums[which * _REGISTERS + one]
                place = build_pointer(builder, builder.add(target, offset), value.type)
                builder.store(value, place, align=4)

    return learn


_learn, _learn_and_recall = _make_learn(False, False), _make_learn(True, False)
_learn_by_key, _learn_and_recall_by_key = _make_learn(False, True), _make_learn(True, True)


@kernel
def _change(recalled: int, value: int, count: int, decay: float, rate: float, out: int) -> None:
    """`out = rate * (value - decay * recalled)`, of which `count` columns are values; 0 in the rest."""
    faded, speed = simd.splat(decay), simd.splat(rate)
    for k in range(0, COLUMNS, LANES):
        left = max(min(LANES, count - k), 0)
        known = simd.multiply(simd.load(recalled + 4 * k), faded)
        wanted = simd.load_part(value + 4 * k, left)
        simd.store(out + 4 * k, simd.multiply(simd.subtract(wanted, known), speed))


@kernel
def _faded_key(key: int, decays: int, size: int, out: int) -> None:
    """`out = key * decays`."""
    for k in range(0, size, LANES):
        count = min(LANES, size - k)
        value = simd.multiply(
            simd.load_part(key + 4 * k, count), simd.load_part(decays + 4 * k, count)
        )
        simd.store_part(out + 4 * k, value, count)


@kernel
def _slices(own: DeltaNet) -> int:
    """How many slices a head's state has."""
    return (own.value_size + COLUMNS - 1) // COLUMNS


@kernel
def place_of(own: DeltaNet, head: int) -> int:
    """Where a value head is in the output: see `DeltaNetSpec.tiled_output`."""
    if not own.is_tiled:
        return head
    group = own.value_heads // own.key_heads
    return head % group * own.key_heads + head // group


@kernel
def num_slices(own: DeltaNet) -> int:
    """How many slices a sequence's state has, over all heads."""
    return own.value_heads * _slices(own)


def _make_slice(by_key: bool) -> Any:
    """The rule with a decay for each head, or for each dimension of its key."""

    @kernel
    def slice_of(
        own: DeltaNet, unit: int, q: int, k: int, v: int, rates: int, decays: int, rows: int,
        state_stride: int, slot: int, saves: int, is_new: bool, out: int, scratch: int,
    ) -> None:  # fmt: skip
        """Move slice `unit` of one sequence's state on by its rows; `out` is what queries find in it.

        q and k (rows, key heads, key size), v and `out` (rows, value heads, value size), and the rates and
        decays (rows, value heads) begin at the sequence's first row; decays of keys' dimensions are
        (rows, value heads, key size). Queries and keys have their lengths:
        1 / sqrt(key size), and 1. Slots, `saves` and `is_new` are as in `causal_conv`; `scratch` is this
        thread's own memory, of SCRATCH_FLOATS.
        """
        size, values, heads, slices = own.key_size, own.value_size, own.value_heads, _slices(own)
        head, column, floats = unit // slices, unit % slices * COLUMNS, size * COLUMNS
        count, states = min(COLUMNS, values - column), own.states + 4 * unit * floats
        state = states + slot * state_stride
        recalled, change, found = scratch, scratch + 4 * COLUMNS, scratch + 8 * COLUMNS
        if is_new:
            zero = simd.splat(0.0)
            for place in range(0, floats, LANES):
                simd.store(state + 4 * place, zero)
        leaves = place_of(own, head)
        key_head, key_stride = head // (heads // own.key_heads), 4 * own.key_heads * size
        query, key = q + 4 * key_head * size, k + 4 * key_head * size
        first_key = key
        if by_key:
            first_key = scratch + 4 * SCRATCH_FLOATS
            _faded_key(key, decays + 4 * head * size, size, first_key)
        _recall(first_key, 0, state, 4 * COLUMNS, size, recalled, 0, state)
        for row in range(rows):
            rate = get_float32(rates, row * heads + head)
            place = 4 * ((row * heads + head) * values + column)
            next_key = key + key_stride
            if by_key:
                own_decays = decays + 4 * (row * heads + head) * size
                next_decays = own_decays + 4 * heads * size
                _change(recalled, v + place, count, 1.0, rate, change)
                if row + 1 < rows:
                    _learn_and_recall_by_key(state, size, own_decays, key, change, query, found,
                                             next_key, next_decays, recalled)  # fmt: skip
                else:
                    _learn_by_key(state, size, own_decays, key, change, query, found, 0, 0, 0)
            else:
                decay = get_float32(decays, row * heads + head)
                _change(recalled, v + place, count, decay, rate, change)
                if row + 1 < rows:
                    _learn_and_recall(state, size, decay, key, change, query, found, next_key, 0,
                                      recalled)  # fmt: skip
                else:
                    _learn(state, size, decay, key, change, query, found, 0, 0, 0)
            copy_row(found, out + 4 * ((row * heads + leaves) * values + column), count)
            saved = get_int32(saves, row) if saves else -1
            if saved >= 0:
                copy_row(state, states + saved * state_stride, floats)
            query += key_stride
            key += key_stride

    return slice_of


delta_slice = _make_slice(False)
kimi_delta_slice = _make_slice(True)


# ---- the norm


@kernel
def gated_norms(task: int, tasks: int, own: DeltaNet, x: int, gate: int, rows: int) -> None:
    """`x = norm(x) * silu(gate)`, or a sigmoid of the gate, the norm over each head.

    Both are (rows, value heads, value size).
    The heads of x are in the order of the output.
    """
    size, heads = own.value_size, own.value_heads
    first, end = task_range(task, tasks, rows * heads, 1)
    for unit in range(first, end):
        place = unit // heads * heads + place_of(own, unit % heads)
        head, by = x + 4 * place * size, gate + 4 * unit * size
        normalise_row(head, own.norm, head, size, own.norm_eps)
        if own.has_sigmoids:
            multiply_by_sigmoid(head, by, size)
        else:
            multiply_by_silu(head, by, size)
