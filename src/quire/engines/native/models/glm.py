"""GLM-4 (`glm`): Llama with half of each head rotated, in neighbouring pairs, and gate and up fused."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.layers.ffn import FfnNames
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.names import WeightNames
from quire.engines.native.models.plain import plain_decoder
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

FFN_NAMES = FfnNames(gate_up="mlp.gate_up_proj")
POST_NORM_NAMES = WeightNames(
    post_attention_norm="post_self_attn_layernorm", post_ffn_norm="post_mlp_layernorm"
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm`."""
    config = config.with_defaults({"num_key_value_heads": 2, "head_dim": 128})
    rope = read_rope(config, partial=0.5, interleaved=True)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1.5625e-7))
    spec = spec.with_attention(qkv_bias=config.flag("attention_bias", True))
    return spec.with_ffn(names=FFN_NAMES)


def with_post_norms(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm4`: GLM-4-0414."""
    spec = decoder(config).with_all_layers(post_norms=True)
    return dataclasses.replace(spec, names=POST_NORM_NAMES)
