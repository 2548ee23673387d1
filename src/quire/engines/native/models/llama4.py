"""Llama 4: attention within chunks of the text but in every fourth layer, which has no rotary embedding.

Experts get inputs that are weighted by the sigmoids of the router's logits.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import QueryScale
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

_FFN_NAMES = FfnNames(
    gate="feed_forward.gate_proj", up="feed_forward.up_proj", down="feed_forward.down_proj"
)
_EXPERT_NAMES = ExpertNames(
    router="feed_forward.router",
    experts="feed_forward.experts.{}.",
    shared="feed_forward.shared_expert.",
    fused_router="feed_forward.router",
    fused_gate_up="feed_forward.experts.gate_up_proj",
    fused_down="feed_forward.experts.down_proj",
    fused_transposed=True,
)

_DEFAULTS: dict[str, Any] = {
    "vocab_size": 202_048,
    "hidden_size": 5120,
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16_384,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131_072,
    "num_local_experts": 16,
    "attention_chunk_size": 8192,
}
_CHUNKED, _FULL = "chunked_attention", "full_attention"


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `llama4_text`."""
    config = config.with_defaults(_DEFAULTS)
    layers, bias = config.integer("num_hidden_layers"), config.flag("attention_bias")
    rotates = _rotates(config, layers)
    size = config.integer("intermediate_size")
    dense = config.with_changes({"intermediate_size": config.get("intermediate_size_mlp")})
    rope = read_rope(config, 500_000.0, interleaved=True)
    spec = plain_decoder(dense, rope=rope, norm=NormSpec(eps=1e-5)).with_ffn(names=_FFN_NAMES)
    spec = spec.with_attention(qkv_bias=bias, o_bias=bias)
    spec = spec.with_windows(_chunks(config, rotates), is_chunked=True)
    unit, scale = replace(spec.final_norm, weights=False), _query_scale(config)
    norms = HeadNormsSpec(unit) if config.flag("use_qk_norm", True) else None

    def of_kind(index: int, layer: LayerSpec) -> LayerSpec:
        assert layer.attention is not None
        own = {"norms": norms} if rotates[index] else {"rope": None, "query_scale": scale}
        return replace(layer, mixer=replace(layer.attention, **own))

    sparse = _sparse_layers(config, layers)
    experts = _experts(config, size) if any(sparse) else None
    return spec.with_layers(of_kind).with_experts(experts, sparse)


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `llama4`, which also sees."""
    return text_of(config, decoder)


def _rotates(config: HubConfig, layers: int) -> list[int]:
    """For each layer, 1 if it has a rotary embedding, else 0. An empty list is none."""
    interval = config.integer("no_rope_layer_interval", 4)
    usual = [int(layer % interval != 0) for layer in range(1, layers + 1)]
    rotates = config.get("no_rope_layers") or usual
    if not isinstance(rotates, list) or len(rotates) < layers or not set(rotates) <= {0, 1}:
        raise config.wrong("no_rope_layers", rotates, f"a list of 0 and 1 for {layers} layers")
    return rotates[:layers]


def _chunks(config: HubConfig, rotates: list[int]) -> tuple[int, ...]:
    """The chunk of each layer, 0 for full attention."""
    size = 0 if config.is_null("attention_chunk_size") else config.integer("attention_chunk_size")
    types = config.get("layer_types", [_CHUNKED if one else _FULL for one in rotates])
    layers = len(rotates)
    if not isinstance(types, list) or len(types) != layers or not set(types) <= {_CHUNKED, _FULL}:
        raise config.wrong("layer_types", types, f"{layers} of {_CHUNKED}, {_FULL}")
    return tuple(size if one == _CHUNKED else 0 for one in types)


def _query_scale(config: HubConfig) -> QueryScale | None:
    """The scale of queries in layers without a rotary embedding."""
    if not config.flag("attn_temperature_tuning", True):
        return None
    return QueryScale(
        beta=config.number("attn_scale", 0.1),
        length=config.integer("floor_scale", 8192),
        first=1,
    )


def _sparse_layers(config: HubConfig, layers: int) -> list[bool]:
    """For each layer, whether it is sparse."""
    step = config.integer("interleave_moe_layer_step", 1)
    listed = config.get("moe_layers", list(range(step - 1, layers, step)))
    if not isinstance(listed, list) or not all(type(layer) is int for layer in listed):
        raise config.wrong("moe_layers", listed, "a list of layer indices")
    return [layer in listed for layer in range(layers)]


def _experts(config: HubConfig, size: int) -> ExpertsSpec:
    count = config.integer("num_local_experts")
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, 1),
        ffn_size=size,
        router=RouterSpec(scores="sigmoid_of_chosen", weights_inputs=True),
        shared_size=size,
        names=_EXPERT_NAMES,
    )
