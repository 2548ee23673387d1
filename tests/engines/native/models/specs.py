"""Specs of small configs, and what tests ask of one."""

from __future__ import annotations

from typing import Any

from quire.engines.native.models.layers.attention import AttentionShape, AttentionSpec
from quire.engines.native.models.layers.ffn import FfnSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.registry import spec_of
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

PLAIN: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
}


def spec(**changes: Any) -> Any:
    return spec_of(HubConfig({**PLAIN, **changes}))


def attention(found: DecoderSpec) -> AttentionSpec:
    assert found.attention is not None
    return found.attention


def rope_of(found: DecoderSpec) -> RopeSpec:
    assert found.rope is not None
    return found.rope


def shape(found: DecoderSpec, layer: int | None = None) -> AttentionShape:
    if layer is None:
        return attention(found).shape
    mixer = found.layers[layer].mixer
    assert mixer is not None
    assert mixer.shape is not None
    return mixer.shape


def ffn(found: DecoderSpec, layer: int = 0) -> FfnSpec:
    own = found.layers[layer].ffn
    assert own is not None
    return own


def local_rope(found: DecoderSpec) -> RopeSpec:
    return next(rope for rope, _ in found.ropes if rope.is_local)


def rotary_dim(found: DecoderSpec) -> int:
    return next(rope.size(size) for rope, size in found.ropes if not rope.is_local)


def without_rope(found: DecoderSpec) -> tuple[int, ...]:
    layers = enumerate(found.layers)
    return tuple(n for n, one in layers if one.attention and one.attention.rope is None)


def sparse(found: DecoderSpec) -> tuple[bool, ...]:
    return tuple(layer.experts is not None for layer in found.layers)


def other_mixers(found: DecoderSpec) -> list[bool]:
    return [not isinstance(layer.mixer, AttentionSpec) for layer in found.layers]


def kv_sources(found: DecoderSpec) -> list[int]:
    """For each layer, the one whose keys it attends to."""
    sources = [layer.attention and layer.attention.kv_source for layer in found.layers]
    return [layer if one is None else one for layer, one in enumerate(sources)]
