"""GLM-4 (`glm`): Llama with half of each head rotated, in neighbouring pairs, and gate and up fused."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(gate_up="mlp.gate_up_proj")
POST_NORM_NAMES = dataclasses.replace(
    NAMES, post_attention_norm="post_self_attn_layernorm", post_ffn_norm="post_mlp_layernorm"
)


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm`."""
    config = config.with_defaults({"num_key_value_heads": 2, "head_dim": 128})
    return DecoderSpec(
        **common(config, rope=read_rope(config, partial=0.5), norm_eps=1.5625e-7),
        windows=(0,) * config.integer("num_hidden_layers"),
        qkv_bias=config.flag("attention_bias", True),
        interleaved_rope=True,
        names=NAMES,
    )


def with_post_norms(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `glm4`: GLM-4-0414."""
    return dataclasses.replace(decoder(config), post_norms=True, names=POST_NORM_NAMES)
