"""OLMo: layer norms without weights; OLMo 2 and 3: norms after attention and FFN, instead of before, and
over all query and key heads.
"""

from __future__ import annotations

from quire.engines.native.models.gemma2 import every
from quire.engines.native.models.layers.attention import HeadNormsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope, read_ropes_by_layer
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(
    post_attention_norm="post_attention_layernorm", post_ffn_norm="post_feedforward_layernorm"
)


def olmo(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `olmo`: OLMo 1, and OLMo 1.7."""
    config = config.with_changes({"rms_norm_eps": 1e-5})  # which no config has
    bias = config.flag("attention_bias")
    clip = config.number("clip_qkv", 0.0) if "clip_qkv" in config else 0.0
    spec = plain_decoder(config, norm=NormSpec("layer", weights=False))
    return spec.with_attention(qkv_bias=bias, o_bias=bias, clip=clip)


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
    return _olmo(config, rope).with_windows(windows, rope=local_rope)


def _olmo(config: HubConfig, rope: RopeSpec) -> DecoderSpec:
    bias = config.flag("attention_bias")
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5), names=NAMES)
    spec = spec.with_all_layers(pre_norms=False, post_norms=True)
    norms = HeadNormsSpec(spec.final_norm, span="width")
    return spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms)
