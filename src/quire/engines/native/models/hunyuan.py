"""Hunyuan's dense models (0.5B to 7B): Llama with norms of query and key heads that are rotated already."""

from __future__ import annotations

import dataclasses

from quire.engines.native.models.classic import no_windows
from quire.engines.native.models.llama import common
from quire.engines.native.models.rope import read_rope
from quire.engines.native.models.spec import DecoderSpec, RopeSpec, WeightNames
from quire.weights.hub_config import HubConfig

NAMES = WeightNames(q_norm="self_attn.query_layernorm", k_norm="self_attn.key_layernorm")


def decoder(config: HubConfig) -> DecoderSpec:
    """The spec of a config whose model_type is `hunyuan_v1_dense`."""
    bias = config.flag("attention_bias")
    fields = common(config, rope=read_rope(config), norm_eps=1e-5)
    rope = _with_alpha(config, fields["rope"], fields["head_dim"])
    if rope is not fields["rope"]:
        fields |= {"rope": rope, "max_positions": config.integer("max_position_embeddings", 2048)}
    return DecoderSpec(
        **fields,
        windows=no_windows(config),
        qkv_bias=bias,
        o_bias=bias,
        head_norms=True,
        norms_after_rope=True,
        names=NAMES,
    )


def _with_alpha(config: HubConfig, rope: RopeSpec, head_dim: int) -> RopeSpec:
    """The rotary embedding of a config that calls it dynamic and has an alpha: its base is a larger one.

    Nothing about it follows the length of the text.
    """
    values = config.inner("rope", config.get("rope_scaling") or config.get("rope_parameters") or {})
    if rope.kind != "dynamic" or not values.get("alpha"):
        return rope
    theta = rope.theta * values.number("alpha", 1.0) ** (head_dim / (head_dim - 2))
    return dataclasses.replace(rope, kind="default", theta=theta, factor=1.0)
