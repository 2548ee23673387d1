"""The arguments of attention: queries, keys and values, and attention over the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quire.engines.native.cpu.program.arguments import Attention, Projection
from quire.engines.native.cpu.tables.maps import layer_norm_of, linear_map, lora_entry, norm_of
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.alibi import alibi_slopes
from quire.engines.native.models.layers.attention import (
    AttentionShape,
    AttentionSpec,
    HeadNormsSpec,
)


def projection(weights: Weights, layer: int, memory: LayerMemory) -> Projection:
    """What `project` is told."""
    tensors, made = weights.layers[layer], Projection()
    own = weights.spec.layers[layer].attention
    assert own is not None
    _fill_shape(made, own.shape)
    made.norm = layer_norm_of(weights, layer, "attention_norm")
    made.q = linear_map(tensors, "q")
    made.k, made.v = (linear_map(tensors, role) if role in tensors else None for role in ("k", "v"))
    if own.gated:
        made.z = linear_map(tensors, "z")
    maps = (made.q, made.k, made.v, made.z)
    assert made.v or not made.z  # the heads of gates follow those of values
    heads = (made.heads, made.kv_heads, made.kv_heads, made.heads)
    made.units = sum(count for count, one in zip(heads, maps, strict=True) if one is not None)
    if own.norms:
        _fill_norms(made, own.norms, tensors)
    if own.value_norm and "v_norm" in tensors:
        made.v_norm = norm_of(own.value_norm, tensors, "v_norm")
    made.clip = own.clip
    made.angles, made.is_interleaved = memory.angles_of(own)
    made.rotary_dim = own.rope.size(made.head_dim) if own.rope else 0
    made.scale, made.value_scale = own.scale, own.value_scale
    made.query_factors = memory.query_factors if own.query_scale else None
    made.k_cache, made.v_cache = memory.cache_addresses(_kv_source(own, layer))
    made.entry = lora_entry(layer, "q")
    return made


def _fill_norms(made: Projection, norms: HeadNormsSpec, tensors: Mapping[str, Any]) -> None:
    stride = 4 * made.head_dim if norms.span == "each_head" else 0
    made.q_norm = norm_of(norms.norm, tensors, "q_norm", stride)
    if "k_norm" in tensors:
        made.k_norm = norm_of(norms.norm, tensors, "k_norm", stride)
    made.norms_widths, made.norms_last = norms.span == "width", norms.after_rope


def _kv_source(own: AttentionSpec, layer: int) -> int:
    return layer if own.kv_source is None else own.kv_source


def attention(weights: Weights, layer: int, memory: LayerMemory) -> Attention:
    """What attention over the cache is told: that of keys and values, or that of latents."""
    own, made = weights.spec.layers[layer], Attention()
    assert own.mixer is not None
    assert own.mixer.shape is not None
    _fill_shape(made, own.mixer.shape)
    if own.attention is None:
        made.k_cache, made.v_cache = memory.cache_addresses(layer)
        made.out = memory.step.up
        return made
    spec = own.attention
    made.k_cache, made.v_cache = memory.cache_addresses(_kv_source(spec, layer))
    made.window, made.is_chunked = spec.window, spec.is_chunked
    made.cap, made.is_gated = spec.cap, spec.gated
    made.out = memory.step.attention_out
    made.sinks = address_of(weights.layers[layer].get("sinks"))
    if spec.alibi:
        made.slopes = memory.keep(alibi_slopes(spec.shape.heads) * np.float32(spec.alibi))
    return made


def _fill_shape(made: Projection | Attention, shape: AttentionShape) -> None:
    made.heads, made.kv_heads = shape.heads, shape.kv_heads
    made.head_dim, made.value_dim = shape.head_dim, shape.value_dim
