"""Gemma 3n: several residual streams, vectors of each layer for each token, layers that share keys and
values, and FFNs of which only the highest gate values count.

Of a folder with towers (`gemma3n`), only the text decoder is read.
"""

from __future__ import annotations

import dataclasses
from statistics import NormalDist
from typing import Any

from quire.engines.native.models.gemma import gemma_embeddings
from quire.engines.native.models.gemma2 import NAMES, cap, every
from quire.engines.native.models.gemma4 import (
    kv_sources,
    layer_inputs,
    layer_types,
    with_kv_sources,
)
from quire.engines.native.models.layers.altup import AltUpSpec
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import check_rope, read_ropes_by_layer
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_400,
    "hidden_size": 2048,
    "intermediate_size": 16_384,
    "num_hidden_layers": 35,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "final_logit_softcapping": 30.0,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size_per_layer_input": 256,
    "num_kv_shared_layers": 15,
}
_SPARSE_LAYERS, _SPARSITY = 10, 0.95  # of models with more layers than that


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gemma3n_text`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    layers = config.integer("num_hidden_layers")
    types = layer_types(config, every(5, layers))
    local_theta = config.number("rope_local_base_freq", 10_000.0)
    rope, local_rope = read_ropes_by_layer(
        config, config.number("rope_theta", 1_000_000.0), local_theta
    )
    widths, cutoffs = _ffn_sizes(config, layers), _gate_cutoffs(config, layers)
    plain = config.with_changes({"intermediate_size": max(widths)})
    spec = plain_decoder(plain, rope=rope, activation="gelu_tanh", names=NAMES)
    window, bias = config.integer("sliding_window"), config.flag("attention_bias")
    config.integer("hidden_size_per_layer_input")  # none of these models is without
    norm = spec.final_norm
    spec = spec.with_all_layers(post_norms=True).with_attention(
        scale=1.0, qkv_bias=bias, o_bias=bias, norms=HeadNormsSpec(norm),
        value_norm=dataclasses.replace(norm, weights=False),
    )  # fmt: skip
    assert spec.attention is not None
    check_rope(config, local_rope, spec.attention.shape.head_dim)
    windows = [window if kind == "sliding_attention" else 0 for kind in types]
    spec = with_kv_sources(spec.with_windows(windows, rope=local_rope), kv_sources(config, types))

    def with_own_ffn(index: int, layer: LayerSpec) -> LayerSpec:
        assert layer.ffn is not None
        ffn = dataclasses.replace(layer.ffn, size=widths[index], gate_cutoff=cutoffs[index])
        return dataclasses.replace(layer, ffn=ffn)

    return dataclasses.replace(
        spec.with_layers(with_own_ffn),
        embeddings=gemma_embeddings(config),
        head=dataclasses.replace(spec.head, cap=cap(config, "final_logit_softcapping")),
        layer_inputs=layer_inputs(config),
        altup=_altup(config),
    )


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `gemma3n`."""
    return text_of(config, decoder)


def _ffn_sizes(config: HubConfig, layers: int) -> tuple[int, ...]:
    sizes = config.get("intermediate_size")
    if not isinstance(sizes, list):
        return (config.integer("intermediate_size"),) * layers
    if len(sizes) != layers or not all(type(size) is int and size > 0 for size in sizes):
        raise config.wrong("intermediate_size", sizes, f"an integer, or {layers} of them")
    return tuple(sizes)


def _gate_cutoffs(config: HubConfig, layers: int) -> tuple[float | None, ...]:
    """For each layer, the quantile of a normal distribution that its share of zeros is below."""
    key = "activation_sparsity_pattern"
    count = _SPARSE_LAYERS if layers > _SPARSE_LAYERS else 0
    shares = config.get(key, [_SPARSITY] * count + [0.0] * (layers - count))
    valid = isinstance(shares, list) and all(
        type(one) in (int, float) and 0 <= one < 1 for one in shares
    )
    if not valid or len(shares) != layers:
        raise config.wrong(key, shares, f"{layers} numbers from 0 to less than 1")
    return tuple(NormalDist().inv_cdf(share) if share else None for share in shares)


def _altup(config: HubConfig) -> AltUpSpec:
    streams = config.integer("altup_num_inputs", 4)
    active = config.integer("altup_active_idx", 0, minimum=0)
    if active >= streams:
        raise config.wrong("altup_active_idx", active, f"one of the {streams} streams")
    return AltUpSpec(
        streams=streams,
        active=active,
        scales_output=config.flag("altup_correct_scale", True),
        laurel_rank=config.integer("laurel_rank", 64),
    )
