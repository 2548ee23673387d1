"""`DecoderSpec`: what a decoder is, as data. The native engine computes whatever one says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.attention import AttentionNames, AttentionSpec
from quire.engines.native.models.layers.embeddings import EmbeddingsSpec, HeadSpec
from quire.engines.native.models.layers.experts import ExpertsSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.layer_inputs import LayerInputsSpec
from quire.engines.native.models.layers.mixer import TokenMixer
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import QueryScale, RopeSpec
from quire.engines.native.models.names import USUAL_NAMES, WeightNames
from quire.engines.native.models.tensors import TensorSpec, bias_of
from quire.quantization.schemes import Quantization


@dataclass(frozen=True, slots=True)
class MediaSpec:
    """How tokens of media are computed, where that differs from text.

    In every model a tower's features stand in place of their embeddings. Whether they have positions in
    height and width, too, is said by the rotary embedding (`RopeSpec.sections`).
    """

    whole_tokens: int = 0
    """The most tokens of a medium, one after the other, which attend to each other in both directions; 0 for
    a model whose media are causal, as text is."""
    deep_layers: int = 0
    """How many of the first layers are followed by the sum of the residual stream and further features of
    media (DeepStack, arXiv 2406.04334)."""


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """A decoder-only transformer: embeddings, layers, a norm and a head.

    Families of models differ in their layers: see `LayerSpec`. Most have the same in all layers, or the
    same but for windows, so a family changes what `plain_decoder` reads by the methods `with_...`.
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    max_positions: int
    layers: tuple[LayerSpec, ...]
    final_norm: NormSpec
    embeddings: EmbeddingsSpec
    head: HeadSpec
    residual_scale: float = 1.0
    """What a layer's parts give is multiplied by it before it is added to the residual stream."""
    layer_inputs: LayerInputsSpec | None = None
    """What layers get of each token besides the residual stream."""
    media: MediaSpec = MediaSpec()
    altup: AltUpSpec | None = None
    """Several residual streams. It needs `layer_inputs`, and norms after attention and FFN."""
    names: WeightNames = USUAL_NAMES
    quantization: Quantization | None = None
    """Which matrices the folder may hold as small integers, and how."""

    def __post_init__(self) -> None:
        # A step has one table of factors of queries, and one place for what routing writes. A batch
        # with M-RoPE brings one table of angles.
        assert len(self._distinct(lambda layer: layer.experts)) <= 1
        assert len(self._distinct(_query_scale)) <= 1
        assert len(self.ropes) <= 1 or not any(rope.sections for rope, _ in self.ropes)

    # ---- what is asked of all layers together

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def _distinct(self, of: Callable[[LayerSpec], Any]) -> list[Any]:
        """The different things that layers have, in the order of the layers."""
        return list(dict.fromkeys(one for one in map(of, self.layers) if one is not None))

    @property
    def mixers(self) -> tuple[TokenMixer | None, ...]:
        """The mixer of each layer."""
        return tuple(layer.mixer for layer in self.layers)

    @property
    def attention(self) -> AttentionSpec | None:
        """The first attention; None for a model without, or with another kind of attention."""
        return next((one.attention for one in self.layers if one.attention), None)

    @property
    def experts(self) -> ExpertsSpec | None:
        """The sparse FFN of some or all layers; None for a dense model."""
        return next(iter(self._distinct(lambda layer: layer.experts)), None)

    @property
    def windows(self) -> tuple[int, ...]:
        """For each layer, how many positions a token sees, including its own; 0 for all."""
        attentions = (layer.attention for layer in self.layers)
        return tuple(0 if one is None else one.window for one in attentions)

    @property
    def ropes(self) -> tuple[tuple[RopeSpec, int], ...]:
        """The rotary embeddings, each with the size of the heads that it rotates."""
        mixers = (layer.mixer for layer in self.layers)
        found = ((one.rope, one.rope_dim) for one in mixers if one is not None)
        return tuple(dict.fromkeys((rope, size) for rope, size in found if rope is not None))

    @property
    def rope(self) -> RopeSpec | None:
        """The rotary embedding, of layers without a window if these have their own; None for none."""
        ropes = sorted((rope for rope, _ in self.ropes), key=lambda rope: rope.is_local)
        return ropes[0] if ropes else None

    @property
    def uses_mrope(self) -> bool:
        """Whether tokens have several positions (M-RoPE)."""
        return self.rope is not None and bool(self.rope.sections)

    @property
    def query_scale(self) -> QueryScale | None:
        """What the queries of some or all layers are multiplied by, depending on their position."""
        return next(iter(self._distinct(_query_scale)), None)

    @property
    def state_floats(self) -> int:
        """Float32 numbers of one sequence's state, over all layers; 0 if the model has none."""
        return sum(layer.state_floats for layer in self.layers)

    @property
    def ffn_width(self) -> int:
        """The most gate values that one token has in a layer."""
        widths = [self.layer_inputs.size if self.layer_inputs else 0]
        for layer in self.layers:
            widths += [layer.ffn.size] if layer.ffn else []
            widths += [layer.experts.ffn_width] if layer.experts else []
        return max(widths)

    # ---- the same model with changes

    def with_layers(self, change: Callable[[int, LayerSpec], LayerSpec]) -> DecoderSpec:
        """With each layer as `change` makes it of its index and of what it was."""
        return replace(self, layers=tuple(change(*one) for one in enumerate(self.layers)))

    def with_all_layers(self, **changes: Any) -> DecoderSpec:
        """With these fields of all layers."""
        return self.with_layers(lambda _, layer: replace(layer, **changes))

    def with_attention(self, **changes: Any) -> DecoderSpec:
        """With these fields of the attention of all layers that have that."""

        def changed(_: int, layer: LayerSpec) -> LayerSpec:
            if not isinstance(layer.mixer, AttentionSpec):
                return layer
            return replace(layer, mixer=replace(layer.mixer, **changes))

        return self.with_layers(changed)

    def with_windows(self, windows: Sequence[int], **changes: Any) -> DecoderSpec:
        """With each layer's window, 0 for none, and these fields of the attention of layers that have one."""

        def changed(index: int, layer: LayerSpec) -> LayerSpec:
            if not isinstance(layer.mixer, AttentionSpec) or not windows[index]:
                return layer
            return replace(layer, mixer=replace(layer.mixer, window=windows[index], **changes))

        return self.with_layers(changed)

    def without_rope(self, layers: Sequence[bool] | None = None) -> DecoderSpec:
        """Without the rotary embedding of the layers that are marked; by default, of all."""

        def changed(index: int, layer: LayerSpec) -> LayerSpec:
            if layer.mixer is None or not (layers is None or layers[index]):
                return layer
            return replace(layer, mixer=layer.mixer.with_rope(None))

        return self.with_layers(changed)

    def with_mixers(self, mixers: Sequence[TokenMixer | None]) -> DecoderSpec:
        """With these in place of attention, layer by layer; None leaves a layer its own."""
        return self.with_layers(
            lambda index, layer: replace(layer, mixer=mixers[index] or layer.mixer)
        )

    def with_ffn(self, **changes: Any) -> DecoderSpec:
        """With these fields of the dense FFN of all layers that have one."""
        return self.with_layers(
            lambda _, layer: replace(layer, ffn=layer.ffn and replace(layer.ffn, **changes))
        )

    def with_experts(
        self, experts: ExpertsSpec | None, sparse: Sequence[bool] | None = None
    ) -> DecoderSpec:
        """With experts in place of the dense FFN, whose activation they have, and gates if it has one: in
        the layers that are marked, by default in all. None leaves the model as it is.
        """

        def changed(index: int, layer: LayerSpec) -> LayerSpec:
            if experts is None or layer.ffn is None or not (sparse is None or sparse[index]):
                return layer
            own = replace(experts, activation=layer.ffn.activation, gated=layer.ffn.gated)
            return replace(layer, ffn=None, experts=own)

        return self.with_layers(changed)

    def with_llama_names(self) -> DecoderSpec:
        """With the names that Llama's tensors have, for a source that has nothing fused, transposed or in
        pieces: see `gguf`."""
        spec = self.with_attention(names=AttentionNames()).with_ffn(names=FfnNames())
        return replace(spec, names=USUAL_NAMES)

    # ---- tensors

    def tensors(self) -> Iterator[TensorSpec]:
        """All tensors, of which those of the layers come last."""
        yield from self.global_tensors()
        for layer in range(self.num_layers):
            yield from self.layer_tensors(layer)

    def global_tensors(self) -> Iterator[TensorSpec]:
        """The tensors outside the layers: `embeddings`, `final_norm`, and `head` unless it is tied.

        Some models have `positions`, `embedding_norm`, biases, and what layers get besides.
        """
        names, hidden = self.names, self.hidden_size
        yield TensorSpec("embeddings", names.embeddings, (self.vocab_size, hidden))
        first = self.embeddings.first_position
        if first is not None:
            end, shape = first + self.max_positions, (self.max_positions, hidden)
            rows, whole = (((first, end),), end) if first else ((), 0)
            yield TensorSpec("positions", names.positions, shape, rows, whole)
        if self.embeddings.norm:
            norm = self.embeddings.norm
            yield from norm.tensors("embedding_norm", names.embedding_norm, hidden)
        yield from self.final_norm.tensors("final_norm", names.final_norm, hidden)
        if not self.head.tied:
            yield TensorSpec("head", names.head, (self.vocab_size, hidden))
        if self.head.bias:
            yield TensorSpec("head_bias", bias_of(names.head), (self.vocab_size,))
        if self.layer_inputs:
            yield from self.layer_inputs.global_tensors(names, self.num_layers)
        if self.altup:
            yield from self.altup.global_tensors(names.altup_starts, names.altup_ends, hidden)

    def tied_head(self) -> TensorSpec:
        """The embeddings in the role of the head."""
        return TensorSpec("head", self.names.embeddings, (self.vocab_size, self.hidden_size))

    def layer_tensors(self, layer: int) -> Iterator[TensorSpec]:
        """The tensors of one layer."""
        names, hidden = self.names, self.hidden_size
        prefix = names.layers.format(layer)
        yield from self.layers[layer].tensors(prefix, hidden, names)
        if self.layer_inputs and layer == 0:
            yield from self.layer_inputs.first_layer_tensors(names, hidden, self.num_layers)
        if self.layer_inputs:
            yield from self.layer_inputs.tensors(names, prefix, hidden)
        if self.altup:
            yield from self.altup.tensors(prefix, hidden)


def _query_scale(layer: LayerSpec) -> QueryScale | None:
    return layer.attention.query_scale if layer.attention else None
