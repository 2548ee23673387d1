"""Gemma 4: layers with full attention have larger heads, and values that are keys; the last layers may share
keys and values. The small models have vectors of their own for each layer and token, the largest has
experts beside a dense FFN.

Of a folder with towers (`gemma4`), only the text decoder is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from quire.engines.native.models.gemma import gemma_embeddings
from quire.engines.native.models.gemma2 import NAMES, cap, every
from quire.engines.native.models.layers.attention import (
    AttentionShape,
    AttentionSpec,
    HeadNormsSpec,
)
from quire.engines.native.models.layers.experts import ExpertNames, ExpertsSpec, RouterSpec
from quire.engines.native.models.layers.layer import LayerSpec
from quire.engines.native.models.layers.layer_inputs import LayerInputsSpec
from quire.engines.native.models.mixtral import per_token
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import check_rope, read_ropes_by_layer
from quire.engines.native.models.spec import DecoderSpec
from quire.errors import UnsupportedModelError
from quire.weights.hub_config import HubConfig

_EXPERT_NAMES = ExpertNames(
    router="router.proj",
    experts="experts.{}.",
    fused_router="router.proj",
    fused_gate_up="experts.gate_up_proj",
    fused_down="experts.down_proj",
    router_norm="router.scale",
    expert_scales="router.per_expert_scale",
    input_norm="pre_feedforward_layernorm_2",
    output_norm="post_feedforward_layernorm_2",
    dense_norm="post_feedforward_layernorm_1",
)

_SLIDING, _FULL = "sliding_attention", "full_attention"
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_144,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 30,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
    "tie_word_embeddings": True,
    "sliding_window": 512,
    "vocab_size_per_layer_input": 262_144,
    "hidden_size_per_layer_input": 256,
    "rope_parameters": {
        _SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
        _FULL: {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.25,
            "rope_theta": 1_000_000.0,
        },
    },
}
_GLOBAL_HEAD_DIM = 512
_OVERRIDES = ("head_dim", "num_key_value_heads")  # what `per_layer_config` may change


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `gemma4_text`."""
    config = config.with_defaults(_DEFAULTS)
    config.require("use_bidirectional_attention", (None, "vision"), None)
    config.require("hidden_activation", ("gelu_pytorch_tanh",), "gelu_pytorch_tanh")
    types = layer_types(config, every(6, config.integer("num_hidden_layers")))
    types = [*types[:-1], _FULL]  # whatever the config says
    rope, local_rope = read_ropes_by_layer(config, 1_000_000.0, 10_000.0)
    spec = plain_decoder(config, rope=rope, activation="gelu_tanh", names=NAMES)
    shapes = _shapes(config, types)
    for kind, shape in zip(types, shapes, strict=True):
        check_rope(config, rope if kind == _FULL else local_rope, shape.head_dim)
    window, bias = config.integer("sliding_window"), config.flag("attention_bias")
    keys_are_values = config.flag("attention_k_eq_v")
    norm = spec.final_norm
    sizes, experts = _ffn_sizes(config, len(types)), _experts(config)
    own_norms = {"norms": HeadNormsSpec(norm), "value_norm": replace(norm, weights=False)}
    local = {"window": window, "rope": local_rope}

    def of_kind(index: int, layer: LayerSpec) -> LayerSpec:
        assert isinstance(layer.mixer, AttentionSpec)
        assert layer.ffn is not None
        own = local if types[index] == _SLIDING else {"keys_are_values": keys_are_values}
        attention = replace(
            layer.mixer, shape=shapes[index], scale=1.0, qkv_bias=bias, o_bias=bias,
            **own_norms, **own,
        )  # fmt: skip
        ffn = replace(layer.ffn, size=sizes[index])
        return replace(
            layer, mixer=attention, ffn=ffn, experts=experts, post_norms=True, is_scaled=True
        )

    return replace(
        with_kv_sources(spec.with_layers(of_kind), _sources(config, types, shapes)),
        embeddings=gemma_embeddings(config),
        head=replace(spec.head, cap=cap(config, "final_logit_softcapping")),
        layer_inputs=layer_inputs(config),
    )


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `gemma4`."""
    return text_of(config, decoder)


def layer_types(config: HubConfig, default: list[str]) -> list[str]:
    """The kind of attention of each layer."""
    types, layers, known = config.get("layer_types", default), len(default), {_SLIDING, _FULL}
    if not isinstance(types, list) or len(types) != layers or not set(types) <= known:
        raise config.wrong("layer_types", types, f"{layers} of {_SLIDING}, {_FULL}")
    return types


def _shapes(config: HubConfig, types: list[str]) -> tuple[AttentionShape, ...]:
    """The sizes of each layer's attention: by `per_layer_config`, or those of all full layers by keys of
    their own."""
    changes = _changes_by_layer(config, types)
    heads = config.integer("num_attention_heads")
    shapes: list[AttentionShape] = []
    for layer in range(len(types)):
        own = config.with_changes(changes.get(str(layer), {}))
        kv_heads, size = own.integer("num_key_value_heads"), own.integer("head_dim", minimum=2)
        if heads % kv_heads:
            raise config.wrong("num_key_value_heads", kv_heads, f"a divisor of the {heads} heads")
        shapes.append(AttentionShape(heads, kv_heads, size, size))
    return tuple(shapes)


def _changes_by_layer(config: HubConfig, types: list[str]) -> Mapping[str, Mapping[str, Any]]:
    """What differs in some layers, by their number as a string."""
    if "per_layer_config" not in config.values:
        changes: dict[str, Any] = {"head_dim": config.integer("global_head_dim", _GLOBAL_HEAD_DIM)}
        if config.flag("attention_k_eq_v") and "num_global_key_value_heads" in config:
            changes["num_key_value_heads"] = config.integer("num_global_key_value_heads")
        return {str(layer): changes for layer, kind in enumerate(types) if kind == _FULL}
    values = config.inner("per_layer_config", config.get("per_layer_config") or {}).values
    for layer, one in values.items():
        if not isinstance(one, Mapping):
            raise config.wrong(f"per_layer_config.{layer}", one, "an object")
        unknown = sorted(set(one) - set(_OVERRIDES))
        if unknown:
            raise UnsupportedModelError(
                f"{config.source}: per_layer_config changes {', '.join(unknown)}; the native engine "
                f"computes {', '.join(_OVERRIDES)}. infer_backend: vllm may run this model"
            )
    return values


def _sources(
    config: HubConfig, types: list[str], shapes: tuple[AttentionShape, ...]
) -> tuple[int, ...]:
    sources = kv_sources(config, types)
    if any(shapes[layer] != shapes[source] for layer, source in enumerate(sources)):
        raise config.wrong("per_layer_config", "one", "the same for layers that share keys")
    return sources


def kv_sources(config: HubConfig, types: list[str]) -> tuple[int, ...]:
    """For each layer, the one whose keys and values it attends to. The last layers, as many as share keys,
    attend to those of the last one of their kind before them."""
    shared = config.integer("num_kv_shared_layers", 0, minimum=0)
    own = len(types) - shared
    last = {types[layer]: layer for layer in range(max(own, 0))}
    if shared and not set(types) <= set(last):
        raise config.wrong(
            "num_kv_shared_layers", shared, "so few that each kind of layer comes before them"
        )
    return tuple(layer if layer < own else last[types[layer]] for layer in range(len(types)))


def with_kv_sources(spec: DecoderSpec, sources: Sequence[int]) -> DecoderSpec:
    """The decoder with the layers that each layer's keys and values are of."""

    def changed(index: int, layer: LayerSpec) -> LayerSpec:
        if sources[index] == index:
            return layer
        assert isinstance(layer.mixer, AttentionSpec)
        return replace(layer, mixer=replace(layer.mixer, kv_source=sources[index]))

    return spec.with_layers(changed)


def _ffn_sizes(config: HubConfig, layers: int) -> tuple[int, ...]:
    """The FFNs of layers that share keys may be twice as wide."""
    shared = config.integer("num_kv_shared_layers", 0, minimum=0)
    wide = shared if config.flag("use_double_wide_mlp") else 0
    size = config.integer("intermediate_size")
    return tuple(size if layer < layers - wide else 2 * size for layer in range(layers))


def layer_inputs(config: HubConfig) -> LayerInputsSpec | None:
    """The vectors of layers; None if the model has none."""
    size = config.integer("hidden_size_per_layer_input", 0, minimum=0)
    if not size:
        return None
    return LayerInputsSpec(config.integer("vocab_size_per_layer_input"), size)


def _experts(config: HubConfig) -> ExpertsSpec | None:
    """The experts beside the dense FFN of each layer; None if the model has none."""
    if not config.flag("enable_moe_block"):
        return None
    count = config.integer("num_experts")
    return ExpertsSpec(
        count=count,
        per_token=per_token(config, count, key="top_k_experts"),
        ffn_size=config.integer("moe_intermediate_size"),
        activation="gelu_tanh",
        router=RouterSpec(normalised=True, has_norm=True, scales_experts=True),
        names=_EXPERT_NAMES,
    )
