"""A runner made of the kernels in plain NumPy: slow, and ready without compiling anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quire.adapters.folder import Adapter
from quire.engines.native.core.batch import Batch
from quire.engines.native.cpu.inputs import check_batch, media_limits
from quire.engines.native.cpu.kernels.layout import padded
from quire.engines.native.cpu.weights.adapter import LoraWeights, lora_weights
from quire.engines.native.cpu.weights.decoder import Weights, embedding_scale, layer_embedding_scale
from quire.engines.native.models.alibi import alibi_slopes
from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.attention import AttentionSpec, HeadNormsSpec
from quire.engines.native.models.layers.ffn import FfnSpec
from quire.engines.native.models.layers.mamba2 import AttentionAndMamba2Spec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.rope import (
    cosines_and_sines,
    inverse_frequencies,
    mrope_angles,
    query_factors,
)
from tests.engines.native.cpu.reference import (
    GATES,
    AddExpertLora,
    AddLora,
    Floats,
    Matrix,
    add_lora,
    attention,
    experts,
    gated_ffn,
    gather_rows,
    layer_norm,
    linear,
    plain_ffn,
    rms_norm,
    rotate,
    soft_cap,
    store,
)
from tests.engines.native.cpu.reference_mixers import MIX


class ReferenceAdapter:
    """An adapter as it was read. Satisfies `quire.engines.native.core.batch.LoadedAdapter`."""

    def __init__(self, weights: LoraWeights) -> None:
        self.number, self.weights = weights.adapter.number, weights


def _adapted_rows(batch: Batch) -> Iterator[tuple[LoraWeights, slice]]:
    """The adapter and the rows of each sequence that has one."""
    for sequence, adapter in enumerate(batch.adapters or ()):
        if isinstance(adapter, ReferenceAdapter):
            yield adapter.weights, slice(*batch.query_start[sequence : sequence + 2])


def _adder(batch: Batch, layer: int) -> AddLora:
    """What adds the batch's adapters to the linear maps of one layer."""

    def add(role: str, x: Floats, out: Floats) -> Floats:
        for weights, rows in _adapted_rows(batch):
            lora_map = weights.layers[layer].get(role)
            if lora_map is not None:
                out[rows] = add_lora(x[rows], lora_map, out[rows])
        return out

    return add


def _expert_adder(batch: Batch, layer: int) -> AddExpertLora:
    """What adds the batch's adapters to the maps of one layer's sparse FFN."""

    def add(role: str, rows: NDArray[np.intp], x: Floats, out: Floats) -> Floats:
        for weights, own in _adapted_rows(batch):
            lora_map = weights.layers[layer].get(role)
            mine = (rows >= own.start) & (rows < own.stop)
            if lora_map is not None:
                out[mine] = add_lora(x[mine], lora_map, out[mine])
        return out

    return add


def _embed(batch: Batch, embeddings: Matrix) -> Floats:
    """The embeddings of the batch's tokens, by each row's own adapter."""
    x = gather_rows(embeddings, batch.token_ids)
    for weights, rows in _adapted_rows(batch):
        ids, table = batch.token_ids[rows], weights.tables.get("embeddings")
        if "embeddings" in weights.replacements:
            x[rows] = gather_rows(weights.replacements["embeddings"], ids)
        if table is not None and table.a is not None and table.b is not None:
            x[rows] = x[rows] + table.a.T[ids] @ table.b
    return x


def _logits(batch: Batch, x: Floats, head: Matrix, bias: Floats | None) -> Floats:
    """The logits of all rows, by each row's own adapter."""
    logits = linear(x, head, bias)
    for weights, rows in _adapted_rows(batch):
        if "head" in weights.replacements:
            logits[rows] = linear(x[rows], weights.replacements["head"], bias)
        if "head" in weights.tables:
            logits[rows] = add_lora(x[rows], weights.tables["head"], logits[rows])
    return logits


class Streams:
    """Several residual streams: what the operations of `altup_step` do with them."""

    def __init__(self, spec: AltUpSpec, weights: Weights, x: Floats) -> None:
        self._spec, self._weights = spec, weights
        made = self._mapped("altup_start", [x] * (spec.streams - 1), x)
        self.values = np.stack([x, *made])

    def _mapped(self, role: str, rows: Sequence[Floats], like: Floats) -> list[Floats]:
        """Maps of the streams, made as large as `like`."""
        target, made = np.mean(like * like, axis=-1, keepdims=True), list[Floats]()
        for index, x in enumerate(rows):
            y = linear(x, self._weights.tensors[f"{role}.{index}"])
            square = np.maximum(np.mean(y * y, axis=-1, keepdims=True), np.float32(1e-5))
            made.append(y * np.sqrt(target / square))
        return made

    def _coefficients(self, x: Floats, layer: int, role: str) -> Floats:
        tensors = self._weights.layers[layer]
        eps = self._weights.spec.layers[layer].norm.eps
        normed = rms_norm(x, tensors["altup_router_norm"], eps)
        return linear(np.tanh(linear(normed, tensors["altup_router"])), tensors[role])

    def predict(self, layer: int) -> Floats:
        """Predict all streams; return the active one."""
        count, active = self._spec.streams, self._spec.active
        weights = self._coefficients(self.values[active], layer, "altup_prediction")
        weights = weights.reshape(-1, count, count)
        self.values = self.values + np.einsum("rji,irh->jrh", weights, self.values)
        return self.values[active]

    def correct(self, x: Floats, layer: int) -> Floats:
        """Correct all streams by what the active one has become; return that for the gate of inputs."""
        weights = self._coefficients(x, layer, "altup_correction") + np.float32(1)
        news = x - self.values[self._spec.active]
        self.values = self.values + weights.T[:, :, None] * news
        scale = self._weights.layers[layer].get("altup_output_scale", np.float32(1))
        return self.values[self._spec.active] * scale

    def end(self) -> Floats:
        """The mean of all streams, each as large as the first."""
        first, *others = self.values
        made = self._mapped("altup_end", others, first)
        return np.mean(np.stack([first, *made]), axis=0)


def _norm(x: Floats, spec: NormSpec, tensors: Mapping[str, Any], role: str) -> Floats:
    """The norm of a role."""
    weight = tensors.get(role)
    if spec.kind == "layer":
        return layer_norm(x, weight, tensors.get(f"{role}_bias"), spec.eps)
    assert weight is not None
    return rms_norm(x, weight, spec.eps)


def _head_norms(x: Floats, spec: HeadNormsSpec, tensors: Mapping[str, Any], role: str) -> Floats:
    """The norm of each head of (rows, heads, size), before the rotary embedding or after it."""
    if spec.span == "width" or role not in tensors:
        return x
    if spec.span == "head":
        return _norm(x, spec.norm, tensors, role)
    weights = tensors[role].reshape(x.shape[1:])
    heads = [_norm(x[:, i], spec.norm, {role: one}, role) for i, one in enumerate(weights)]
    return np.stack(heads, axis=1)


class ReferenceRunner:
    """A decoder in NumPy. Satisfies `quire.engines.native.core.batch.Runner`."""

    def __init__(
        self,
        weights: Weights,
        *,
        max_model_len: int,
        num_blocks: int,
        block_size: int = 16,
        max_batch_tokens: int = 2048,
        num_state_slots: int = 0,
    ) -> None:
        spec = weights.spec
        self.block_size, self.num_blocks = block_size, num_blocks
        self.vocab_size, self.max_model_len = spec.vocab_size, max_model_len
        self.max_batch_tokens = max_batch_tokens
        self.media_limits = media_limits(spec)
        self.num_state_slots = num_state_slots
        self.step_progress = 1.0
        self._states: dict[tuple[int, int], Any] = {}  # by layer and slot
        self._spec, self._weights = spec, weights
        self.hidden: Floats = np.zeros((0, spec.hidden_size), np.float32)
        self._normed = self.hidden
        shapes = {
            index: layer.cached_shape
            for index, layer in enumerate(spec.layers)
            if layer.cached_shape is not None
        }
        self._keys = {
            index: np.zeros((num_blocks, shape.kv_heads, shape.head_dim, block_size), np.float32)
            for index, shape in shapes.items()
        }
        self._values = {
            index: np.zeros(
                (num_blocks, shape.kv_heads, block_size, padded(shape.value_dim)), np.float32
            )
            for index, shape in shapes.items()
        }
        self._angles = {
            (rope, size): cosines_and_sines(*self._frequencies(rope, size), max_model_len)
            for rope, size in spec.ropes
        }

    def run(self, batch: Batch) -> Floats:
        """Run the model over one batch; see `Runner`."""
        check_batch(batch, self)
        spec, tensors = self._spec, self._weights.tensors
        x: Floats = _embed(batch, tensors["embeddings"])
        x = x * embedding_scale(self._weights)
        if "positions" in tensors:
            x = x + tensors["positions"][batch.positions]
        if spec.embeddings.norm:
            x = _norm(x, spec.embeddings.norm, tensors, "embedding_norm")
        if batch.embeds is not None:
            x[batch.embed_rows] = batch.embeds
        inputs = self._layer_inputs(x, batch)
        streams = Streams(spec.altup, self._weights, x) if spec.altup else None
        for layer, own in enumerate(spec.layers):
            x = before = streams.predict(layer) if streams else x
            if own.mixer:
                normed = self._stream_norm(x, layer, "attention_norm")
                x = self._attended(x, normed, batch, layer)
                x = self._add_laurel(x, normed, batch, layer) if streams else x
            if own.has_ffn:
                summed = self._ffn(x if own.flow == "in_turn" else before, batch, layer)
                x = self._sum(x, self._stream_norm(summed, layer, "post_ffn_norm"))
            if inputs is not None:
                gated = streams.correct(x, layer) if streams else x
                out = self._map_layer_inputs(gated, inputs[layer], batch, layer)
                if streams:
                    streams.values[1:] += out
                else:
                    x = self._sum(x, out)
            x = x * self._weights.layers[layer].get("layer_scale", np.float32(1))
            if batch.deep_embeds is not None and layer < len(batch.deep_embeds):
                x[batch.embed_rows] += batch.deep_embeds[layer]
        x = streams.end() if streams else x
        self._normed = _norm(x, spec.final_norm, tensors, "final_norm")
        return self.run_head(batch)

    def run_head(self, batch: Batch) -> Floats:
        """Compute the head for other rows of the last batch; see `Runner`."""
        spec, tensors, normed = self._spec, self._weights.tensors, self._normed
        self.hidden = normed[batch.hidden_rows]
        if "head" not in tensors:
            return np.zeros((0, self.vocab_size), np.float32)
        logits = _logits(batch, normed, tensors["head"], tensors.get("head_bias"))
        logits = logits[batch.logits_rows]
        logits = logits * np.float32(spec.head.scale)
        return soft_cap(logits, spec.head.cap)

    def _ffn(self, x: Floats, batch: Batch, layer: int) -> Floats:
        """The FFN of a layer: dense, sparse, or the sum of both."""
        tensors, spec = self._weights.layers[layer], self._spec.layers[layer]
        normed = self._stream_norm(x, layer, spec.ffn_input_norm)
        adder = _expert_adder(batch, layer)
        if spec.ffn is None:
            assert spec.experts is not None
            return experts(normed, tensors, spec.experts, spec.experts.activation, adder)
        down = self._dense_ffn(normed, spec.ffn, batch, layer)
        if spec.experts is None:
            return down
        own, has_norm = self._own_norm(x, layer, "experts_norm"), spec.experts.router.has_norm
        routed = self._own_norm(x, layer, "router_norm") if has_norm else x
        summed = experts(own, tensors, spec.experts, spec.experts.activation, adder, routed)
        dense = self._own_norm(down, layer, "dense_norm")
        return dense + self._own_norm(summed, layer, "experts_output_norm")

    def _dense_ffn(self, x: Floats, spec: FfnSpec, batch: Batch, layer: int) -> Floats:
        tensors, add = self._weights.layers[layer], _adder(batch, layer)
        if spec.gated:
            cutoff, scales = spec.gate_cutoff, spec.scales
            inner = gated_ffn(x, tensors, spec.activation, add, cutoff, scales)
        else:
            inner = plain_ffn(x, tensors, spec.activation, add)
        return add("down", inner, linear(inner, tensors["down"], tensors.get("down_bias")))

    def _layer_inputs(self, x: Floats, batch: Batch) -> Floats | None:
        """What layers get of each token: (layers, rows, size)."""
        inputs, tensors = self._spec.layer_inputs, self._weights.layers[0]
        if inputs is None:
            return None
        made = _adder(batch, 0)("layer_inputs", x, linear(x, tensors["layer_inputs"]))
        made = made * np.float32(self._spec.hidden_size**-0.5)
        made = made.reshape(batch.num_rows, -1, inputs.size)
        made = rms_norm(made, tensors["layer_inputs_norm"], self._spec.layers[0].norm.eps)
        ids = np.where(batch.token_ids < inputs.vocab_size, batch.token_ids, 0)
        rows = gather_rows(self._weights.tensors["layer_embeddings"], ids)
        made += rows.reshape(made.shape) * layer_embedding_scale(self._weights)
        return made.swapaxes(0, 1) * np.float32(inputs.sum_scale)

    def _add_laurel(self, x: Floats, normed: Floats, batch: Batch, layer: int) -> Floats:
        """x and what is beside attention, scaled."""
        tensors, add = self._weights.layers[layer], _adder(batch, layer)
        left = add("laurel_left", normed, linear(normed, tensors["laurel_left"]))
        right = add("laurel_right", left, linear(left, tensors["laurel_right"]))
        right = self._own_norm(right, layer, "laurel_norm")
        return (x + normed + right) * np.float32(0.5**0.5)

    def _map_layer_inputs(self, x: Floats, inputs: Floats, batch: Batch, layer: int) -> Floats:
        """The map of the gate of x times a layer's inputs."""
        tensors, add = self._weights.layers[layer], _adder(batch, layer)
        gate = add("layer_gate", x, linear(x, tensors["layer_gate"]))
        assert self._spec.layer_inputs is not None
        gated = GATES[self._spec.layer_inputs.activation](gate, inputs)
        out = add("layer_out", gated, linear(gated, tensors["layer_out"]))
        return self._own_norm(out, layer, "post_layer_norm")

    def _stream_norm(self, x: Floats, layer: int, role: str) -> Floats:
        """A norm of the residual stream; x itself if the layer has none."""
        return self._own_norm(x, layer, role) if role in self._spec.layers[layer].norm_roles else x

    def _own_norm(self, x: Floats, layer: int, role: str) -> Floats:
        """A norm of a layer."""
        return _norm(x, self._spec.layers[layer].norm, self._weights.layers[layer], role)

    def _attended(self, x: Floats, normed: Floats, batch: Batch, layer: int) -> Floats:
        """The residual stream x after attention, or what a layer has in its place, of `normed`."""
        own, add = self._weights.layers[layer], _adder(batch, layer)
        mixer = self._spec.layers[layer].mixer
        mix = self._attend if isinstance(mixer, AttentionSpec) else self._mix
        if isinstance(mixer, AttentionAndMamba2Spec):  # both read one norm
            beside = self._mix(normed, batch, layer)
            x = self._sum(
                x, add("ssm_o", beside, linear(beside, own["ssm_o"], own.get("ssm_o_bias")))
            )
            mix = self._attend
        mixed = mix(normed, batch, layer)
        mixed = add("o", mixed, linear(mixed, own["o"], own.get("o_bias")))
        return self._sum(x, self._stream_norm(mixed, layer, "post_attention_norm"))

    def _sum(self, x: Floats, y: Floats) -> Floats:
        """`rowwise.add_rows`: x + y times the residual scale."""
        return (x + y * np.float32(self._spec.residual_scale)).astype(np.float32, copy=False)

    def _mix(self, normed: Floats, batch: Batch, layer: int) -> Floats:
        """What a layer has in place of attention, without its output map."""
        # Here and not above: they are made of the functions of this module.

        mixer, tensors, add = (
            self._spec.layers[layer].mixer,
            self._weights.layers[layer],
            _adder(batch, layer),
        )
        assert mixer is not None
        mixer = mixer.mamba if isinstance(mixer, AttentionAndMamba2Spec) else mixer
        assert batch.state_slots is not None
        roles, mix = MIX[type(mixer)]
        projected = {
            role: add(role, normed, linear(normed, tensors[role], tensors.get(f"{role}_bias")))
            for role in roles
        }
        out: Floats = np.zeros((batch.num_rows, mixer.out_size), np.float32)
        saves = batch.state_saves
        for sequence, slot in enumerate(batch.state_slots.tolist()):
            first, end = batch.query_start[sequence : sequence + 2].tolist()
            state = self._states[layer, slot] if batch.positions[first] else None
            for row in range(first, end):
                of_row = {role: values[row : row + 1] for role, values in projected.items()}
                out[row], state = mix(of_row, tensors, mixer, state)
                if saves is not None and saves[row] >= 0:
                    self._states[layer, int(saves[row])] = state
            self._states[layer, slot] = state
        return out

    def _attend(self, normed: Floats, batch: Batch, layer: int) -> Floats:
        """The attention half of a layer, without its output map."""
        spec, tensors = self._spec.layers[layer].attention, self._weights.layers[layer]
        assert spec is not None
        add, norms = _adder(batch, layer), spec.norms

        def project(role: str) -> Floats:
            out = add(role, normed, linear(normed, tensors[role], tensors.get(f"{role}_bias")))
            return np.clip(out, -spec.clip, spec.clip) if spec.clip else out

        q = project("q")
        k = project("k") if "k" in tensors else q[:, :0]
        v = project("v") if "v" in tensors else k
        if norms and norms.span == "width":
            q, k = (
                _norm(x, norms.norm, tensors, role) for x, role in ((q, "q_norm"), (k, "k_norm"))
            )
        source = layer if spec.kv_source is None else spec.kv_source
        q, k, v = (x.reshape(batch.num_rows, -1, spec.shape.head_dim) for x in (q, k, v))
        if spec.value_norm and "v_norm" in tensors:
            v = _norm(v, spec.value_norm, tensors, "v_norm")
        if norms and not norms.after_rope:
            q, k = (
                _head_norms(q, norms, tensors, "q_norm"),
                _head_norms(k, norms, tensors, "k_norm"),
            )
        if spec.rope is not None:
            cosines, sines = self._angles_of(spec.rope, spec.rope_dim, batch)
            q, k = (rotate(x, cosines, sines, spec.rope.interleaved) for x in (q, k))
        if norms and norms.after_rope:
            q, k = (
                _head_norms(q, norms, tensors, "q_norm"),
                _head_norms(k, norms, tensors, "k_norm"),
            )
        q = q * np.float32(spec.scale)
        if spec.query_scale is not None:
            factors = query_factors(spec.query_scale, self.max_model_len)
            q = q * factors[batch.positions][:, None, None]
        v = v * np.float32(spec.value_scale)
        keys, values = self._keys[source], self._values[source]
        if source == layer:
            store(k, v, batch.slots, keys, values)
        slopes = None
        if spec.alibi:
            slopes = alibi_slopes(spec.shape.heads) * np.float32(spec.alibi)
        mixed = attention(
            q, batch, keys, values, spec.window, spec.cap, spec.is_chunked, tensors.get("sinks"), slopes
        ).reshape(batch.num_rows, -1)  # fmt: skip
        if spec.gated:
            gate = add("z", normed, linear(normed, tensors["z"], tensors.get("z_bias")))
            mixed = (mixed / (1 + np.exp(-gate))).astype(np.float32)
        return mixed

    def _angles_of(self, rope: RopeSpec, size: int, batch: Batch) -> tuple[Floats, Floats]:
        """Cosines and sines (rows, half) of each row's positions, for heads of this size."""
        cosines, sines = self._angles[rope, size]
        positions = batch.rope_positions
        if positions is None:
            return cosines[batch.positions], sines[batch.positions]
        highest = int(positions.max(initial=0))
        if highest >= len(cosines):
            frequencies = self._frequencies(rope, size)
            cosines, sines = self._angles[rope, size] = cosines_and_sines(*frequencies, highest + 1)
        return mrope_angles(cosines, positions, rope), mrope_angles(sines, positions, rope)

    def _frequencies(self, rope: RopeSpec, size: int) -> tuple[Floats, float]:
        return inverse_frequencies(rope, size, self.max_model_len)

    def load_adapter(self, adapter: Adapter) -> ReferenceAdapter:
        """Read an adapter for batches to come; see `Runner`."""
        return ReferenceAdapter(lora_weights(adapter, self._weights))

    def copy_blocks(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks of the KV cache, `(source, destination)` each, in order."""
        for source, destination in pairs:
            for cache in (*self._keys.values(), *self._values.values()):
                cache[destination] = cache[source]

    def copy_states(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Copy whole slots of states, `(source, destination)` each, in order."""
        for source, destination in pairs:
            for layer in range(self._spec.num_layers):
                if (layer, source) in self._states:
                    self._states[layer, destination] = self._states[layer, source]

    def close(self) -> None:
        """Let go of the cache."""
        self._keys, self._values = {}, {}
