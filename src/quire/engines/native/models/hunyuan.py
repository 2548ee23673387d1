"""Hunyuan's dense models (0.5B to 7B): Llama with norms of query and key heads that are rotated already."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.layers.attention import AttentionNames, HeadNormsSpec
from quire.engines.native.models.layers.norm import NormSpec
from quire.engines.native.models.layers.rope import RopeSpec
from quire.engines.native.models.plain import plain_decoder, read_shape
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec
from quire.weights.hub_config import HubConfig

NAMES = AttentionNames(q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `hunyuan_v1_dense`."""
    bias = config.flag("attention_bias")
    rope = _with_alpha(config, read_rope(config), read_shape(config).head_dim)
    spec = plain_decoder(config, rope=rope, norm=NormSpec(eps=1e-5))
    norms = HeadNormsSpec(spec.final_norm, after_rope=True)
    return spec.with_attention(qkv_bias=bias, o_bias=bias, norms=norms, names=NAMES)


def _with_alpha(config: HubConfig, rope: RopeSpec, head_dim: int) -> RopeSpec:
    """The rotary embedding of a config that calls it dynamic and has an alpha: its base is a larger one.

    Nothing about it follows the length of the text.
    """
    values = config.inner("rope", config.get("rope_scaling") or config.get("rope_parameters") or {})
    if rope.kind != "dynamic" or not values.get("alpha"):
        return rope
    theta = rope.theta * values.number("alpha", 1.0) ** (head_dim / (head_dim - 2))
    return dataclasses.replace(rope, kind="default", theta=theta, factor=1.0)
