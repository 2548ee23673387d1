"""What layers have in place of attention, in plain NumPy: one sequence's rows, from its state to the next.

Each function takes what the layer's input maps give, by their roles, the layer's tensors, its mixer, and the
state before the first row, None for none. It returns what the output map reads, and the state after the last
row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from quire.engines.native.models.layers.delta_net import TAPS, DeltaNetSpec
from quire.engines.native.models.layers.mamba2 import Mamba2Spec
from quire.engines.native.models.layers.short_conv import ShortConvSpec
from tests.engines.native.cpu import reference
from tests.engines.native.cpu.reference import Floats, Matrix

State = Any  # of the mixer's own kind
Tensors = Mapping[str, Matrix]


def delta_rule(
    q: Floats, k: Floats, v: Floats, rates: Floats, decays: Floats, state: Floats
) -> tuple[Floats, Floats]:
    """The gated delta rule of a sequence: q and k (rows, heads, key size), v (rows, heads, value size).

    Rates and decays are (rows, heads), the state (heads, key size, value size). Queries and keys have
    their lengths already. Returns what the queries find, and the state after the last row.
    """
    out = np.zeros_like(v)
    for row in range(len(v)):
        state = state * decays[row, :, None, None]
        known = np.einsum("hk,hkv->hv", k[row], state)
        change = (v[row] - known) * rates[row, :, None]
        state = state + k[row, :, :, None] * change[:, None]
        out[row] = np.einsum("hk,hkv->hv", q[row], state)
    return out, state


def _of_length(x: Floats, length: float) -> Floats:
    """Vectors of the last axis, all of one length."""
    return x * np.float32(length) / np.sqrt(np.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def delta_net(
    projected: Mapping[str, Floats], tensors: Tensors, mixer: DeltaNetSpec, state: State
) -> tuple[Floats, State]:
    """`delta_step.project_delta` after its maps, and `delta_rule`."""
    rows, heads = len(projected["q"]), mixer.value_heads
    if state is None:
        state = (
            np.zeros((TAPS - 1, mixer.channels), np.float32),
            np.zeros((heads, mixer.key_size, mixer.value_size), np.float32),
        )
    inputs = np.concatenate([projected[role] for role in ("q", "k", "v")], axis=1)
    taps = [reference.wide(tensors[f"{role}_conv"])[:, 0] for role in ("q", "k", "v")]
    found, kept = reference.causal_conv(inputs, np.concatenate(taps), None, state[0], True)
    q, k, v = np.split(found, [mixer.key_width, 2 * mixer.key_width], axis=1)
    q, k = (x.reshape(rows, mixer.key_heads, mixer.key_size) for x in (q, k))
    q, k = _of_length(q, mixer.key_size**-0.5), _of_length(k, 1.0)
    q, k = (np.repeat(x, heads // mixer.key_heads, axis=1) for x in (q, k))
    rates = (mixer.rate_scale / (1 + np.exp(-projected["rate"]))).astype(np.float32)
    steps = reference.softplus(projected["decay"] + tensors["step_bias"])
    decays = np.exp(-np.exp(tensors["log_decay"]) * steps)
    v = v.reshape(rows, heads, mixer.value_size)
    out, matrices = delta_rule(q, k, v, rates, decays, state[1])
    normed = reference.rms_norm(out, tensors["mixer_norm"], mixer.norm_eps).reshape(rows, -1)
    return reference.silu_gate(projected["z"], normed), (kept, matrices)


def short_conv(
    projected: Mapping[str, Floats], tensors: Tensors, mixer: ShortConvSpec, state: State
) -> tuple[Floats, State]:
    """`short_conv_step.short_conv`: c * conv(b * x)."""
    b, c, x = np.split(projected["in"], 3, axis=1)
    if state is None:
        state = np.zeros((mixer.width - 1, mixer.channels), np.float32)
    taps = reference.wide(tensors["conv"])[:, 0]
    mixed, state = reference.causal_conv(b * x, taps, tensors.get("conv_bias"), state, False)
    return c * mixed, state


def mamba2(
    projected: Mapping[str, Floats], tensors: Tensors, mixer: Mamba2Spec, state: State
) -> tuple[Floats, State]:
    """`mamba2_step.mamba2`: convolution, scan and gate."""
    made, heads = projected["in"], mixer.heads
    rows = len(made)
    if state is None:
        state = (
            np.zeros((mixer.width - 1, mixer.conv_channels), np.float32),
            np.zeros((heads, mixer.state_size, mixer.head_dim), np.float32),
        )
    edges = np.cumsum(mixer.parts)
    if mixer.multipliers:
        made = made * np.repeat(np.array(mixer.multipliers, np.float32), mixer.parts)
    z, mixed, dt = np.split(made, [edges[0], edges[3]], axis=1)
    taps = reference.wide(tensors["conv"])[:, 0]
    mixed, last = reference.causal_conv(mixed, taps, tensors.get("conv_bias"), state[0], True)
    x, b, c = np.split(mixed, edges[1:3] - edges[0], axis=1)
    each = (rows, mixer.groups, mixer.state_size)
    b, c = (np.repeat(one.reshape(each), heads // mixer.groups, axis=1) for one in (b, c))
    step = np.clip(reference.softplus(dt + tensors["dt_bias"]), *mixer.step_limits)
    out, scanned = reference.selective_scan(
        x.reshape(rows, heads, -1), b, c, step, -np.exp(tensors["a_log"]), tensors["d"], state[1]
    )
    gated = reference.gated_norm(
        out.reshape(rows, -1), z, tensors.get("gate_norm"), mixer.norm_groups, mixer.norm_eps,
        mixer.gates_last,
    )  # fmt: skip
    return gated * np.float32(mixer.out_scale), (last, scanned)


Mix = Callable[..., tuple[Floats, State]]
MIX: dict[type, tuple[tuple[str, ...], Mix]] = {
    DeltaNetSpec: (("q", "k", "v", "z", "rate", "decay"), delta_net),
    ShortConvSpec: (("in",), short_conv),
    Mamba2Spec: (("in",), mamba2),
}
"""By the kind of mixer: the roles of its input maps, and the function."""
