"""The phases of a step in plain NumPy: what the compiled kernels are compared with.

Each function is the kernel of its name in `kernels` or `attention`, on arrays instead of addresses
and without the share of a thread. `ReferenceRunner` is a whole runner made of them: slow, exact,
and ready without compiling anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.native.batch import Batch
from quire.native.cpu.batch_check import check_batch
from quire.native.cpu.layout import padded
from quire.native.cpu.weights import Weights, widen
from quire.native.models.rope import cosines_and_sines, inverse_frequencies

Floats = NDArray[np.float32]
Matrix = NDArray[Any]  # float32, or bfloat16 as uint16


def _wide(matrix: Matrix) -> Floats:
    return widen(matrix) if matrix.dtype == np.uint16 else matrix


def rms_norm(x: Floats, weight: Floats, eps: float) -> Floats:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
    return (x / np.sqrt(mean + np.float32(eps)) * weight).astype(np.float32)


def gather_rows(table: Matrix, indices: NDArray[np.int32]) -> Floats:
    """table[indices], widened."""
    return _wide(table[indices])


def linear(x: Floats, weight: Matrix, bias: Floats | None = None) -> Floats:
    """x @ weight.T + bias."""
    product: Floats = x @ _wide(weight).T
    return product if bias is None else product + bias


def silu_gate(gate: Floats, up: Floats) -> Floats:
    """gate / (1 + exp(-gate)) * up."""
    with np.errstate(over="ignore"):
        return (gate / (1 + np.exp(-gate)) * up).astype(np.float32)


def gated_ffn(x: Floats, tensors: Mapping[str, Matrix]) -> Floats:
    """silu(x @ gate.T + gate_bias) * (x @ up.T + up_bias)."""
    gate = linear(x, tensors["gate"], tensors.get("gate_bias"))
    return silu_gate(gate, linear(x, tensors["up"], tensors.get("up_bias")))


def rotate(x: Floats, cosines: Floats, sines: Floats) -> Floats:
    """Turn each pair (x[i], x[i + half]) of (rows, heads, size) by its row's angles (rows, half)."""
    first, second = np.split(x, 2, axis=-1)
    c, s = cosines[:, None], sines[:, None]
    turned = np.concatenate([first * c - second * s, second * c + first * s], axis=-1)
    return turned.astype(np.float32, copy=False)


def store(k: Floats, v: Floats, slots: NDArray[np.int64], k_cache: Floats, v_cache: Floats) -> None:
    """Write (rows, kv_heads, size) to the slots of one layer's caches."""
    blocks, offsets = slots // k_cache.shape[3], slots % k_cache.shape[3]
    k_cache[blocks, :, :, offsets] = k
    v_cache[blocks, :, offsets, : v.shape[2]] = v


def attention(q: Floats, batch: Batch, k_cache: Floats, v_cache: Floats, window: int) -> Floats:
    """Attend: q (rows, heads, size), scaled and rotated. Returns its shape."""
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
        scores = np.einsum("rhd,hpd->hrp", q[start:end], keys)
        distance = batch.positions[start:end, None] - np.arange(length)
        seen = (distance >= 0) & ((distance < window) if window else True)
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[start:end] = np.einsum("hrp,hpd->rhd", weights, values)
    return out


class ReferenceRunner:
    """A decoder in NumPy; satisfies `quire.native.batch.Runner`."""

    def __init__(
        self,
        weights: Weights,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int = 16,
        max_batch_tokens: int = 2048,
    ) -> None:
        spec = weights.spec
        self.block_size, self.num_blocks = block_size, num_blocks
        self.vocab_size, self.max_model_len = spec.vocab_size, max_model_len
        self.max_batch_tokens = max_batch_tokens
        self._spec, self._weights = spec, weights
        self.hidden: Floats = np.zeros((0, spec.hidden_size), np.float32)
        caches = (spec.num_layers, num_blocks, spec.num_kv_heads)
        self._keys = np.zeros((*caches, spec.head_dim, block_size), np.float32)
        self._values = np.zeros((*caches, block_size, padded(spec.head_dim)), np.float32)
        frequencies, scale = inverse_frequencies(spec.rope, spec.head_dim, max_model_len)
        self._cosines, self._sines = cosines_and_sines(frequencies, scale, max_model_len)

    def run(self, batch: Batch) -> Floats:
        """Run the model over one batch; see `Runner`."""
        check_batch(batch, self)
        tensors, eps = self._weights.tensors, self._spec.norm_eps
        x = gather_rows(tensors["embeddings"], batch.token_ids)
        for number, layer in enumerate(self._weights.layers):
            normed = rms_norm(x, layer["attention_norm"], eps)
            x = x + linear(self._attend(normed, batch, number), layer["o"], layer.get("o_bias"))
            gated = gated_ffn(rms_norm(x, layer["ffn_norm"], eps), layer)
            x = x + linear(gated, layer["down"], layer.get("down_bias"))
        self.hidden = rms_norm(x[batch.hidden_rows], tensors["final_norm"], eps)
        normed = rms_norm(x[batch.logits_rows], tensors["final_norm"], eps)
        return (
            linear(normed, tensors["head"])
            if len(normed)
            else np.zeros((0, self.vocab_size), np.float32)
        )

    def _attend(self, normed: Floats, batch: Batch, number: int) -> Floats:
        spec, layer = self._spec, self._weights.layers[number]
        q, k, v = (
            linear(normed, layer[role], layer.get(f"{role}_bias")).reshape(
                batch.num_rows, -1, spec.head_dim
            )
            for role in ("q", "k", "v")
        )
        if spec.head_norms:
            q = rms_norm(q, layer["q_norm"], spec.norm_eps)
            k = rms_norm(k, layer["k_norm"], spec.norm_eps)
        angles = self._cosines[batch.positions], self._sines[batch.positions]
        q = rotate(q, *angles) * np.float32(spec.attention_scale)
        store(rotate(k, *angles), v, batch.slots, self._keys[number], self._values[number])
        mixed = attention(q, batch, self._keys[number], self._values[number], spec.windows[number])
        return mixed.reshape(batch.num_rows, -1)

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of the KV cache, `(source, destination)` each, in order."""
        for source, destination in pairs:
            for cache in (self._keys, self._values):
                cache[:, destination] = cache[:, source]

    def close(self) -> None:
        """Let go of the cache."""
        self._keys = self._values = np.zeros((0, 0), np.float32)
