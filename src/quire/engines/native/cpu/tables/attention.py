"""The arguments of attention: queries, keys and values, and attention over the cache."""

from __future__ import annotations

from quire.engines.native.cpu.program.arguments import Attention, Projection
from quire.engines.native.cpu.tables.maps import linear_map, lora_entry, norm_or_none
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of
from quire.engines.native.models.layers.latent_attention import LatentAttentionSpec
from quire.engines.native.models.spec import DecoderSpec


def projection(weights: Weights, layer: int, memory: LayerMemory) -> Projection:
    """What `project` is told."""
    spec, tensors, made = weights.spec, weights.layers[layer], Projection()
    _fill_shape(made, spec, layer)
    made.norm = norm_or_none(spec, tensors, "attention_norm")
    made.q = linear_map(tensors, "q")
    made.k, made.v = (linear_map(tensors, role) if role in tensors else None for role in ("k", "v"))
    if spec.gated_attention:
        made.z = linear_map(tensors, "z")
    maps = (made.q, made.k, made.v, made.z)
    assert made.v or not made.z  # the heads of gates follow those of values
    heads = (made.heads, made.kv_heads, made.kv_heads, made.heads)
    made.units = sum(count for count, one in zip(heads, maps, strict=True) if one is not None)
    stride = 4 * made.head_dim if spec.separate_head_norms else 0
    made.q_norm = norm_or_none(spec, tensors, "q_norm", stride)
    made.k_norm = norm_or_none(spec, tensors, "k_norm", stride)
    made.v_norm = norm_or_none(spec, tensors, "v_norm")
    made.norms_widths, made.norms_last = spec.width_norms, spec.norms_after_rope
    made.clip = spec.qkv_clip
    rope = spec.rope_of(layer)
    if rope is not None:
        made.angles = memory.angles_of(spec, layer)
        made.rotary_dim = rope.size(made.head_dim)
    made.is_interleaved = spec.interleaved_rope
    made.scale, made.value_scale = spec.attention_scale, spec.value_scale
    made.query_factors = memory.query_factors if spec.scales_queries(layer) else None
    made.k_cache, made.v_cache = memory.cache_addresses(spec.kv_source(layer))
    made.entry = lora_entry(layer, "q")
    return made


def attention(weights: Weights, layer: int, memory: LayerMemory) -> Attention:
    """What attention over the cache is told."""
    spec, made = weights.spec, Attention()
    _fill_shape(made, spec, layer)
    made.k_cache, made.v_cache = memory.cache_addresses(spec.kv_source(layer))
    made.window, made.is_chunked = spec.windows[layer], spec.chunked_windows
    made.cap = spec.attention_cap
    step = memory.step
    is_latent = isinstance(spec.mixer(layer), LatentAttentionSpec)
    made.out = step.up if is_latent else step.attention_out
    made.sinks = address_of(weights.layers[layer].get("sinks"))
    made.is_gated = spec.gated_attention and spec.mixer(layer) is None
    made.slopes = address_of(memory.slopes)
    return made


def _fill_shape(made: Projection | Attention, spec: DecoderSpec, layer: int) -> None:
    shape = spec.shape(layer)
    made.heads, made.kv_heads = shape.heads, shape.kv_heads
    made.head_dim, made.value_dim = shape.head_dim, shape.value_dim
