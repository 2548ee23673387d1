"""The arguments of latent attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire.engines.native.cpu.compiler.structs import Structs
from quire.engines.native.cpu.kernels.arguments import LinearMap
from quire.engines.native.cpu.program.arguments import LatentAttention
from quire.engines.native.cpu.tables.maps import layer_norm_of, linear_map, lora_entry
from quire.engines.native.cpu.tables.memory import LayerMemory
from quire.engines.native.cpu.weights.decoder import Weights
from quire.engines.native.cpu.weights.linear_map import address_of, fill_map
from quire.engines.native.models.layers.latent_attention import NORM_EPS, LatentAttentionSpec


def latent_attention(weights: Weights, layer: int, memory: LayerMemory) -> LatentAttention:
    """What the operations of latent attention are told."""
    tensors, made = weights.layers[layer], LatentAttention()
    mixer = weights.spec.layers[layer].mixer
    assert isinstance(mixer, LatentAttentionSpec)
    made.norm = layer_norm_of(weights, layer, "attention_norm")
    made.heads, made.q_rank, made.kv_rank = mixer.heads, mixer.q_rank, mixer.kv_rank
    made.nope_dim, made.rope_dim, made.value_dim = mixer.nope_dim, mixer.rope_dim, mixer.value_dim
    made.q_a, made.kv_a = linear_map(tensors, "q_a"), linear_map(tensors, "kv_a")
    made.kv_a_norm = address_of(tensors["kv_a_norm"])
    if mixer.q_rank:
        made.q_b, made.q_a_norm = linear_map(tensors, "q_b"), address_of(tensors["q_a_norm"])
    made.keys, made.values = _heads(tensors, "k", mixer.heads), _heads(tensors, "v", mixer.heads)
    made.eps = NORM_EPS
    made.angles, made.is_interleaved = memory.angles_of(mixer)
    made.scale = mixer.scale
    made.k_cache, made.v_cache = memory.cache_addresses(layer)
    made.entry, made.q_b_entry = lora_entry(layer, "q_a"), lora_entry(layer, "q_b")
    return made


def _heads(tensors: Mapping[str, Any], role: str, count: int) -> Structs[LinearMap]:
    """The maps of all heads."""
    made = Structs(LinearMap, count)
    for head, one in enumerate(made):
        fill_map(one, tensors[f"{role}.{head}"])
    return made
