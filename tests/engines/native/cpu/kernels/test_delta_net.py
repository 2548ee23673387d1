"""The gated delta net beside NumPy and transformers; and that a row's result does not depend on cuts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.models.qwen3_next.modeling_qwen3_next import (
    causal_conv1d_fn,
    torch_recurrent_gated_delta_rule,
)

from quire.engines.native.cpu.kernels import delta_net
from quire.engines.native.cpu.kernels.arguments import DeltaNet
from quire.engines.native.cpu.kernels.causal_conv import causal_conv
from quire.engines.native.cpu.kernels.rowwise import task_range
from quire.engines.native.models.layers.delta_net import TAPS, DeltaNetSpec
from tests.engines.native.cpu import reference_mixers
from tests.engines.native.cpu.kernels.arrays import floats, ptr

Floats = NDArray[np.float32]
SLOTS = 8
SMALL = DeltaNetSpec(2, 4, 12, 20, 1e-6)
SPECS = (
    SMALL,
    DeltaNetSpec(1, 1, 5, 3, 1e-5),
    DeltaNetSpec(3, 3, 24, 48, 1e-5, rate_scale=2.0),
    DeltaNetSpec(2, 4, 128, 128, 1e-6),
)


class Layer:
    """A layer of random weights, and the states of SLOTS sequences."""

    def __init__(self, spec: DeltaNetSpec, tasks: int = 1) -> None:
        self.spec, self.tasks = spec, tasks
        heads = spec.value_heads
        self.widths = {"q": spec.key_width, "k": spec.key_width, "v": spec.out_size}
        self.tensors = {
            f"{part}_conv": floats(width, 1, TAPS) for part, width in self.widths.items()
        }
        self.tensors |= {
            "log_decay": floats(heads),
            "step_bias": floats(heads),
            "mixer_norm": 1 + 0.2 * floats(spec.value_size),
        }
        self.taps = {
            part: np.ascontiguousarray(self.tensors[f"{part}_conv"][:, 0].T) for part in self.widths
        }
        # What a slot held before must not matter.
        self.states: Floats = np.full((SLOTS, spec.state_floats), np.nan, np.float32)
        own = self.own = DeltaNet()
        own.key_heads, own.value_heads = spec.key_heads, heads
        own.key_size, own.value_size = spec.key_size, spec.value_size
        own.log_decay, own.step_bias = map(
            ptr, (self.tensors["log_decay"], self.tensors["step_bias"])
        )
        own.rate_scale, own.norm_eps = spec.rate_scale, spec.norm_eps
        own.norm = ptr(self.tensors["mixer_norm"])
        own.states = ptr(self.states) + 4 * (TAPS - 1) * spec.channels

    def project(self, rows: int) -> dict[str, Floats]:
        """What the linear maps may make of so many rows."""
        heads = self.spec.value_heads
        widths = {**self.widths, "z": self.spec.out_size, "rate": heads, "decay": heads}
        return {role: floats(rows, width) for role, width in widths.items()}

    def run(
        self,
        projected: dict[str, Floats],
        start: int = 0,
        slot: int = 0,
        saves: Sequence[int] | None = None,
    ) -> Floats:
        """Some rows of one sequence, of which the first has position `start`."""
        spec, own = self.spec, self.own
        found = {role: values.copy() for role, values in projected.items()}
        rows, is_new = len(found["q"]), start == 0
        slots = np.array(saves, np.int32) if saves is not None else None
        stride, where = self.states.strides[0], ptr(self.states)
        for part, width in self.widths.items():
            x, weight = found[part], self.taps[part]
            for task in range(self.tasks):
                first, end = task_range(task, self.tasks, width, 1)
                causal_conv(
                    ptr(x), 4 * width, rows, width, first, end, ptr(weight), TAPS, 0, 1, where,
                    stride, slot, ptr(slots), is_new, ptr(x), 4 * width,
                )  # fmt: skip
            where += 4 * (TAPS - 1) * width
        heads, size = spec.key_heads, spec.key_size
        length = delta_net.query_length(own)
        delta_net.normalise_lengths(ptr(found["q"]), rows, heads, size, 0, heads, length)
        for head in range(heads):
            delta_net.normalise_lengths(ptr(found["k"]), rows, heads, size, head, head + 1, 1.0)
        delta_net.finish_rates(own, ptr(found["rate"]), rows)
        delta_net.finish_decays(own, ptr(found["decay"]), rows)
        out: Floats = np.full((rows, spec.out_size), np.nan, np.float32)
        scratch = np.zeros(delta_net.SCRATCH_FLOATS, np.float32)
        inputs = [ptr(found[role]) for role in ("q", "k", "v", "rate", "decay")]
        for unit in reversed(range(delta_net.num_slices(own))):
            delta_net.delta_slice(
                own, unit, *inputs, rows, stride, slot, ptr(slots), is_new, ptr(out), ptr(scratch)
            )
        for task in range(self.tasks):
            delta_net.gated_norms(task, self.tasks, own, ptr(out), ptr(found["z"]), rows)
        return out

    def expected(self, projected: dict[str, Floats]) -> Floats:
        """The same for a whole sequence in NumPy."""
        return reference_mixers.delta_net(projected, self.tensors, self.spec, None)[0]


def rows_of(projected: dict[str, Floats], first: int, end: int) -> dict[str, Floats]:
    return {role: values[first:end] for role, values in projected.items()}


@pytest.mark.parametrize("tasks", [1, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_beside_numpy(spec: DeltaNetSpec, tasks: int) -> None:
    layer = Layer(spec, tasks)
    for slot, rows in enumerate((1, 9, 2, 30)):
        projected = layer.project(rows)
        out = layer.run(projected, slot=slot)
        np.testing.assert_allclose(out, layer.expected(projected), rtol=2e-4, atol=2e-5)


def test_beside_transformers() -> None:
    """Convolution and rule as Qwen3-Next computes them."""
    spec, layer = SMALL, Layer(SMALL)
    projected = layer.project(11)
    tensors = {role: torch.from_numpy(one) for role, one in layer.tensors.items()}
    values: dict[str, Any] = {role: torch.from_numpy(one) for role, one in projected.items()}
    qkv = torch.cat([values[role] for role in ("q", "k", "v")], 1)
    taps = torch.cat([tensors[f"{role}_conv"] for role in ("q", "k", "v")])[:, 0]
    mixed = causal_conv1d_fn(qkv.T[None], taps, None, activation="silu")[0].T
    parts = mixed.split([spec.key_width, spec.key_width, spec.out_size], 1)
    q, k = (one.reshape(1, 11, 2, 12).repeat_interleave(2, 2) for one in parts[:2])
    decay = -tensors["log_decay"].exp() * torch.nn.functional.softplus(
        values["decay"] + tensors["step_bias"]
    )
    out, _ = torch_recurrent_gated_delta_rule(
        q, k, parts[2].reshape(1, 11, 4, 20), g=decay[None], beta=values["rate"].sigmoid()[None],
        use_qk_l2norm_in_kernel=True,
    )  # fmt: skip
    out = out[0] * torch.rsqrt(out[0].pow(2).mean(-1, keepdim=True) + spec.norm_eps)
    gate = torch.nn.functional.silu(values["z"]).view(11, 4, 20)
    expected = (out * tensors["mixer_norm"] * gate).reshape(11, -1).numpy()
    np.testing.assert_allclose(layer.run(projected), expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(cuts=st.sets(st.integers(1, 12)), tasks=st.integers(1, 9))
def test_cuts_and_tasks_change_no_bit(cuts: set[int], tasks: int) -> None:
    layer, length = Layer(SMALL), 13
    projected = layer.project(length)
    whole, state = layer.run(projected), layer.states[0].copy()
    layer.tasks = tasks
    pieces = [
        layer.run(rows_of(projected, first, end), first, slot=1)
        for first, end in itertools.pairwise((0, *sorted(cuts), length))
    ]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(layer.states[1], state)


def test_saved_states() -> None:
    """A slot that was saved after a row goes on as if the rows after it had never been."""
    layer = Layer(SMALL, tasks=3)
    projected = layer.project(10)
    whole = layer.run(projected)
    after = layer.states[0].copy()
    saves = [-1, 5, -1, -1, -1, 4, -1, -1, -1, -1]
    np.testing.assert_array_equal(layer.run(projected, saves=saves), whole)
    np.testing.assert_array_equal(layer.states[0], after)
    for row, slot in ((5, 4), (1, 5)):
        rest = layer.run(rows_of(projected, row + 1, 10), row + 1, slot)
        np.testing.assert_array_equal(rest, whole[row + 1 :])
