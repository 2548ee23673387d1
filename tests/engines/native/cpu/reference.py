"""The kernels in plain NumPy, which the compiled ones are compared with.

Each function has the name of its compiled twin in `kernels` or `program`, and the same meaning. A
kernel takes addresses and sizes where these take arrays, computes the part of one task where these
compute everything, and writes to `out` where these return it:

    kernels.rowwise.gather_rows(task, tasks, table, bfloat16, size, indices, rows, out)
    reference.gather_rows(table, indices) -> out

`reference_runner` is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.weights.adapter import LoraMap
from quire.engines.native.models.layers.experts import ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.ffn import XIELU, Activation
from quire.weights.safetensors import widen

Floats = NDArray[np.float32]
Matrix = NDArray[Any]  # float32, or bfloat16 as uint16


def wide(matrix: Matrix) -> Floats:
    """A matrix as float32."""
    return widen(matrix) if matrix.dtype == np.uint16 else matrix


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """One kind of `rowwise.norm_rows`: x / sqrt(mean(x^2) + eps) * weight, over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    return (x / np.sqrt(mean + np.float32(eps)) * weight).astype(np.float32)


def layer_norm(x: Floats, weight: Floats | None, bias: Floats | None, eps: float) -> Floats:
    """The other kind of `rowwise.norm_rows`: (x - mean) / sqrt(variance + eps) * weight + bias."""
    centred = x - np.mean(x, axis=-1, keepdims=True, dtype=np.float32)
    variance = np.mean(centred * centred, axis=-1, keepdims=True, dtype=np.float32)
    normed: Floats = (centred / np.sqrt(variance + np.float32(eps))).astype(np.float32)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def gather_rows(table: Matrix, indices: NDArray[np.int32]) -> Floats:
    """`rowwise.gather_rows`: table[indices], as float32."""
    return wide(table[indices])


def linear(x: Floats, weight: Matrix, bias: Floats | None = None) -> Floats:
    """`linear.linear`: x @ weight.T + bias."""
    product: Floats = x @ wide(weight).T
    return product if bias is None else product + bias


def silu_gate(gate: Floats, up: Floats) -> Floats:
    """`activations.silu_gate`: gate / (1 + exp(-gate)) * up."""
    with np.errstate(over="ignore"):
        return (gate / (1 + np.exp(-gate)) * up).astype(np.float32)


def gelu_gate(gate: Floats, up: Floats) -> Floats:
    """`activations.gelu_gate`: gate * (1 + tanh(sqrt(2 / pi) * (gate + 0.044715 gate^3))) / 2 * up."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate * gate * gate)
    return (gate * (1 + np.tanh(inner)) / 2 * up).astype(np.float32)


def clamped_swiglu_gate(gate: Floats, up: Floats) -> Floats:
    """`activations.clamped_swiglu_gate`: gate / (1 + exp(-1.702 gate)) * (up + 1), both clamped to 7."""
    gate, up = np.minimum(gate, np.float32(7)), np.clip(up, np.float32(-7), np.float32(7))
    with np.errstate(over="ignore"):
        return (gate / (1 + np.exp(np.float32(-1.702) * gate)) * (up + 1)).astype(np.float32)


GATES = {"silu": silu_gate, "gelu_tanh": gelu_gate, "clamped_swiglu": clamped_swiglu_gate}


def causal_conv(
    x: Floats, weight: Floats, bias: Floats | None, state: Floats, silu: bool
) -> tuple[Floats, Floats]:
    """`causal_conv.causal_conv` for one sequence: (rows, channels), and the state after the last row.

    `weight` is (channels, width), as folders have it; `state` is the last width - 1 inputs.
    """
    width = weight.shape[1]
    inputs = np.concatenate([state, x])
    windows = np.lib.stride_tricks.sliding_window_view(inputs, width, axis=0)
    out: Floats = (windows * weight).sum(-1, dtype=np.float32)
    out = out if bias is None else out + bias
    return silu_gate(out, np.ones_like(out)) if silu else out, inputs[len(x) :]


def softplus(x: Floats) -> Floats:
    """`activations.softplus`: log(1 + exp(x))."""
    return np.logaddexp(x, np.zeros_like(x))


def selective_scan(
    x: Floats, b: Floats, c: Floats, step: Floats, a: Floats, d: Floats, state: Floats
) -> tuple[Floats, Floats]:
    """`mamba2.selective_scan` for one sequence and all heads: the outputs, and the state after them.

    x is (rows, heads, head_dim), b and c (rows, heads, state_size), `step` (rows, heads), a and d
    (heads,), `state` (heads, state_size, head_dim).
    """
    out = np.zeros_like(x)
    for row in range(len(x)):
        decay = np.exp(step[row] * a)[:, None, None]
        taken = (x[row] * step[row, :, None])[:, None]
        state = (state * decay + b[row, :, :, None] * taken).astype(np.float32)
        out[row] = np.einsum("hn,hnp->hp", c[row], state) + d[:, None] * x[row]
    return out, state


def gated_norm(
    x: Floats, gate: Floats, weight: Floats | None, groups: int, eps: float, gates_last: bool
) -> Floats:
    """`mamba2.gated_norm`: norm(x * silu(gate)), or norm(x) * silu(gate); the norm by groups."""
    if not gates_last:
        x = silu_gate(gate, x)
    if weight is not None:
        parts = (*x.shape[:-1], groups, -1)
        x = rms_norm(x.reshape(parts), weight.reshape(parts[-2:]), eps).reshape(x.shape)
    return silu_gate(gate, x) if gates_last else x


AddExpertLora = Callable[[str, NDArray[np.intp], Floats, Floats], Floats]
"""`add(role, rows, x, out)`: the same for some rows of the batch."""


def activate(x: Floats, activation: Activation, xielu: Mapping[str, float] | None = None) -> Floats:
    """`activations.activate_columns`: an activation without a gate."""
    one = np.ones_like(x)
    if activation == "xielu":
        assert xielu is not None
        return _xielu(x, **xielu)
    functions: dict[Activation, Callable[[], Any]] = {
        "silu": lambda: silu_gate(x, one),
        "gelu_tanh": lambda: gelu_gate(x, one),
        "gelu": lambda: x * (1 + np.vectorize(math.erf)(x.astype(np.float64) / math.sqrt(2))) / 2,
        "relu": lambda: np.maximum(x, 0),
        "relu2": lambda: np.maximum(x, 0) ** 2,
    }
    return functions[activation]().astype(np.float32)


def _xielu(x: Floats, alpha_p: float, alpha_n: float, beta: float, eps: float) -> Floats:
    """`activations.activate_xielu`, of the numbers that a folder has."""
    positive, negative = np.logaddexp(0, alpha_p), beta + np.logaddexp(0, alpha_n)
    below = (np.expm1(np.minimum(x, np.float32(eps))) - x) * np.float32(negative)
    curve = np.where(x > 0, np.float32(positive) * x * x, below)
    return (curve + np.float32(beta) * x).astype(np.float32)


AddLora = Callable[[str, Floats, Floats], Floats]
"""`add(role, x, out)`: out, plus what the rows' adapters add to the linear map of that role for x."""


def add_lora(x: Floats, lora_map: LoraMap, out: Floats) -> Floats:
    """`lora.add_lora` after the small product: out + x @ a.T @ b + bias."""
    if lora_map.bias is not None:
        out = out + lora_map.bias
    if lora_map.a is None or lora_map.b is None:
        return out
    return out + (x @ lora_map.a.T @ lora_map.b).astype(np.float32, copy=False)


def gated_ffn(
    x: Floats,
    tensors: Mapping[str, Matrix],
    activation: Activation = "silu",
    add: AddLora = lambda role, x, out: out,
    cutoff: float | None = None,
    scales: tuple[float, float] = (1.0, 1.0),
) -> Floats:
    """`ffn_step.gated_ffn`: act(x @ gate.T + gate_bias) * (x @ up.T + up_bias), each times its scale.

    With a cutoff, `altup_step.cut_gate`.
    """
    gate = add("gate", x, linear(x, tensors["gate"], tensors.get("gate_bias")))
    if cutoff is not None:
        cut = gate.mean(-1, keepdims=True) + gate.std(-1, keepdims=True) * np.float32(cutoff)
        gate = np.maximum(gate - cut, 0)
    up = add("up", x, linear(x, tensors["up"], tensors.get("up_bias")))
    return GATES[activation](gate * np.float32(scales[0]), up * np.float32(scales[1]))


def plain_ffn(
    x: Floats,
    tensors: Mapping[str, Matrix],
    activation: Activation,
    add: AddLora = lambda role, x, out: out,
) -> Floats:
    """`ffn_step.plain_ffn`: act(x @ up.T + up_bias)."""
    up = add("up", x, linear(x, tensors["up"], tensors.get("up_bias")))
    numbers = None
    if activation == "xielu":
        numbers = {name: float(tensors[f"xielu_{name}"][0]) for name in XIELU}
    return activate(up, activation, numbers)


def choose_experts(
    logits: Floats, spec: ExpertsSpec, correction: Floats | None = None
) -> tuple[NDArray[np.int64], Floats]:
    """`experts.choose_experts`: each row's experts and their weights, (rows, per_token).

    The best come first, equal ones in the order of their indices.
    """
    router = spec.router
    scores = logits if router.scores == "sigmoid_of_chosen" else _scores(logits, router.scores)
    choice = scores if correction is None else scores + correction
    if router.groups > 1:
        choice = _without_groups(choice, router)
    chosen = np.argsort(-choice, axis=-1, kind="stable")[:, : spec.per_token]
    weights = np.take_along_axis(scores, chosen, axis=-1)
    if router.scores == "sigmoid_of_chosen":
        weights = _scores(weights, "sigmoid")
    if router.normalised:
        weights = weights / np.maximum(weights.sum(-1, keepdims=True), np.float32(router.least_sum))
    return chosen, weights * np.float32(router.scale)


def _scores(logits: Floats, kind: str) -> Floats:
    with np.errstate(over="ignore"):
        if kind == "sigmoid":
            return (1 / (1 + np.exp(-logits))).astype(np.float32)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def _without_groups(choice: Floats, router: RouterSpec) -> Floats:
    """The scores, with those of all groups but the best ones -inf."""
    groups = choice.reshape(len(choice), router.groups, -1)
    best = np.sort(groups, axis=-1)[..., -1 if router.group_score == "best" else -2 :].sum(-1)
    order = np.argsort(-best, axis=-1, kind="stable")
    left_out = np.ones(best.shape, bool)
    np.put_along_axis(left_out, order[:, : router.chosen_groups], False, axis=-1)
    return np.where(left_out[..., None], np.float32(-np.inf), groups).reshape(choice.shape)


def experts(
    x: Floats,
    tensors: Mapping[str, Matrix],
    spec: ExpertsSpec,
    activation: Activation = "silu",
    add: AddExpertLora = lambda role, rows, x, out: out,
    routed: Floats | None = None,
) -> Floats:
    """The weighted sum of each row's experts, including the shared one.

    `routed` is what the router reads, if that is not x.
    """
    every = np.arange(len(x))
    routed = x if routed is None else routed
    logits = linear(routed, tensors["router"], tensors.get("router_bias"))
    logits = add("router", every, routed, logits)
    chosen, weights = choose_experts(logits, spec, tensors.get("router_correction"))
    if spec.router.scales_experts:
        weights = weights * tensors["expert_scales"][chosen]
    inputs = x
    if spec.latent_size:
        inputs = add("latent_in", every, x, linear(x, tensors["latent_in"]))
    out: Floats = np.zeros_like(inputs)
    for expert in range(spec.count):
        rows, ranks = np.nonzero(chosen == expert)
        weight = weights[rows, ranks, None]
        if spec.router.weights_inputs:
            out[rows] += _expert(inputs[rows] * weight, rows, tensors, expert, activation, add)
        else:
            out[rows] += weight * _expert(inputs[rows], rows, tensors, expert, activation, add)
    if spec.latent_size:
        out = add("latent_out", every, out, linear(out, tensors["latent_out"]))
    if spec.shared_size:
        shared = _expert(x, every, tensors, spec.count, activation, add)
        if spec.shared_gated:
            score = add("shared_score", every, x, linear(x, tensors["shared_score"]))
            shared = _scores(score, "sigmoid") * shared
        out += shared
    return out


def _expert(
    x: Floats,
    rows: NDArray[np.intp],
    tensors: Mapping[str, Matrix],
    expert: int,
    activation: Activation,
    add: AddExpertLora,
) -> Floats:
    """The FFN of one expert for some rows of the batch."""
    prefix = f"experts.{expert}."
    own = {
        role.removeprefix(prefix): one for role, one in tensors.items() if role.startswith(prefix)
    }

    def add_own(role: str, x: Floats, out: Floats) -> Floats:
        return add(f"experts.{expert}.{role}", rows, x, out)

    half = gated_ffn if "gate" in own else plain_ffn
    gate = half(x, own, activation, add_own)
    return add_own("down", gate, linear(gate, own["down"], own.get("down_bias")))


def soft_cap(x: Floats, cap: float) -> Floats:
    """`activations.soft_cap` with a scale of 1: cap * tanh(x / cap); x for a cap of 0."""
    return (cap * np.tanh(x / np.float32(cap))).astype(np.float32) if cap else x


def rotate(x: Floats, cosines: Floats, sines: Floats, interleaved: bool = False) -> Floats:
    """`rowwise.rotate_heads` without norm and scale: rotate (rows, heads, size) by (rows, half).

    The pairs are (x[i], x[i + half]), or (x[2 i], x[2 i + 1]) if `interleaved`. Dimensions beyond
    twice `half` stay.
    """
    half = cosines.shape[1]
    order = np.arange(2 * half).reshape((half, 2) if interleaved else (2, half))
    low, high = order.T if interleaved else order
    c, s = cosines[:, None], sines[:, None]
    rotated = x.copy()
    rotated[..., low] = x[..., low] * c - x[..., high] * s
    rotated[..., high] = x[..., high] * c + x[..., low] * s
    return rotated


def store(k: Floats, v: Floats, slots: NDArray[np.int64], k_cache: Floats, v_cache: Floats) -> None:
    """`attention.store_keys` and `store_values`: write (rows, kv_heads, size) to slots of the caches.

    The caches are (blocks, kv_heads, size, block) and (blocks, kv_heads, block, padded size).
    """
    blocks, offsets = slots // k_cache.shape[3], slots % k_cache.shape[3]
    k_cache[blocks, :, :, offsets] = k
    v_cache[blocks, :, offsets, : v.shape[2]] = v


def attention(
    q: Floats,
    batch: Batch,
    k_cache: Floats,
    v_cache: Floats,
    window: int,
    cap: float = 0.0,
    chunked: bool = False,
    sinks: Floats | None = None,
    slopes: Floats | None = None,
) -> Floats:
    """`attention.attention`: q (rows, heads, size), scaled and rotated. Returns the shape of q."""
    size = q.shape[2]
    group = q.shape[1] // k_cache.shape[1]
    out: Floats = np.zeros(q.shape, np.float32)
    for sequence, table in enumerate(batch.block_tables):
        start, end = batch.query_start[sequence : sequence + 2]
        length = batch.context_lens[sequence]
        # (blocks, kv_heads, size, block) and (blocks, kv_heads, block, size) to (heads, length, size)
        keys = k_cache[table].transpose(1, 0, 3, 2).reshape(k_cache.shape[1], -1, size)
        values = v_cache[table][..., :size].transpose(1, 0, 2, 3).reshape(keys.shape)
        keys = np.repeat(keys[:, :length], group, axis=0)
        values = np.repeat(values[:, :length], group, axis=0)
        scores = soft_cap(np.einsum("rhd,hpd->hrp", q[start:end], keys), cap)
        distance = batch.positions[start:end, None] - np.arange(length)
        if slopes is not None:
            scores = scores - slopes[:, None, None] * distance.astype(np.float32)
        last_seen = batch.positions if batch.last_seen is None else batch.last_seen
        seen = last_seen[start:end, None] >= np.arange(length)
        if window and chunked:
            seen &= np.arange(length) >= batch.positions[start:end, None] // window * window
        elif window:
            seen &= distance < window  # also of a picture, however far it sees ahead
        scores = np.where(seen, scores, -np.inf)
        lone = np.full(q.shape[1], -np.inf, np.float32) if sinks is None else sinks
        top = np.maximum(scores.max(-1, keepdims=True), lone[:, None, None])
        weights = np.exp(scores - top)
        weights /= weights.sum(-1, keepdims=True) + np.exp(lone[:, None, None] - top)
        out[start:end] = np.einsum("hrp,hpd->rhd", weights, values)
    return out
