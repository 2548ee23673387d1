"""OLMo: layer norms without weights; OLMo 2 and 3: norms after attention and FFN, instead of before, and
over all query and key heads.
"""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.gemma2 import every
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope, read_ropes_by_layer
from quire.engines.native.models.spec import DecoderSpec, RopeSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    post_attention_norm="post_attention_layernorm", post_ffn_norm="post_feedforward_layernorm"
)


def olmo(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmo`: OLMo 1, and OLMo 1.7."""
    config = config.with_changes({"rms_norm_eps": 1e-5})  # which no config has
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config),
        windows=(0,) * config.integer("num_hidden_layers"),
        norm_kind="layer",
        norm_weights=False,
        qkv_bias=bias,
        o_bias=bias,
        qkv_clip=config.number("clip_qkv", 0.0) if "clip_qkv" in config else 0.0,
    )


def olmo2(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmo2`."""
    return _olmo(config, read_rope(config))


def olmo3(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmo3`, with windows in three of four layers."""
    types = every(4, config.integer("num_hidden_layers"))
    window = 0 if config.is_null("sliding_window") else config.integer("sliding_window", 4096)
    windows = config.windows(window, types)
    theta = config.number("rope_theta", 500_000.0)
    rope, local_rope = read_ropes_by_layer(config, theta, theta)
    return dataclasses.replace(_olmo(config, rope), windows=windows, local_rope=local_rope)


def _olmo(config: HubConfig, rope: RopeSpec) -> DecoderSpec:
    bias = config.flag("attention_bias")
    return DecoderSpec(
        **common(config, rope=rope, norm_eps=1e-5),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=bias,
        o_bias=bias,
        pre_norms=False,
        post_norms=True,
        width_norms=True,
        names=NAMES,
    )
