"""Qwen3-VL, dense and with experts: Qwen3 whose tokens have positions in time, height and width.

The pairs of a head take turns among the three. After the first layers, features of pictures and videos are
added to the residual stream.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.experts import ExpertNames
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.qwen2_moe import experts, sparse_layers
from quire.engines.native.models.rope import read_rope, read_sections, rope_parameters
from quire.engines.native.models.spec import DecoderSpec, MediaSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved text_config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
    "max_position_embeddings": 128_000,
}
_SPARSE: dict[str, Any] = {
    "vocab_size": 151_936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 128_000,
}
_SECTIONS = [24, 20, 20]
_DEEP_LAYERS = [8, 16, 24]  # of the tower, whose features go to as many layers of the decoder


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_vl_text`."""
    return _decoder(config.with_defaults(_DEFAULTS))


def sparse_decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_vl_moe_text`."""
    config = config.with_changes({"norm_topk_prob": True}).with_defaults(_SPARSE)
    sparse = sparse_layers(config)
    found = experts(config, sparse, count=60, chosen=4, ffn_size=1408)
    if found is not None:
        found = dataclasses.replace(found, names=ExpertNames(fused_either_way=True))
    return _decoder(config).with_experts(found, sparse)


def _decoder(config: HubConfig) -> DecoderSpec:
    bias = config.flag("attention_bias")
    spec = plain_decoder(config, head_dim=128, rope=_rope(config))
    norms = HeadNormsSpec(spec.final_norm)
    return spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)


def _rope(config: HubConfig) -> RopeSpec:
    values = HubConfig(rope_parameters(config), f"{config.source}: rope")
    sections = read_sections(values, _SECTIONS, config.integer("head_dim", 128) // 2)
    if len(sections) != 3:
        raise values.wrong("mrope_section", list(sections), "three integers")
    rope = read_rope(config, 500_000.0)
    return dataclasses.replace(rope, sections=sections, interleaved_sections=True)


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `qwen3_vl`."""
    return _with_deep_layers(config, text_of(config, decoder))


def sparse_multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `qwen3_vl_moe`."""
    return _with_deep_layers(config, text_of(config, sparse_decoder))


def _with_deep_layers(config: HubConfig, spec: DecoderSpec) -> DecoderSpec:
    vision = config.inner("vision_config", config.get("vision_config", {}))
    layers = vision.get("deepstack_visual_indexes", _DEEP_LAYERS)
    if not isinstance(layers, list) or len(layers) > spec.num_layers:
        raise vision.wrong(
            "deepstack_visual_indexes", layers, f"a list of at most {spec.num_layers} layers"
        )
    return dataclasses.replace(spec, media=MediaSpec(deep_layers=len(layers)))
