"""Qwen2-VL and Qwen2.5-VL: Qwen2 whose tokens have positions in time, height and width (M-RoPE).

The keys of the decoder are at the top level of config.json, as on the hub, or in `text_config`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from quire.engines.native.models import qwen2
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.multimodal import PREFIX_MAP
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope, read_sections
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

# transformers' defaults. A saved config leaves out every key whose value is the default.
_DEFAULTS: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 8192,
    "intermediate_size": 29_568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32_768,
    "max_window_layers": 80,
    "rms_norm_eps": 1e-5,
}
_SECTIONS = [16, 24, 24]


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `qwen2_vl` or `qwen2_5_vl`."""
    text = config.inner("text_config") if "text_config" in config else config
    text = text.with_defaults(_DEFAULTS)
    tied = config.flag("tie_word_embeddings") or text.flag("tie_word_embeddings")
    model = {"model_type": config.get("model_type"), "tie_word_embeddings": tied}
    text = text.with_changes(model)
    names = WeightNames(prefix_map=PREFIX_MAP)
    spec = plain_decoder(text, rope=_rope(text), norm=NormSpec(eps=1e-5), names=names)
    return spec.with_windows(qwen2.windows(text)).with_attention(qkv_bias=True)


def _rope(config: HubConfig) -> RopeSpec:
    """The rotary embedding, whose type is "mrope" before transformers 5 and "default" since."""
    key = "rope_scaling" if "rope_scaling" in config else "rope_parameters"
    values = config.inner(key, config.get(key, {}))
    plain = values.values
    if "mrope" in (values.get("rope_type"), values.get("type")):
        plain = {**plain, "rope_type": "default"}
    rope = read_rope(config.with_changes({key: plain}), 1e6)
    half = config.integer("hidden_size") // config.integer("num_attention_heads") // 2
    half = config.integer("head_dim", 2 * half) // 2
    return dataclasses.replace(rope, sections=read_sections(values, _SECTIONS, half))
