"""`DecoderSpec`: everything in which decoders differ, and the names and shapes of their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.attention import AttentionShape
from quire.engines.native.models.layers.experts import ExpertsSpec
from quire.engines.native.models.layers.layer_inputs import LayerInputsSpec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.tensors import Rows, TensorSpec
from quire.quantization.schemes import Quantization

NormKind = Literal["rms", "layer"]
RopeKind = Literal["default", "linear", "dynamic", "yarn", "llama3", "longrope", "proportional"]
Activation = Literal["silu", "gelu_tanh", "clamped_swiglu", "gelu", "relu", "relu2", "xielu"]
GATES: tuple[Activation, ...] = ("silu", "gelu_tanh", "clamped_swiglu")
"""The activations of FFNs with a gate."""


@dataclass(frozen=True, slots=True)
class RopeSpec:
    """Rotary embedding: `rope.inverse_frequencies` says what each field means for each kind.

    `positions` is the context that the model was trained for, before any scaling.
    """

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    positions: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    partial: float = 1.0
    """The share of a head's dimensions, from the first on, that is rotated. With `proportional`, these are
    of the first pairs of the whole head, and the frequencies those that they have among all pairs."""
    sections: tuple[int, ...] = ()
    """M-RoPE: how many pairs are rotated by the position in time, then height, then width, and so on."""
    interleaved_sections: bool = False
    """These pairs take turns, instead of lying one section after the other (Qwen3-VL)."""

    def size(self, head_dim: int) -> int:
        """How many dimensions of a head are rotated, some of them perhaps by angles of 0."""
        return head_dim if self.kind == "proportional" else int(head_dim * self.partial)


@dataclass(frozen=True, slots=True)
class QueryScale:
    """A factor of the queries that grows with their position: `1 + beta * log(1 + floor(p / length))`.

    It keeps attention sharp over texts that are longer than `length`.
    """

    beta: float
    length: int
    first: int = 0
    """The position that the first token is taken for."""
    no_rope_only: bool = False
    """It is for layers without a rotary embedding."""


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of the tensors in the folder; those of a layer follow `layers.format(layer)`."""

    embeddings: str = "model.embed_tokens.weight"
    final_norm: str = "model.norm.weight"
    head: str = "lm_head.weight"
    layers: str = "model.layers.{}."
    prefix: str = "model."
    """What a folder that holds the decoder alone leaves out of the names."""
    positions: str = ""
    """Embeddings of positions, which are added to those of tokens; empty for a model without."""
    embedding_norm: str = ""
    """The norm of the embeddings; empty for a model without."""
    attention_norm: str = "input_layernorm"
    q: str = "self_attn.q_proj"
    k: str = "self_attn.k_proj"
    v: str = "self_attn.v_proj"
    o: str = "self_attn.o_proj"
    q_norm: str = "self_attn.q_norm"
    k_norm: str = "self_attn.k_norm"
    sinks: str = "self_attn.sinks"
    ffn_norm: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    post_attention_norm: str = ""
    post_ffn_norm: str = ""
    qkv: str = ""
    """The tensor in which queries, keys and values are fused; empty if they are separate."""
    qkv_by_group: bool = False
    """In `qkv`, the queries, key and value of each key-value head are together (InternLM2)."""
    gate_up: str = ""
    """The tensor in which gate and up are fused; empty if they are separate."""
    layer_scale: str = "layer_scalar"
    layer_embeddings: str = "model.embed_tokens_per_layer.weight"
    layer_inputs: str = "model.per_layer_model_projection"
    layer_inputs_norm: str = "model.per_layer_projection_norm.weight"
    layer_gate: str = "per_layer_input_gate"
    layer_out: str = "per_layer_projection"
    post_layer_norm: str = "post_per_layer_input_norm"
    altup_starts: str = "model.altup_projections.{}"
    altup_ends: str = "model.altup_unembed_projections.{}"
    transposed: bool = False
    """The matrices of linear maps are stored as (in, out), as GPT-2 has them."""
    activation: str = "mlp.act_fn"
    """The numbers of an activation that has some."""
    prefix_map: tuple[tuple[str, str], ...] = ()
    """Prefixes of names in the folder and the prefixes used here: (stored, here)."""

    def as_llama(self) -> WeightNames:
        """Llama's names, for a source that has nothing fused, transposed or in pieces: see `gguf`."""
        return WeightNames(
            positions="model.embed_positions.weight" if self.positions else "",
            embedding_norm="model.embed_norm.weight" if self.embedding_norm else "",
        )

    def bare(self) -> WeightNames:
        """The names in a folder that holds the decoder alone (transformers' `AutoModel`)."""
        whole = ("embeddings", "final_norm", "layers", "positions", "embedding_norm")
        others = ("layer_embeddings", "layer_inputs", "layer_inputs_norm")
        of_streams = ("altup_starts", "altup_ends")
        changes: dict[str, Any] = {
            field: getattr(self, field).removeprefix(self.prefix)
            for field in (*whole, *others, *of_streams)
        }
        return replace(self, **changes)


XIELU = ("alpha_p", "alpha_n", "beta", "eps")
"""The numbers of a layer's xIELU, by their names in the folder."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer: norms, attention and an FFN in each layer.

    What a layer has besides, or instead, is in `mixers` and `experts`.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    rope: RopeSpec
    windows: tuple[int, ...]
    """For each layer, how many positions a token sees, including its own; 0 for all."""
    chunked_windows: bool = False
    """Windows are chunks of the text, one after the other, and a token sees its own up to itself."""
    norm_eps: float = 1e-6
    activation: Activation = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    head_norms: bool = False
    """Norms over `head_dim` of each query and key head, before the rotary embedding."""
    separate_head_norms: bool = False
    """Each head has weights of its own in these norms."""
    head_norm_bias: bool = False
    unit_norms: bool = False
    """The same in layers with a rotary embedding, without weights."""
    norms_after_rope: bool = False
    """Those norms come after the rotary embedding."""
    tied_embeddings: bool = False
    names: WeightNames = WeightNames()
    quantization: Quantization | None = None
    """Which matrices the folder may hold as small integers, and how."""
    pre_norms: bool = True
    """Norms before attention and before the FFN."""
    post_norms: bool = False
    """Norms after attention and after the FFN, before the sum with the residual."""
    norm_kind: NormKind = "rms"
    norm_weights: bool = True
    """The norms have weights."""
    norm_bias: bool = False
    """The norms have biases; those of heads if `head_norm_bias` says so."""
    norm_offset: float = 0.0
    """Added to the stored weights of the norms: 1 for Gemma."""
    parallel: bool = False
    """Attention and FFN read the same residual stream, and both are added to it."""
    shared_norm: bool = False
    """Attention and FFN read the same norm of it."""
    gated: bool = True
    """The FFN has a gate: act(gate) * up, instead of act(up)."""
    width_norms: bool = False
    """Norms over all query heads together, and over all key heads, instead of `head_norms`."""
    qkv_clip: float = 0.0
    """Queries, keys and values are kept within plus and minus this much; 0 for no limit."""
    alibi: float = 0.0
    """ALiBi: the factor of its slopes, by which scores sink with the distance; 0 for a model without."""
    position_offset: int = 0
    """The row of the first position in the embeddings of positions."""
    local_rope: RopeSpec | None = None
    """The rotary embedding of layers with a window, if it is not `rope`."""
    no_rope: tuple[int, ...] = ()
    """Layers without a rotary embedding."""
    interleaved_rope: bool = False
    """The two dimensions of a rotated pair are neighbours, instead of half a head apart."""
    embedding_scale: float = 1.0
    round_embedding_scale: bool = False
    """Round that scale to the type of the embeddings, as the model's training did."""
    attention_multiplier: float | None = None
    """The scores are multiplied by it; None for 1 / sqrt(head_dim)."""
    query_scale: QueryScale | None = None
    """What queries are multiplied by besides, depending on their position; see `scales_queries`."""
    value_scale: float = 1.0
    """The values are multiplied by it, so that what attention gives is."""
    ffn_scales: tuple[float, float] = (1.0, 1.0)
    """The gate of a dense FFN is multiplied by the first before its activation, `up` by the second."""
    residual_scale: float = 1.0
    """The outputs of attention and FFN are multiplied by it before they are added."""
    logits_scale: float = 1.0
    attention_sinks: bool = False
    """Each query head has a learned score that no position has, which takes a share of the softmax."""
    attention_cap: float = 0.0
    """Soft cap of the scores: s becomes cap * tanh(s / cap); 0 for no cap."""
    logits_cap: float = 0.0
    """Soft cap of the logits, after their scale."""
    experts: ExpertsSpec | None = None
    """The sparse FFN of some or all layers."""
    gated_attention: bool = False
    """What attention gives is multiplied by the sigmoid of a gate, whose rows are beside those of the
    queries: head by head first a query's, then its gate's."""
    mixers: tuple[TokenMixer | None, ...] = ()
    """For each layer, what it has in place of attention, None for attention; empty if all have that."""
    norms_before_mixers: bool = False
    """Layers with a mixer have norms before it and before the FFN, whatever the other layers have."""
    ffn_alone: tuple[int, ...] = ()
    """Layers that are an FFN, with neither attention nor anything in its place."""
    no_ffn: tuple[int, ...] = ()
    """Layers without an FFN."""
    shapes: tuple[AttentionShape, ...] = ()
    """For each layer, the sizes of its attention; empty if all are `num_heads`, `num_kv_heads`, `head_dim`."""

    value_norms: bool = False
    """RMS norms over each value head, without weights."""
    value_keys: tuple[int, ...] = ()
    """Layers without a map of values: what the map of keys gives, before its norm, are their values."""
    kv_sources: tuple[int, ...] = ()
    """For each layer, the one whose keys and values it attends to; empty if each has its own."""
    ffn_sizes: tuple[int, ...] = ()
    """For each layer, the width of its dense FFN; empty if all are `ffn_size`."""
    gate_cutoffs: tuple[float | None, ...] = ()
    """For each layer, how many standard deviations above their mean the gate values of its dense FFN must be
    to count: less that cutoff, before the activation. None for all; empty if no layer has one."""
    altup: AltUpSpec | None = None
    """Several residual streams. It needs `post_norms` and `layer_inputs`."""
    layer_inputs: LayerInputsSpec | None = None
    """What layers get of each token besides the residual stream."""
    layer_scales: bool = False
    """Each layer ends with a stored number that the residual stream is multiplied by. It needs `post_norms`."""

    def __post_init__(self) -> None:
        # A batch with M-RoPE brings one table of angles, not two.
        assert not self.rope.sections or self.local_rope is None
        # The kernels of experts read the residual stream that attention has been added to.
        assert self.experts is None or not self.parallel
        assert not self.gated or self.activation in GATES
        assert self.parallel or not self.shared_norm
        assert not (self.ffn_alone or self.no_ffn) or not (self.parallel or self.post_norms)

    @property
    def num_layers(self) -> int:
        return len(self.windows)

    def mixer(self, layer: int) -> TokenMixer | None:
        """What a layer has in place of attention; None if it has attention."""
        return self.mixers[layer] if self.mixers else None

    def shape(self, layer: int) -> AttentionShape:
        """The sizes of a layer's attention."""
        if self.shapes:
            return self.shapes[layer]
        return AttentionShape(self.num_heads, self.num_kv_heads, self.head_dim, self.head_dim)

    def cached_shape(self, layer: int) -> AttentionShape | None:
        """The sizes of what a layer has in the KV cache; None if it has nothing there of its own."""
        mixer = self.mixer(layer)
        if self.kv_source(layer) != layer or layer in self.ffn_alone:
            return None
        return self.shape(layer) if mixer is None or mixer.attends else None

    def gate_cutoff(self, layer: int) -> float | None:
        """See `gate_cutoffs`."""
        return self.gate_cutoffs[layer] if self.gate_cutoffs else None

    def kv_source(self, layer: int) -> int:
        """The layer whose keys and values a layer attends to."""
        return self.kv_sources[layer] if self.kv_sources else layer

    def ffn_size_of(self, layer: int) -> int:
        """The width of a layer's dense FFN."""
        return self.ffn_sizes[layer] if self.ffn_sizes else self.ffn_size

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state, over all layers; 0 if the model has none."""
        return sum(mixer.state_floats for mixer in self.mixers if mixer)

    @property
    def attention_scale(self) -> float:
        if self.attention_multiplier is not None:
            return self.attention_multiplier
        return self.head_dim**-0.5

    @property
    def rotary_dim(self) -> int:
        """How many dimensions of a head are rotated by `rope`."""
        return self.rope.size(self.rope_head_dim(self.rope))

    def rope_head_dim(self, rope: RopeSpec) -> int:
        """The size of the heads that a rotary embedding of this model rotates.

        It is `head_dim` for mixers, of whose heads only a part of that size is rotated.
        """
        layers = (
            layer
            for layer in range(self.num_layers)
            if self.rope_of(layer) is rope and self.mixer(layer) is None
        )
        return next((self.shape(layer).head_dim for layer in layers), self.head_dim)

    @property
    def has_rope(self) -> bool:
        """Whether some layer has a rotary embedding."""
        return len(self.no_rope) < self.num_layers

    def rope_of(self, layer: int) -> RopeSpec | None:
        """The rotary embedding of a layer, None for none."""
        if layer in self.no_rope:
            return None
        return self.local_rope if self.local_rope and self.windows[layer] else self.rope

    def scales_queries(self, layer: int) -> bool:
        """Whether the queries of a layer have `query_scale`."""
        scale = self.query_scale
        return scale is not None and not (scale.no_rope_only and self.rope_of(layer) is not None)

    @property
    def ffn_width(self) -> int:
        """The most gate values that one token has in a layer."""
        layer = self.layer_inputs.size if self.layer_inputs else 0
        experts = self.experts.ffn_width if self.experts else 0
        return max(self.ffn_size, *self.ffn_sizes, experts, layer)

    def sparse_ffn(self, layer: int) -> ExpertsSpec | None:
        """The sparse FFN of a layer; None if it is dense."""
        return self.experts if self.experts and self.experts.sparse[layer] else None

    def tensors(self) -> Iterator[TensorSpec]:
        """All tensors, of which those of the layers come last."""
        yield from self.global_tensors()
        for layer in range(self.num_layers):
            yield from self.layer_tensors(layer)

    def global_tensors(self) -> Iterator[TensorSpec]:
        """The tensors outside the layers: `embeddings`, `final_norm`, and `head` unless it is tied.

        Some models have `positions`, `embedding_norm` and biases. With inputs of layers,
        `layer_embeddings`: a row for each token, of all layers' vectors.
        """
        names, hidden = self.names, self.hidden_size
        yield TensorSpec("embeddings", names.embeddings, (self.vocab_size, hidden))
        if names.positions:
            first, end = self.position_offset, self.position_offset + self.max_positions
            rows = ((first, end),) if first else ()
            shape = (self.max_positions, hidden)
            yield TensorSpec("positions", names.positions, shape, rows, end if first else 0)
        if names.embedding_norm:
            yield from self._norm_tensors("embedding_norm", names.embedding_norm)
        yield from self._norm_tensors("final_norm", names.final_norm)
        if not self.tied_embeddings:
            yield TensorSpec("head", names.head, (self.vocab_size, hidden))
        if self.head_bias:
            yield TensorSpec("head_bias", _bias_of(names.head), (self.vocab_size,))
        if self.layer_inputs:
            shape = (self.layer_inputs.vocab_size, self.num_layers * self.layer_inputs.size)
            yield TensorSpec("layer_embeddings", names.layer_embeddings, shape)
        if self.altup:
            yield from self.altup.global_tensors(names.altup_starts, names.altup_ends, hidden)

    def tied_head(self) -> TensorSpec:
        """The embeddings in the role of the head."""
        return TensorSpec("head", self.names.embeddings, (self.vocab_size, self.hidden_size))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        """The tensors of one layer; a linear map's role is followed by its `<role>_bias`."""
        names, prefix, mixer = self.names, self.names.layers.format(layer), self.mixer(layer)
        shape, ffn = self.shape(layer), self.ffn_size_of(layer)
        linears = (
            ("q", names.q, shape.q_size, self.hidden_size, self.qkv_bias),
            ("k", names.k, shape.k_size, self.hidden_size, self.qkv_bias),
            ("v", names.v, shape.v_size, self.hidden_size, self.qkv_bias),
            ("o", names.o, self.hidden_size, shape.out_size, self.o_bias),
        )
        if self.gated_attention:
            linears += (("z", names.q, shape.out_size, self.hidden_size, self.qkv_bias),)
        attends = mixer is None and layer not in self.ffn_alone
        if mixer:
            yield from mixer.tensors(prefix, self.hidden_size)
        if not attends:
            linears = ()
        lacks = self._absent_maps(layer)
        linears = tuple(one for one in linears if one[0] not in lacks)
        dense = (
            ("gate", names.gate, ffn, self.hidden_size, self.mlp_bias),
            ("up", names.up, ffn, self.hidden_size, self.mlp_bias),
            ("down", names.down, self.hidden_size, ffn, self.mlp_bias),
        )[0 if self.gated else 1 :]
        experts = self.sparse_ffn(layer)
        is_dense = experts is None or experts.beside_dense
        if not is_dense or layer in self.no_ffn:
            dense = ()
        for role, own_name, rows, columns, bias in (*linears, *dense):
            name, part, whole = self._fused(role, layer) or (own_name, (), 0)
            yield TensorSpec(
                role, f"{prefix}{name}.weight", (rows, columns), part, whole,
                transposed=names.transposed,
            )  # fmt: skip
            if bias:
                yield TensorSpec(f"{role}_bias", f"{prefix}{name}.bias", (rows,), part, whole)
        if self.attention_sinks and attends:
            yield TensorSpec("sinks", f"{prefix}{names.sinks}", (shape.heads,))
        if experts:
            yield from experts.tensors(prefix, self.hidden_size)
        if self.activation == "xielu":
            for one in XIELU:
                name, stored = (
                    f"{prefix}{names.activation}.{one}",
                    () if one in ("beta", "eps") else None,
                )
                yield TensorSpec(f"xielu_{one}", name, (1,), stored=stored)
        for role, name in self._norms(layer):
            yield from self._norm_tensors(role, f"{prefix}{name}.weight")
        if attends and (self.head_norms or self.width_norms):
            yield from self._head_norm_tensors(layer)
        if self.layer_inputs:
            yield from self._layer_input_tensors(layer, self.layer_inputs.size)
        if self.altup:
            yield from self.altup.tensors(prefix, self.hidden_size)
        if self.layer_scales:
            yield TensorSpec("layer_scale", f"{prefix}{names.layer_scale}", (1,))

    def _absent_maps(self, layer: int) -> tuple[str, ...]:
        """The maps of attention that a layer lacks."""
        if self.kv_source(layer) != layer:
            return ("k", "v")
        return ("v",) if layer in self.value_keys else ()

    def _layer_input_tensors(self, layer: int, size: int) -> Iterator[TensorSpec]:
        """`layer_gate` and `layer_out` with its norm. The first layer has the map that makes the inputs
        of all layers, and its norm: so that map, too, is a linear map of a layer.
        """
        names, hidden = self.names, self.hidden_size
        prefix = names.layers.format(layer)
        if layer == 0:
            shape = (self.num_layers * size, hidden)
            yield TensorSpec("layer_inputs", f"{names.layer_inputs}.weight", shape)
            yield TensorSpec("layer_inputs_norm", names.layer_inputs_norm, (size,))
        yield TensorSpec("layer_gate", f"{prefix}{names.layer_gate}.weight", (size, hidden))
        yield TensorSpec("layer_out", f"{prefix}{names.layer_out}.weight", (hidden, size))
        yield TensorSpec("post_layer_norm", f"{prefix}{names.post_layer_norm}.weight", (hidden,))

    def _norms(self, layer: int) -> Iterator[tuple[str, str]]:
        """Role and name of a layer's norms of the residual stream."""
        names = self.names
        before_mixer = self.mixer(layer) is not None and self.norms_before_mixers
        has_pre_norms = self.pre_norms or before_mixer
        if has_pre_norms and layer not in self.ffn_alone:
            yield "attention_norm", names.attention_norm
        if has_pre_norms and not self.shared_norm and layer not in self.no_ffn:
            yield "ffn_norm", names.ffn_norm
        if self.post_norms and not before_mixer:
            yield "post_attention_norm", names.post_attention_norm
            yield "post_ffn_norm", names.post_ffn_norm

    def _norm_tensors(self, role: str, name: str) -> Iterator[TensorSpec]:
        """Weight and bias of a norm of the residual stream, whichever it has."""
        if self.norm_weights:
            yield TensorSpec(role, name, (self.hidden_size,), offset=self.norm_offset)
        if self.norm_bias:
            yield TensorSpec(f"{role}_bias", _bias_of(name), (self.hidden_size,))

    def _head_norm_tensors(self, layer: int) -> Iterator[TensorSpec]:
        """Weights and biases of the norms of queries and keys."""
        names, own = self.names, self.shape(layer)
        size, prefix = own.head_dim, names.layers.format(layer)
        for role, name, heads in (
            ("q_norm", names.q_norm, own.heads),
            ("k_norm", names.k_norm, own.kv_heads),
        ):
            if role == "k_norm" and self.kv_source(layer) != layer:
                continue
            whole = f"{prefix}{name}.weight"
            if self.separate_head_norms:
                # With a number in the name there is one tensor for each head.
                pieces = heads if "{}" in name else 0
                yield TensorSpec(
                    role, whole, (heads * size,), offset=self.norm_offset, pieces=pieces,
                    stored=None if pieces else (heads, size),
                )  # fmt: skip
                continue
            shape = (heads * size if self.width_norms else size,)
            yield TensorSpec(role, whole, shape, offset=self.norm_offset)
            if self.head_norm_bias:
                yield TensorSpec(f"{role}_bias", _bias_of(whole), shape)

    def _fused(self, role: str, layer: int) -> tuple[str, Rows, int] | None:
        """The larger tensor that a linear map is part of: its name, the rows of the part, all its rows.

        None if the map has a tensor of its own.
        """
        names, ffn, shape = self.names, self.ffn_size_of(layer), self.shape(layer)
        if names.gate_up and role in ("gate", "up"):
            return names.gate_up, ((0, ffn) if role == "gate" else (ffn, 2 * ffn),), 2 * ffn
        if self.gated_attention and role in ("q", "z"):
            size = shape.head_dim
            starts = range(0 if role == "q" else size, 2 * shape.q_size, 2 * size)
            return names.q, tuple((start, start + size) for start in starts), 2 * shape.q_size
        if not names.qkv or role not in ("q", "k", "v"):
            return None
        groups = shape.kv_heads if names.qkv_by_group else 1
        q, k, v = shape.q_size // groups, shape.k_size // groups, shape.v_size // groups
        first, end = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + k + v)}[role]
        width = q + k + v
        rows = tuple((start + first, start + end) for start in range(0, groups * width, width))
        return names.qkv, rows, groups * width


def _bias_of(weight: str) -> str:
    """The name of the bias that belongs to a weight."""
    return f"{weight.removesuffix('.weight')}.bias"
