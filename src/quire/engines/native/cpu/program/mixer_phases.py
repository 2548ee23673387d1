"""What layers without attention share: an input map into `step.gate`, and the states of sequences."""

from __future__ import annotations

from quire.engines.native.cpu.compiler.language import kernel
from quire.engines.native.cpu.kernels.causal_conv import causal_conv
from quire.engines.native.cpu.kernels.linear import linear_columns
from quire.engines.native.cpu.kernels.simd import NO, get_int32
from quire.engines.native.cpu.program.arguments import CausalConv, InputMap, Step
from quire.engines.native.cpu.program.lora import add_lora

# ---- the input map


@kernel
def input_columns(
    step: Step, own: InputMap, normed: int, quantized: int, first: int, end: int
) -> None:
    """The columns `first` to `end - 1` of the input map, in `step.gate` (rows, columns)."""
    linear_map = own.linear
    linear_columns(normed, quantized, step.rows, linear_map, step.gate, first, end, NO)
    add_lora(step.adapters, own.entry, 0, step.gate, linear_map.columns, first, end)


# ---- states


@kernel
def sequence_rows(step: Step, sequence: int) -> tuple[int, int]:
    """The first row of a sequence, and how many it has."""
    first = get_int32(step.query_start, sequence)
    return first, get_int32(step.query_start, sequence + 1) - first


@kernel
def begins(step: Step, row: int) -> bool:
    """Whether a row is a sequence's first, so that there is no state yet."""
    return get_int32(step.positions, row) == 0


@kernel
def saves_of(step: Step, row: int) -> int:
    """Where the slots stand that get copies of the state after a row and those that follow; 0 for none."""
    return step.state_saves + 4 * row if step.state_saves else 0


@kernel
def convolve(step: Step, own: CausalConv, x: int, stride: int, first: int, end: int) -> None:
    """The convolution of some channels of all sequences, in place in x, whose rows are `stride` apart."""
    for sequence in range(step.sequences):
        row, rows = sequence_rows(step, sequence)
        source = x + row * stride
        causal_conv(source, stride, rows, own.channels, first, end, own.taps, own.width, own.bias,
                    own.is_silu, own.states, step.state_stride, get_int32(step.state_slots, sequence),
                    saves_of(step, row), begins(step, row), source, stride)  # fmt: skip
