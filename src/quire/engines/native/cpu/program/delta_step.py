"""A gated delta net, a layer's half in place of attention: its maps and convolutions, the rule, the gate."""

from __future__ import annotations

from typing import Any

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.kernels.delta_net import (
    delta_slice,
    finish_decays,
    finish_key_decays,
    finish_rates,
    gated_norms,
    kimi_delta_slice,
    normalise_lengths,
    num_slices,
    query_length,
)
from quire.engines.native.cpu.kernels.linear import linear_columns, quantized_map_of
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.cpu.kernels.simd import NO, get_int32
from quire.engines.native.cpu.program import arguments
from quire.engines.native.cpu.program.arguments import CausalConv, GatedDeltaNet, Step
from quire.engines.native.cpu.program.linear_phases import (
    input_phases,
    map_columns,
    normed_rows,
    quantized_rows,
)
from quire.engines.native.cpu.program.lora import add_lora
from quire.engines.native.cpu.program.mixer_phases import begins, convolve, saves_of, sequence_rows
from quire.engines.native.cpu.program.phases import (
    counters_of,
    next_task,
    num_tasks,
    scratch_of,
    take_task,
    wait_for_phase,
)

_Q, _K, _V, _Z, _RATE, _DECAY, _MAPS_OF_X = range(7)


# ---- the maps


@kernel
def _columns(
    step: Step, own: GatedDeltaNet, linear_map: LinearMap, which: int, normed: int, quantized: int,
    out: int, first: int, end: int,
) -> None:  # fmt: skip
    """Some columns of a map; `which` is _Q to _DECAY."""
    linear_columns(normed, quantized, step.rows, linear_map, out, first, end, NO)
    add_lora(step.adapters, own.entry + which, which, out, linear_map.columns, first, end)


@kernel
def _convolved_columns(
    step: Step, own: GatedDeltaNet, linear_map: LinearMap, which: int, conv: CausalConv, normed: int,
    quantized: int, out: int, first: int, end: int,
) -> None:  # fmt: skip
    """The same for a map with a convolution, in place."""
    _columns(step, own, linear_map, which, normed, quantized, out, first, end)
    convolve(step, conv, out, 4 * linear_map.columns, first, end)


@kernel
def _project_keys(
    step: Step, own: GatedDeltaNet, normed: int, quantized: int, first: int, end: int
) -> None:
    """Queries and keys of the heads `first` to `end - 1`, counted over queries and then keys."""
    net, rows, heads, size = own.net, step.rows, own.net.key_heads, own.net.key_size
    if first < heads:
        last = min(end, heads)
        _convolved_columns(step, own, own.q, _Q, own.q_conv, normed, quantized, step.queries,
                           first * size, last * size)  # fmt: skip
        normalise_lengths(step.queries, rows, heads, size, first, last, query_length(net))
    first, end = max(first - heads, 0), end - heads
    if first < end:
        _convolved_columns(step, own, own.k, _K, own.k_conv, normed, quantized, step.keys,
                           first * size, end * size)  # fmt: skip
        normalise_lengths(step.keys, rows, heads, size, first, end, 1.0)


@kernel
def _decays(step: Step, own: GatedDeltaNet) -> int:
    """Where decays are: after the rates, which begin at `step.up`."""
    return step.up + 4 * step.rows * own.net.value_heads


@kernel
def _small_gates(step: Step, own: GatedDeltaNet) -> int:
    """Where the small vectors are that gates are made of: after the decays."""
    return _decays(step, own) + 4 * step.rows * own.net.key_heads * own.net.key_size


@kernel
def _small_decays(step: Step, own: GatedDeltaNet) -> int:
    """Where those are that decays are made of."""
    return _small_gates(step, own) + 4 * step.rows * own.z.columns


@kernel
def _gate_heads(own: GatedDeltaNet) -> int:
    """How many heads the map z makes."""
    return own.z.columns // own.net.value_size


@kernel
def _project_values(
    step: Step, own: GatedDeltaNet, normed: int, quantized: int, first: int, end: int
) -> None:
    """Values and gates of the heads `first` to `end - 1`, counted over values and then gates.

    The small vector that gates are made of is one more head.
    """
    heads, size = own.net.value_heads, own.net.value_size
    if first < heads:
        _convolved_columns(step, own, own.v, _V, own.v_conv, normed, quantized, step.values,
                           first * size, min(end, heads) * size)  # fmt: skip
    first, end = max(first - heads, 0), end - heads
    if first < end:
        out = _small_gates(step, own) if own.z_b else step.gate
        _columns(step, own, own.z, _Z, normed, quantized, out, first * size, end * size)


@kernel
def _project_task(
    step: Step, own: GatedDeltaNet, normed: int, quantized: int, first: int, end: int
) -> None:
    """Make the units `first` to `end - 1` ready for the rule: heads of all maps, then rates, then decays.

    The task that computes a head also convolves it, while it is in the cache.
    """
    net, keys = own.net, 2 * own.net.key_heads
    values = net.value_heads + _gate_heads(own)
    if first < keys:
        _project_keys(step, own, normed, quantized, first, min(end, keys))
    if max(first, keys) < min(end, keys + values):
        _project_values(step, own, normed, quantized, max(first - keys, 0),
                        min(end - keys, values))  # fmt: skip
    rates, heads = keys + values, net.value_heads
    if first <= rates and rates < end:
        _columns(step, own, own.rate, _RATE, normed, quantized, step.up, 0, heads)
        finish_rates(net, step.up, step.rows)
    if rates + 1 < end:
        out = _small_decays(step, own) if own.decay_b else _decays(step, own)
        _columns(step, own, own.decay, _DECAY, normed, quantized, out, 0, own.decay.columns)
        if not own.decay_b:
            finish_decays(net, out, step.rows)


@kernel
def project_delta(thread: int, step: Step, own: GatedDeltaNet, first_phase: int) -> None:
    """Norm, queries, keys and values with their convolutions, gates, rates and decays."""
    x, rows = step.residual, step.rows
    quantized_map = quantized_map_of(own.q, quantized_map_of(own.k, own.v))
    quantized_map = quantized_map_of(
        quantized_map, quantized_map_of(own.z, quantized_map_of(own.rate, own.decay))
    )
    normed = input_phases(thread, step, x, own.norm, quantized_map, own.entry, _MAPS_OF_X,
                          first_phase)  # fmt: skip
    phase = first_phase + arguments.DELTA_HEADS
    units = 2 * own.net.key_heads + own.net.value_heads + _gate_heads(own) + 2
    counters, tasks = counters_of(step, phase), num_tasks(step, units)
    task = take_task(counters)
    if task < tasks and not normed:
        normed = normed_rows(thread, step, x, rows, own.norm)
    quantized = quantized_rows(thread, step, quantized_map, normed, rows) if task < tasks else 0
    while task < tasks:
        first, end = task_range(task, tasks, units, 1)
        _project_task(step, own, normed, quantized, first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


@kernel
def delta_gates(thread: int, step: Step, own: GatedDeltaNet, first_phase: int) -> None:
    """Gates and decays of their small vectors."""
    net, rows, z_b, decay_b = own.net, step.rows, own.z_b, own.decay_b
    if z_b:
        map_columns(thread, step, z_b, own.z_b_entry, _small_gates(step, own), step.gate, NO,
                    first_phase + arguments.SMALL_GATES)  # fmt: skip
    if decay_b:
        map_columns(thread, step, decay_b, own.decay_b_entry, _small_decays(step, own),
                    _decays(step, own), NO, first_phase + arguments.SMALL_DECAYS)  # fmt: skip
    phase, units = first_phase + arguments.SMALL_FINISH, rows * net.value_heads
    counters, tasks = counters_of(step, phase), num_tasks(step, units)
    task = take_task(counters)
    while task < tasks:
        first, end = task_range(task, tasks, units, 1)
        finish_key_decays(net, _decays(step, own), first, end)
        task = next_task(counters)
    wait_for_phase(step, phase, tasks)


# ---- the rule


def _make_rule(by_key: bool) -> Any:
    """The operation for a decay of each head, or of each dimension of its key."""
    slice_of = kimi_delta_slice if by_key else delta_slice

    @kernel
    def run_slice(thread: int, step: Step, own: GatedDeltaNet, unit: int) -> None:
        """One slice of one sequence's state."""
        net, sequence = own.net, unit % step.sequences
        row, rows = sequence_rows(step, sequence)
        keys, heads = 4 * row * net.key_heads * net.key_size, 4 * row * net.value_heads
        values = heads * net.value_size
        decays = _decays(step, own) + (keys if by_key else heads)
        slice_of(net, unit // step.sequences, step.queries + keys, step.keys + keys,
                 step.values + values, step.up + heads, decays, rows, step.state_stride,
                 get_int32(step.state_slots, sequence), saves_of(step, row), begins(step, row),
                 step.attention_out + values, scratch_of(thread, step))  # fmt: skip

    @kernel
    def rule(thread: int, step: Step, own: GatedDeltaNet, first_phase: int) -> None:
        """The rule, and the norm and the gate of what queries find, in `step.attention_out`."""
        net, rows = own.net, step.rows
        phase = first_phase + arguments.DELTA_SLICES
        units = num_slices(net) * step.sequences
        counters, tasks = counters_of(step, phase), num_tasks(step, units)
        task = take_task(counters)
        while task < tasks:
            first, end = task_range(task, tasks, units, 1)
            # Sequences of one slice follow each other: each task has some of long ones and of short ones.
            for unit in range(first, end):
                run_slice(thread, step, own, unit)
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)
        phase = first_phase + arguments.DELTA_GATES
        counters, tasks = counters_of(step, phase), num_tasks(step, rows * net.value_heads)
        task = take_task(counters)
        while task < tasks:
            gated_norms(task, tasks, net, step.attention_out, step.gate, rows)
            task = next_task(counters)
        wait_for_phase(step, phase, tasks)

    return rule


delta_rule = _make_rule(False)
kimi_delta_rule = _make_rule(True)
