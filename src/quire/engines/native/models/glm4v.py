"""GLM-4.1V (`glm4v`), its text: GLM-4-0414 whose tokens have positions in time, height and width."""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models import glm
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.multimodal import text_of
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope, read_sections, rope_parameters
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved text_config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 151_552,
    "hidden_size": 4096,
    "intermediate_size": 13_696,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32_768,
}
_SECTIONS = [8, 12, 12]


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm4v_text`."""
    config = config.with_defaults(_DEFAULTS)
    norm, names = NormSpec(eps=1e-5), glm.POST_NORM_NAMES
    spec = plain_decoder(config, rope=_rope(config), norm=norm, names=names)
    spec = spec.with_all_layers(post_norms=True).with_attention(qkv_bias=True)
    return spec.with_ffn(names=glm.FFN_NAMES)


def _rope(config: HubConfig) -> RopeSpec:
    values = HubConfig(rope_parameters(config), f"{config.source}: rope")
    rope = read_rope(config, partial=1.0, interleaved=True)
    width = config.integer("hidden_size") // config.integer("num_attention_heads")
    pairs = rope.size(config.integer("head_dim", width)) // 2
    return dataclasses.replace(rope, sections=read_sections(values, _SECTIONS, pairs))


def multimodal(config: HubConfig) -> DecoderSpec:
    """The spec of the text decoder in a config whose model_type is `glm4v`."""
    text = config.inner("text_config")
    # Folders of before transformers 5 say in text_config whether the head is tied.
    tied = config.flag("tie_word_embeddings") or text.flag("tie_word_embeddings")
    return text_of(config.with_changes({"tie_word_embeddings": tied}), decoder)
