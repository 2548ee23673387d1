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


Mix = Callable[..., tuple[Floats, State]]
MIX: dict[type, tuple[tuple[str, ...], Mix]] = {
    DeltaNetSpec: (("q", "k", "v", "z", "rate", "decay"), delta_net),
}
"""By the kind of mixer: the roles of its input maps, and the function."""
