"""Qwen3-VL, its text: Qwen3 whose tokens have positions in time, height and width, pair by pair in turn."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope, read_sections, rope_parameters
from quire.engines.native.models.spec import DecoderSpec
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
_SECTIONS = [24, 20, 20]


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen3_vl_text`."""
    config = config.with_defaults(_DEFAULTS)
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
    return text_of(config, decoder)
